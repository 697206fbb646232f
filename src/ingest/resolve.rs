//! Names become ids: devices and metric sets that a batch met for the first time are looked up, or registered.

use deadpool_postgres::ClientWrapper;
use tokio_postgres::{Error, Transaction};

use crate::protocol::id::DeviceId;
use crate::protocol::payload::split_names;

/// A device that was deleted is no new one, and what it sends brings it not back: its rows get its number, as before.
///
/// Inserts what is missing, in order, so that replicas that learn the same names do not wait for each other in a circle;
/// only what is missing, so that no ids are used up.
const ADD_DEVICES: &str = "
    INSERT INTO devices (device)
    SELECT id FROM unnest($1::text[]) AS ids (id)
    WHERE NOT EXISTS (SELECT FROM devices WHERE device = id)
    ORDER BY id
    ON CONFLICT (device) DO NOTHING";
const DEVICE_IDS: &str =
    "SELECT device_id FROM unnest($1::text[]) WITH ORDINALITY AS ids (id, place) JOIN devices ON device = id ORDER BY place";
const ADD_METRICS: &str = "
    INSERT INTO metrics (name)
    SELECT name FROM unnest($1::text[]) AS names (name)
    WHERE NOT EXISTS (SELECT FROM metrics WHERE metrics.name = names.name)
    ORDER BY name
    ON CONFLICT (name) DO NOTHING";
const ADD_SET: &str = "
    INSERT INTO metric_sets (kind, extra_names, fingerprint) VALUES ($1, $2, sha256($3))
    ON CONFLICT (fingerprint) DO NOTHING RETURNING metric_set_id";
const ADD_MEMBERS: &str = "
    INSERT INTO metric_set_members (metric_set_id, position, metric_id)
    SELECT $1, place, metric_id FROM unnest($2::text[]) WITH ORDINALITY AS names (name, place) JOIN metrics USING (name)";
const SET_ID: &str = "SELECT metric_set_id FROM metric_sets WHERE fingerprint = sha256($1)";

/// The ids of `devices`, in their order.
///
/// # Errors
/// The server's.
pub async fn devices(client: &ClientWrapper, devices: &[DeviceId]) -> Result<Vec<i32>, Error> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
    client.execute(ADD_DEVICES, &[&names]).await?;
    Ok(client.query(DEVICE_IDS, &[&names]).await?.iter().map(|row| row.get(0)).collect())
}

/// The ids of metric sets, given as canonical lists of names, in their order.
///
/// # Errors
/// The server's.
pub async fn metric_sets(client: &mut ClientWrapper, sets: &[Box<[u8]>]) -> Result<Vec<i32>, Error> {
    if sets.is_empty() {
        return Ok(Vec::new());
    }
    let transaction = client.build_transaction().start().await?;
    let mut ids = vec![0; sets.len()];
    let mut order: Vec<usize> = (0..sets.len()).collect();
    order.sort_unstable_by(|a, b| sets[*a].cmp(&sets[*b]));
    for index in order {
        ids[index] = metric_set(&transaction, &sets[index]).await?;
    }
    transaction.commit().await?;
    Ok(ids)
}

async fn metric_set(transaction: &Transaction<'_>, names: &[u8]) -> Result<i32, Error> {
    if let Some(row) = transaction.query_opt(SET_ID, &[&names]).await? {
        return Ok(row.get(0));
    }
    let (kind, numbers, extras) = split_names(names);
    transaction.execute(ADD_METRICS, &[&numbers]).await?;
    match transaction.query_opt(ADD_SET, &[&i16::from(kind), &extras, &names]).await? {
        Some(row) => {
            let id: i32 = row.get(0);
            transaction.execute(ADD_MEMBERS, &[&id, &numbers]).await?;
            Ok(id)
        }
        // Another replica learned it between our two statements, and has committed.
        None => Ok(transaction.query_one(SET_ID, &[&names]).await?.get(0)),
    }
}
