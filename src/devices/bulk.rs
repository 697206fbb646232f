//! Many devices at once, for whoever brings or takes a whole fleet: each step is one statement for all of them.

use std::collections::HashMap;

use serde_json::Value;
use tokio_postgres::{Error, GenericClient};

use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};

use super::groups;
use super::list::Page;
use super::registry::{self, Description};

// Only lists: membership of a dynamic group follows from what is here already.
const LISTS: &str = "
    ARRAY(SELECT m.group_id FROM device_group_members m JOIN device_groups g USING (group_id)
          WHERE m.device_id = d.device_id AND g.match_tag IS NULL AND g.match_type IS NULL ORDER BY 1)";
const PUT: &str = "
    INSERT INTO devices AS known (device, display_name, device_type, tags, metadata)
    SELECT device, name, device_type, ARRAY(SELECT jsonb_array_elements_text(tags)), metadata
    FROM unnest($1::text[], $2::text[], $3::text[], $4::jsonb[], $5::jsonb[]) AS news (device, name, device_type, tags, metadata)
    ORDER BY device
    ON CONFLICT (device) DO UPDATE
        SET display_name = excluded.display_name, device_type = excluded.device_type, tags = excluded.tags, metadata = excluded.metadata,
            created_at = CASE WHEN known.deleted_at IS NULL THEN known.created_at ELSE now() END,
            shut_out_at = CASE WHEN known.deleted_at IS NULL THEN known.shut_out_at END,
            disabled = known.disabled AND known.deleted_at IS NULL,
            deleted_at = NULL, updated_at = now(), revision = known.revision + 1
    RETURNING device, device_id";
const LEAVE: &str = "
    DELETE FROM device_group_members m USING device_groups g
    WHERE g.group_id = m.group_id AND g.match_tag IS NULL AND g.match_type IS NULL AND m.device_id = ANY ($1::int4[])
      AND NOT EXISTS (SELECT FROM unnest($2::int4[], $3::text[]) AS kept (device_id, group_id)
                      WHERE kept.device_id = m.device_id AND kept.group_id = m.group_id)";
/// Held by the import that is at it: two at once would answer for one device twice, and wait for each other. "iotfimp" in ASCII.
const TURN: i64 = 0x69_6f74_6669_6d70;

/// A device as it is brought and taken: what people say of it, and the lists it is on.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Its number.
    pub number: i32,
    /// Its id.
    pub id: DeviceId,
    /// What people call it.
    pub name: Option<String>,
    /// What kind it is.
    pub device_type: Option<String>,
    /// What it is gathered by.
    pub tags: Vec<String>,
    /// What else is known.
    pub metadata: Value,
    /// The groups it was put into, by id.
    pub lists: Vec<String>,
}

/// The devices after the id `after`, at most `limit`, in the order of their ids.
///
/// # Errors
/// The database's.
pub async fn page(client: &impl GenericClient, after: Option<&str>, limit: usize) -> Result<Page<Known>, Error> {
    let statement = format!(
        "SELECT d.device_id, d.device, d.display_name, d.device_type, d.tags, d.metadata, {LISTS} FROM devices d
         WHERE d.deleted_at IS NULL AND ($1::text IS NULL OR d.device > $1) ORDER BY d.device LIMIT $2"
    );
    let rows = client
        .query(&statement, &[&after, &i64::try_from(limit + 1).unwrap_or(i64::MAX)])
        .await?;
    let devices = rows.iter().map(known).collect::<Result<_, _>>()?;
    Ok(Page::new(devices, limit, |device: &Known| device.id.as_str().to_owned()))
}

/// Those of `ids` that are there, held against other changes until the end of the transaction.
///
/// # Errors
/// The database's.
pub async fn lock(client: &impl GenericClient, ids: &[&str]) -> Result<HashMap<DeviceId, Known>, Error> {
    let statement = format!(
        "SELECT d.device_id, d.device, d.display_name, d.device_type, d.tags, d.metadata, {LISTS} FROM devices d
         WHERE d.deleted_at IS NULL AND d.device = ANY ($1::text[]) ORDER BY d.device FOR NO KEY UPDATE OF d"
    );
    let rows = client.query(&statement, &[&ids]).await?;
    rows.iter().map(|row| known(row).map(|known| (known.id.clone(), known))).collect()
}

/// Waits until no other import is in the middle of a transaction, until the end of this one.
///
/// # Errors
/// The database's.
pub async fn take_turn(client: &impl GenericClient) -> Result<(), Error> {
    client.execute("SELECT pg_advisory_xact_lock($1)", &[&TURN]).await.map(drop)
}

/// Registers devices, or changes them; returns their numbers by id.
///
/// # Errors
/// The database's.
pub async fn put(client: &impl GenericClient, devices: &[(&DeviceId, &Description)]) -> Result<HashMap<String, i32>, Error> {
    let mut columns = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, description) in devices {
        let (name, device_type, tags, metadata) = registry::columns(description);
        columns.0.push(id.as_str());
        columns.1.push(name);
        columns.2.push(device_type);
        columns.3.push(Value::from(tags));
        columns.4.push(metadata);
    }
    let rows = client
        .query(PUT, &[&columns.0, &columns.1, &columns.2, &columns.3, &columns.4])
        .await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Puts devices on these lists, which were opened, and on no others.
///
/// # Errors
/// The database's.
pub async fn set_lists(client: &impl GenericClient, devices: &[(i32, &[GroupId])]) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    let numbers: Vec<i32> = devices.iter().map(|(number, _)| *number).collect();
    let (of, lists): (Vec<i32>, Vec<&str>) = devices
        .iter()
        .flat_map(|(number, groups)| groups.iter().map(|group| (*number, group.as_str())))
        .unzip();
    client.execute(LEAVE, &[&numbers, &of, &lists]).await?;
    groups::join(client, &of, &lists).await
}

fn known(row: &tokio_postgres::Row) -> Result<Known, Error> {
    let id = DeviceIdRef::parse(row.try_get(1)?).expect("devices.device has a check of the same grammar");
    Ok(Known {
        number: row.try_get(0)?,
        id: id.to_owned(),
        name: row.try_get(2)?,
        device_type: row.try_get(3)?,
        tags: row.try_get(4)?,
        metadata: row.try_get(5)?,
        lists: row.try_get(6)?,
    })
}
