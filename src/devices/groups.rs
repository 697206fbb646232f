//! Groups of devices: membership is the right to read the group's commands.
//!
//! A group is a list, to which devices are added, or dynamic: whoever has its tag or is of its type is a member, which the database
//! sees to by itself (`migrations/V6__operations.sql`, and `V8__shut_out.sql`, which has the order in which all take their locks).

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio_postgres::{Error, GenericClient, Row};
use utoipa::ToSchema;

use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};

use super::label::{BadLabel, DeviceType, Name, Tag};
use super::list::{MAX_PAGE, Page};
use super::patch::{BadPatch, text};

/// The most devices that are added or removed at once.
pub const MAX_MEMBERS: usize = 10_000;

// In one order, here and below, so that two who do it do not wait for each other.
const ENSURE: &str = "
    INSERT INTO device_groups (group_id) SELECT DISTINCT id FROM unnest($1::text[]) AS ids (id) ORDER BY id ON CONFLICT (group_id) DO NOTHING";
const HOLD: &str = "
    SELECT group_id, match_tag IS NOT NULL OR match_type IS NOT NULL FROM device_groups
    WHERE group_id = ANY ($1::text[]) ORDER BY group_id FOR SHARE";
const JOIN: &str = "
    INSERT INTO device_group_members (group_id, device_id)
    SELECT group_id, device_id FROM unnest($1::int4[], $2::text[]) AS news (device_id, group_id) ORDER BY group_id, device_id
    ON CONFLICT DO NOTHING";
const CREATE: &str = "
    INSERT INTO device_groups (group_id, name, match_tag, match_type) VALUES ($1, $2, $3, $4) ON CONFLICT (group_id) DO NOTHING";
const COLUMNS: &str = "g.group_id, g.name, g.match_tag, g.match_type, g.created_at, g.updated_at, g.revision, \
    (SELECT count(*) FROM device_group_members m WHERE m.group_id = g.group_id)";
const LOCK: &str =
    "SELECT revision, match_tag IS NOT NULL OR match_type IS NOT NULL FROM device_groups WHERE group_id = $1 FOR NO KEY UPDATE";
const UPDATE: &str = "
    UPDATE device_groups SET name = $2, match_tag = $3, match_type = $4, revision = revision + 1, updated_at = now() WHERE group_id = $1";
const DELETE: &str = "DELETE FROM device_groups WHERE group_id = $1";
const MEMBERS: &str = "
    SELECT d.device FROM device_group_members m JOIN devices d USING (device_id)
    WHERE m.group_id = $1 AND ($2::text IS NULL OR d.device > $2) AND d.deleted_at IS NULL ORDER BY d.device LIMIT $3";
const UNKNOWN: &str = "
    SELECT id FROM unnest($1::text[]) AS ids (id)
    WHERE NOT EXISTS (SELECT FROM devices WHERE device = id AND deleted_at IS NULL) LIMIT 10";
const ADD_MANY: &str = "
    INSERT INTO device_group_members (group_id, device_id)
    SELECT $1, device_id FROM devices WHERE device = ANY ($2::text[]) AND deleted_at IS NULL ORDER BY device_id
    ON CONFLICT DO NOTHING";
const REMOVE_MANY: &str = "
    DELETE FROM device_group_members
    WHERE group_id = $1 AND device_id IN (SELECT device_id FROM devices WHERE device = ANY ($2::text[]))";

/// A group. Its texts are as people wrote them: escape them before a terminal sees them.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Group {
    /// Its id, which stands in its topics.
    #[schema(pattern = "^[A-Za-z0-9_.:-]{1,64}$", example = "north")]
    pub group_id: String,
    /// What people call it.
    pub name: Option<String>,
    /// Whether its members follow from a tag or a type.
    pub dynamic: bool,
    /// Devices with this tag are its members.
    pub match_tag: Option<String>,
    /// Devices of this type are; with a tag too, those that fit both.
    pub match_type: Option<String>,
    /// How many members it has.
    pub members: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed, its members aside.
    pub updated_at: Timestamp,
    /// Moved on by every change, its members aside.
    pub revision: i32,
}

/// What people say of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Description {
    /// What they call it.
    pub name: Option<Name>,
    /// Whose tag its members have.
    pub match_tag: Option<Tag>,
    /// Of what type its members are.
    pub match_type: Option<DeviceType>,
}

/// A change of it as a JSON merge patch: `None` is absent, `Some(None)` is null.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Patch {
    /// What people call it.
    pub name: Option<Option<Name>>,
    /// Whose tag its members have.
    pub match_tag: Option<Option<Tag>>,
    /// Of what type its members are.
    pub match_type: Option<Option<DeviceType>>,
}

/// Why a group is not found, or not changed.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// There is none.
    #[error("there is no group {0}")]
    Unknown(GroupId),
    /// There is one.
    #[error("there is a group {0} already; change it, or take another id")]
    Exists(GroupId),
    /// Somebody else changed it in between.
    #[error("the group {id} is at revision {is}, and not at {expected}; read it again, and decide again")]
    Revision {
        /// Which.
        id: GroupId,
        /// The revision that was asked for.
        expected: i32,
        /// The revision that it has.
        is: i32,
    },
    /// Its members are not anybody's to choose.
    #[error("the members of {0} follow from its tag or type: change those of the devices, or take match_tag and match_type off the group")]
    Dynamic(GroupId),
    /// Devices that there are none of.
    #[error("there is no device {}; nothing was changed", .0.join(", nor "))]
    NoDevice(Vec<String>),
    /// Too many at once.
    #[error("{MAX_MEMBERS} devices at most are added or removed at once; these are {0}")]
    TooMany(usize),
    /// What is stored is not as it should be.
    #[error(transparent)]
    Label(#[from] BadLabel),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// [`BadPatch`].
    pub fn parse(value: &Value) -> Result<Self, BadPatch> {
        let members = value.as_object().ok_or(BadPatch::NoObject)?;
        let mut patch = Self::default();
        for (name, value) in members {
            match name.as_str() {
                "name" => patch.name = Some(text("name", value)?.map(Name::parse).transpose()?),
                "match_tag" => patch.match_tag = Some(text("match_tag", value)?.map(Tag::parse).transpose()?),
                "match_type" => patch.match_type = Some(text("match_type", value)?.map(DeviceType::parse).transpose()?),
                other => return Err(BadPatch::Member(other.chars().take(64).collect(), "name, match_tag and match_type")),
            }
        }
        Ok(patch)
    }

    fn apply(&self, group: &Group) -> Result<Description, BadLabel> {
        Ok(Description {
            name: match &self.name {
                Some(name) => name.clone(),
                None => group.name.as_deref().map(Name::parse).transpose()?,
            },
            match_tag: match &self.match_tag {
                Some(tag) => tag.clone(),
                None => group.match_tag.as_deref().map(Tag::parse).transpose()?,
            },
            match_type: match &self.match_type {
                Some(kind) => kind.clone(),
                None => group.match_type.as_deref().map(DeviceType::parse).transpose()?,
            },
        })
    }
}

const OF_DEVICE: &str = "
    SELECT coalesce(array_agg(m.group_id ORDER BY m.group_id) FILTER (WHERE m.group_id IS NOT NULL), '{}')
    FROM devices d LEFT JOIN device_group_members m USING (device_id)
    WHERE d.device = $1 AND d.deleted_at IS NULL
    GROUP BY d.device_id";

/// The groups that a device is a member of, by id; none where there is no such device.
///
/// # Errors
/// The database's.
pub async fn of_device(client: &impl GenericClient, device: DeviceIdRef<'_>) -> Result<Option<Vec<GroupId>>, Error> {
    let Some(row) = client.query_opt(OF_DEVICE, &[&device.as_str()]).await? else {
        return Ok(None);
    };
    let groups: Vec<&str> = row.try_get(0)?;
    // The table's own check is the grammar's.
    Ok(Some(groups.into_iter().filter_map(|group| GroupId::parse(group).ok()).collect()))
}

/// Makes a group.
///
/// # Errors
/// [`GroupError::Exists`], or the database's.
pub async fn create(client: &impl GenericClient, id: &GroupId, description: &Description) -> Result<(), GroupError> {
    let (name, tag, kind) = columns(description);
    match client.execute(CREATE, &[&id.as_str(), &name, &tag, &kind]).await? {
        0 => Err(GroupError::Exists(id.clone())),
        _ => Ok(()),
    }
}

/// A group.
///
/// # Errors
/// [`GroupError::Unknown`], or the database's.
pub async fn get(client: &impl GenericClient, id: &GroupId) -> Result<Group, GroupError> {
    let statement = format!("SELECT {COLUMNS} FROM device_groups g WHERE g.group_id = $1");
    let row = client.query_opt(&statement, &[&id.as_str()]).await?;
    Ok(group(&row.ok_or_else(|| GroupError::Unknown(id.clone()))?)?)
}

/// The groups after the id `after`, at most `limit` and [`MAX_PAGE`].
///
/// # Errors
/// The database's.
pub async fn list(client: &impl GenericClient, after: Option<&str>, limit: usize) -> Result<Page<Group>, Error> {
    let limit = limit.clamp(1, MAX_PAGE);
    let statement =
        format!("SELECT {COLUMNS} FROM device_groups g WHERE ($1::text IS NULL OR g.group_id > $1) ORDER BY g.group_id LIMIT $2");
    let rows = client.query(&statement, &[&after, &one_more(limit)]).await?;
    let groups = rows.iter().map(group).collect::<Result<_, _>>()?;
    Ok(Page::new(groups, limit, |group: &Group| group.group_id.clone()))
}

/// Holds a group against other changes until the end of the transaction; returns whether it is dynamic.
///
/// # Errors
/// [`GroupError::Unknown`], [`GroupError::Revision`], or the database's.
pub async fn lock(client: &impl GenericClient, id: &GroupId, expected: Option<i32>) -> Result<bool, GroupError> {
    let row = client.query_opt(LOCK, &[&id.as_str()]).await?;
    let row = row.ok_or_else(|| GroupError::Unknown(id.clone()))?;
    let is = row.try_get(0)?;
    match expected {
        Some(expected) if expected != is => Err(GroupError::Revision {
            id: id.clone(),
            expected,
            is,
        }),
        _ => Ok(row.try_get(1)?),
    }
}

/// Changes a group, within a transaction; returns it as it is now, and whether anything is another than before.
///
/// # Errors
/// See [`GroupError`].
pub async fn patch(client: &impl GenericClient, id: &GroupId, patch: &Patch, expected: Option<i32>) -> Result<(Group, bool), GroupError> {
    lock(client, id, expected).await?;
    let before = get(client, id).await?;
    let after = patch.apply(&before)?;
    let (name, tag, kind) = columns(&after);
    if (name, tag, kind) == (before.name.as_deref(), before.match_tag.as_deref(), before.match_type.as_deref()) {
        return Ok((before, false));
    }
    client.execute(UPDATE, &[&id.as_str(), &name, &tag, &kind]).await?;
    Ok((get(client, id).await?, true))
}

/// Deletes a group; its members stay what they are.
///
/// # Errors
/// The database's.
pub async fn delete(client: &impl GenericClient, id: &GroupId) -> Result<(), Error> {
    client.execute(DELETE, &[&id.as_str()]).await.map(drop)
}

/// The ids of the members after the id `after`, at most `limit` and [`MAX_PAGE`].
///
/// # Errors
/// [`GroupError::Unknown`], or the database's.
pub async fn members(client: &impl GenericClient, id: &GroupId, after: Option<&str>, limit: usize) -> Result<Page<String>, GroupError> {
    let limit = limit.clamp(1, MAX_PAGE);
    let rows = client.query(MEMBERS, &[&id.as_str(), &after, &one_more(limit)]).await?;
    if rows.is_empty() {
        // No members, or no group.
        get(client, id).await?;
    }
    let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?;
    Ok(Page::new(ids, limit, String::clone))
}

/// Makes devices members of a list, or ends their membership, all of it or nothing; returns of how many it changed anything. For a
/// transaction.
///
/// # Errors
/// See [`GroupError`].
pub async fn set_members(client: &impl GenericClient, id: &GroupId, devices: &[DeviceId], member: bool) -> Result<u64, GroupError> {
    if devices.len() > MAX_MEMBERS {
        return Err(GroupError::TooMany(devices.len()));
    }
    if lock(client, id, None).await? {
        return Err(GroupError::Dynamic(id.clone()));
    }
    let ids: Vec<&str> = devices.iter().map(DeviceId::as_str).collect();
    let unknown: Vec<String> = client.query(UNKNOWN, &[&ids]).await?.iter().map(|row| row.get(0)).collect();
    if !unknown.is_empty() {
        return Err(GroupError::NoDevice(unknown));
    }
    let statement = if member { ADD_MANY } else { REMOVE_MANY };
    Ok(client.execute(statement, &[&id.as_str(), &ids]).await?)
}

/// Makes those of these lists that there are none of, and holds all of them; see [`hold`].
///
/// # Errors
/// The database's.
pub async fn open(client: &impl GenericClient, groups: &[&str]) -> Result<Vec<GroupId>, Error> {
    if groups.is_empty() {
        return Ok(Vec::new());
    }
    client.execute(ENSURE, &[&groups]).await?;
    hold(client, groups).await
}

/// Holds those of these groups that are there as they are until the end of the transaction: before any device is held. Returns those
/// that are no lists, but dynamic.
///
/// # Errors
/// The database's.
pub async fn hold(client: &impl GenericClient, groups: &[&str]) -> Result<Vec<GroupId>, Error> {
    let rows = client.query(HOLD, &[&groups]).await?;
    let dynamic = rows.iter().filter(|row| row.get(1));
    // The table's own check is the grammar's.
    Ok(dynamic.filter_map(|row| GroupId::parse(row.get(0)).ok()).collect())
}

/// Makes each of `devices` a member of the list at its place in `groups`, which was opened, within a transaction.
///
/// # Errors
/// The database's.
pub async fn join(client: &impl GenericClient, devices: &[i32], groups: &[&str]) -> Result<(), Error> {
    if devices.is_empty() {
        return Ok(());
    }
    client.execute(JOIN, &[&devices, &groups]).await.map(drop)
}

pub(super) fn columns(description: &Description) -> (Option<&str>, Option<&str>, Option<&str>) {
    (
        description.name.as_ref().map(Name::as_str),
        description.match_tag.as_ref().map(Tag::as_str),
        description.match_type.as_ref().map(DeviceType::as_str),
    )
}

fn one_more(limit: usize) -> i64 {
    i64::try_from(limit + 1).unwrap_or(i64::MAX)
}

fn group(row: &Row) -> Result<Group, Error> {
    let (match_tag, match_type): (Option<String>, Option<String>) = (row.try_get(2)?, row.try_get(3)?);
    Ok(Group {
        group_id: row.try_get(0)?,
        name: row.try_get(1)?,
        dynamic: match_tag.is_some() || match_type.is_some(),
        match_tag,
        match_type,
        created_at: row.try_get(4)?,
        updated_at: row.try_get(5)?,
        revision: row.try_get(6)?,
        members: row.try_get(7)?,
    })
}
