//! The newest value of each metric: of one device, or of a group's members, a page at a time. At most about a second behind.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio_postgres::types::Json;
use tokio_postgres::{Error, GenericClient};
use utoipa::ToSchema;

use crate::db::page::MAX_BYTES;
use crate::protocol::id::GroupId;

/// Members whose values are read at once: a page ends behind those with which it is full.
const MEMBERS_AT_ONCE: usize = 50;

const NUMBERS: &str = "
    SELECT DISTINCT ON (l.device_id, m.name) l.device_id, m.name, l.\"time\", l.\"values\"[b.position]
    FROM latest l JOIN metric_set_members b USING (metric_set_id) JOIN metrics m USING (metric_id)
    WHERE l.device_id = ANY ($1) AND l.\"values\"[b.position] IS NOT NULL
    ORDER BY l.device_id, m.name, l.\"time\" DESC, l.metric_set_id DESC";
const EXTRAS: &str = "
    SELECT DISTINCT ON (l.device_id, e.key) l.device_id, e.key, l.\"time\", e.value
    FROM latest l, jsonb_each(l.extra) AS e (key, value)
    WHERE l.device_id = ANY ($1) AND jsonb_typeof(l.extra) = 'object'
    ORDER BY l.device_id, e.key, l.\"time\" DESC, l.metric_set_id DESC";
const GROUP: &str = "SELECT FROM device_groups WHERE group_id = $1";
const MEMBERS: &str = "
    SELECT d.device, d.device_id FROM device_group_members m JOIN devices d USING (device_id)
    WHERE m.group_id = $1 AND d.deleted_at IS NULL AND ($2::text IS NULL OR d.device > $2)
    ORDER BY d.device LIMIT $3";

/// A value and when it was measured.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Newest<T> {
    /// When.
    pub time: Timestamp,
    /// What.
    pub value: T,
}

/// The newest there is of a device.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Latest {
    /// Its numbers, by metric.
    pub values: BTreeMap<String, Newest<f64>>,
    /// What was not a number, by name.
    #[schema(value_type = BTreeMap<String, Newest<Value>>)]
    pub extra: BTreeMap<String, Newest<Box<RawValue>>>,
}

/// A member of a group, and the newest there is of it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct Member {
    /// Its id.
    pub device_id: String,
    /// What it sent last.
    #[serde(flatten)]
    pub latest: Latest,
}

/// The newest values of a device; of one that never sent anything, none.
///
/// # Errors
/// The database's.
pub async fn of_device(client: &impl GenericClient, device_id: i32) -> Result<Latest, Error> {
    Ok(of_devices(client, &[device_id]).await?.0.remove(&device_id).unwrap_or_default())
}

/// The newest values of a group's members in the order of their ids, behind that of `after`, at most `limit` members, and fewer
/// where they have large ones; and whether there are more members. `None` where there is no such group.
///
/// # Errors
/// The database's.
pub async fn of_group(
    client: &impl GenericClient,
    group: &GroupId,
    after: Option<&str>,
    limit: u32,
) -> Result<Option<(Vec<Member>, bool)>, Error> {
    if client.query_opt(GROUP, &[&group.as_str()]).await?.is_none() {
        return Ok(None);
    }
    let rows = client.query(MEMBERS, &[&group.as_str(), &after, &(i64::from(limit) + 1)]).await?;
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(rows.len());
    let (mut members, mut bytes) = (Vec::with_capacity(limit), 0);
    for some in rows[..limit].chunks(MEMBERS_AT_ONCE) {
        let numbers: Vec<i32> = some.iter().map(|row| row.get(1)).collect();
        let (mut latest, came) = of_devices(client, &numbers).await?;
        members.extend(some.iter().zip(&numbers).map(|(row, number)| Member {
            device_id: row.get(0),
            latest: latest.remove(number).unwrap_or_default(),
        }));
        bytes += came;
        if bytes >= MAX_BYTES {
            break;
        }
    }
    let more = members.len() < rows.len();
    Ok(Some((members, more)))
}

/// What there is of each, and how many bytes it was.
async fn of_devices(client: &impl GenericClient, devices: &[i32]) -> Result<(BTreeMap<i32, Latest>, usize), Error> {
    let (mut found, mut bytes): (BTreeMap<i32, Latest>, usize) = Default::default();
    for row in client.query(NUMBERS, &[&devices]).await? {
        bytes += row.raw_size_bytes();
        let newest = Newest {
            time: row.try_get(2)?,
            value: row.try_get(3)?,
        };
        found.entry(row.try_get(0)?).or_default().values.insert(row.try_get(1)?, newest);
    }
    for row in client.query(EXTRAS, &[&devices]).await? {
        bytes += row.raw_size_bytes();
        let newest = Newest {
            time: row.try_get(2)?,
            value: row.try_get::<_, Json<_>>(3)?.0,
        };
        found.entry(row.try_get(0)?).or_default().extra.insert(row.try_get(1)?, newest);
    }
    Ok((found, bytes))
}
