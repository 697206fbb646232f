//! `database.json` of an archive: users, devices and groups as JSON. Read back, every name in it goes through its own parser:
//! it may have been written by anybody, and becomes lines of the broker's files.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, anyhow, bail, ensure};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_postgres::{Client, GenericClient, IsolationLevel};

use crate::broker::passwords::Hash;
use crate::cli::terminal::printable;
use crate::devices::export::{self as devices, ExportedDevice, ExportedGroup, ShutOut};
use crate::devices::groups;
use crate::devices::label::{self, DeviceType, Metadata, Name, Tag};
use crate::devices::registry::Description;
use crate::identity::export::{self as users, ExportedUser};
use crate::identity::users::CANARY;
use crate::observe::secret::Secret;
use crate::protocol::id::{DeviceIdRef, GroupId, Username};
use crate::protocol::rights::Role;

/// The form that this version writes and reads.
const FORMAT: u32 = 1;

/// What the database says of who may do what.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Registered {
    pub(super) users: Vec<ExportedUser>,
    pub(super) devices: Vec<ExportedDevice>,
    pub(super) groups: Vec<ExportedGroup>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    users: Vec<UserLine>,
    devices: Vec<DeviceLine>,
    groups: Vec<GroupLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct UserLine {
    username: String,
    role: String,
    password_hash: Option<String>,
    disabled_at: Option<Timestamp>,
    created_at: Timestamp,
    changed_at: Timestamp,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceLine {
    device: String,
    created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deleted_at: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    shut_out: Option<ShutOutLine>,
    // Archives made before there was such a thing have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    about: Option<AboutDevice>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShutOutLine {
    at: Timestamp,
    disabled: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct AboutDevice {
    name: Option<String>,
    device_type: Option<String>,
    tags: Vec<String>,
    metadata: Value,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupLine {
    group: String,
    created_at: Timestamp,
    members: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    match_tag: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    match_type: Option<String>,
}

impl Registered {
    /// Everything that the database has, of one moment.
    pub(super) async fn read(client: &mut Client) -> anyhow::Result<Self> {
        let moment = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let registered = Self::read_in(&moment).await?;
        moment.commit().await?;
        Ok(registered)
    }

    /// Everything that the database has, as a transaction sees it.
    pub(super) async fn read_in(client: &impl GenericClient) -> anyhow::Result<Self> {
        Ok(Self {
            users: users::read(client).await?,
            devices: devices::read_devices(client).await?,
            groups: devices::read_groups(client).await?,
        })
    }

    /// Puts this in the place of what the database has.
    pub(super) async fn write_in(&self, client: &impl GenericClient) -> anyhow::Result<()> {
        devices::replace(client, &self.devices, &self.groups).await?;
        users::replace(client, &self.users).await?;
        Ok(())
    }

    /// As it stands in an archive.
    pub(super) fn to_json(&self) -> String {
        let document = Document {
            format: FORMAT,
            users: self.users.iter().map(UserLine::of).collect(),
            devices: self.devices.iter().map(DeviceLine::of).collect(),
            groups: self.groups.iter().map(GroupLine::of).collect(),
        };
        serde_json::to_string_pretty(&document).expect("names are strings, and nothing else can fail")
    }

    /// Takes what stands in an archive, or nothing of it.
    pub(super) fn parse(text: &[u8]) -> anyhow::Result<Self> {
        // The error may cite what it did not expect.
        let document: Document = serde_json::from_slice(text).map_err(|error| anyhow!("{}", printable(&error.to_string())))?;
        let format = document.format;
        ensure!(format == FORMAT, "it has format {format}, and this version knows {FORMAT}");
        let mut registered = Self {
            users: document.users.iter().map(UserLine::parse).collect::<anyhow::Result<_>>()?,
            devices: document.devices.iter().map(DeviceLine::parse).collect::<anyhow::Result<_>>()?,
            groups: document.groups.iter().map(GroupLine::parse).collect::<anyhow::Result<_>>()?,
        };
        registered.check()?;
        registered.shut_out_devices_of_users();
        Ok(registered)
    }

    /// An archive made before there was such a thing says of users alone that they are shut out.
    fn shut_out_devices_of_users(&mut self) {
        let since: BTreeMap<&str, Timestamp> = self
            .users
            .iter()
            .filter(|user| user.role == Role::Device)
            .filter_map(|user| Some((user.username.as_str(), user.disabled_at?)))
            .collect();
        for device in &mut self.devices {
            let of_user = since.get(device.id.as_str()).map(|at| ShutOut { at: *at, disabled: true });
            device.shut_out = device.shut_out.or(of_user);
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        unique("user", self.users.iter().map(|user| user.username.as_str()))?;
        unique("group", self.groups.iter().map(|group| group.id.as_str()))?;
        let devices = unique("device", self.devices.iter().map(|device| device.id.as_str()))?;
        for group in &self.groups {
            let members = unique("member", group.members.iter().map(|member| member.as_str()))?;
            if let Some(stranger) = members.difference(&devices).next() {
                bail!("the group {} has the member {stranger}, which is not among the devices", group.id);
            }
        }
        Ok(())
    }
}

fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> anyhow::Result<BTreeSet<&'a str>> {
    let mut seen = BTreeSet::new();
    for name in names {
        ensure!(seen.insert(name), "the {what} {name} is there twice");
    }
    Ok(seen)
}

impl UserLine {
    fn of(user: &ExportedUser) -> Self {
        Self {
            username: user.username.as_str().to_owned(),
            role: user.role.as_str().to_owned(),
            password_hash: user.password_hash.as_ref().map(|hash| hash.reveal().to_owned()),
            disabled_at: user.disabled_at,
            created_at: user.created_at,
            changed_at: user.changed_at,
        }
    }

    fn parse(&self) -> anyhow::Result<ExportedUser> {
        // Debug spells out what a terminal would obey.
        let at = || format!("the user {:?}", self.username);
        let username = match self.password_hash {
            Some(_) => Username::with_password(&self.username),
            None => Username::parse(&self.username),
        };
        let username = username.with_context(at)?;
        ensure!(username.as_str() != CANARY, "the user {username}: the name is the broker's own");
        let hash = self.password_hash.as_deref().map(Hash::parse).transpose().with_context(at)?;
        Ok(ExportedUser {
            username,
            role: self.role.parse().with_context(at)?,
            password_hash: hash.map(|hash| Secret::new(hash.as_str())),
            disabled_at: self.disabled_at,
            created_at: self.created_at,
            changed_at: self.changed_at,
        })
    }
}

impl DeviceLine {
    fn of(device: &ExportedDevice) -> Self {
        Self {
            device: device.id.as_str().to_owned(),
            created_at: device.created_at,
            deleted_at: device.deleted_at,
            shut_out: device.shut_out.map(|ShutOut { at, disabled }| ShutOutLine { at, disabled }),
            about: device.description.as_ref().map(AboutDevice::of),
        }
    }

    fn parse(&self) -> anyhow::Result<ExportedDevice> {
        let id = DeviceIdRef::parse(&self.device).with_context(|| format!("the device {:?}", self.device))?;
        let about = self.about.as_ref().map(AboutDevice::parse).transpose();
        Ok(ExportedDevice {
            id: id.to_owned(),
            created_at: self.created_at,
            deleted_at: self.deleted_at,
            shut_out: self.shut_out.as_ref().map(|line| ShutOut {
                at: line.at,
                disabled: line.disabled,
            }),
            description: about.with_context(|| format!("the device {:?}", self.device))?,
        })
    }
}

impl AboutDevice {
    fn of(description: &Description) -> Self {
        Self {
            name: description.name.as_ref().map(ToString::to_string),
            device_type: description.device_type.as_ref().map(ToString::to_string),
            tags: description.tags.iter().map(ToString::to_string).collect(),
            metadata: description.metadata.to_value(),
        }
    }

    fn parse(&self) -> anyhow::Result<Description> {
        Ok(Description {
            name: self.name.as_deref().map(Name::parse).transpose()?,
            device_type: self.device_type.as_deref().map(DeviceType::parse).transpose()?,
            tags: label::tags(&self.tags)?,
            metadata: Metadata::new(self.metadata.clone())?,
        })
    }
}

impl GroupLine {
    fn of(group: &ExportedGroup) -> Self {
        Self {
            group: group.id.as_str().to_owned(),
            created_at: group.created_at,
            members: group.members.iter().map(|member| member.as_str().to_owned()).collect(),
            name: group.description.name.as_ref().map(ToString::to_string),
            match_tag: group.description.match_tag.as_ref().map(ToString::to_string),
            match_type: group.description.match_type.as_ref().map(ToString::to_string),
        }
    }

    fn parse(&self) -> anyhow::Result<ExportedGroup> {
        let member = |id: &String| {
            let member = DeviceIdRef::parse(id).with_context(|| format!("the member {id:?} of the group {:?}", self.group))?;
            anyhow::Ok(member.to_owned())
        };
        let at = || format!("the group {:?}", self.group);
        Ok(ExportedGroup {
            id: GroupId::parse(&self.group).with_context(at)?,
            created_at: self.created_at,
            description: groups::Description {
                name: self.name.as_deref().map(Name::parse).transpose().with_context(at)?,
                match_tag: self.match_tag.as_deref().map(Tag::parse).transpose().with_context(at)?,
                match_type: self.match_type.as_deref().map(DeviceType::parse).transpose().with_context(at)?,
            },
            members: self.members.iter().map(member).collect::<anyhow::Result<_>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn sound() -> Value {
        let hash = Hash::of_generated(&Secret::new("x")).expect("randomness");
        let at = "2026-01-02T03:04:05.678901Z";
        json!({
            "format": 1,
            "users": [
                {"username": "pump-1", "role": "device", "password_hash": hash.as_str(), "disabled_at": null, "created_at": at, "changed_at": at},
                {"username": "aa:bb", "role": "device", "password_hash": null, "disabled_at": at, "created_at": at, "changed_at": at},
            ],
            "devices": [
                {"device": "pump-1", "created_at": at},
                {"device": "aa:bb", "created_at": at, "about": {"name": "Bob's", "device_type": null, "tags": ["red"], "metadata": {"a": 1}}},
            ],
            "groups": [
                {"group": "north", "created_at": at, "members": ["pump-1"]},
                {"group": "reds", "created_at": at, "members": ["aa:bb"], "name": "Reds", "match_tag": "red"},
            ],
        })
    }

    fn parse(document: &Value) -> anyhow::Result<Registered> {
        Registered::parse(document.to_string().as_bytes())
    }

    #[test]
    fn what_is_written_is_read() {
        let registered = parse(&sound()).expect("it is sound");
        assert_eq!(Registered::parse(registered.to_json().as_bytes()).expect("it is sound"), registered);
        assert!(!format!("{registered:?}").contains("$7$"), "hashes do not print");
        let shut_out: Vec<bool> = registered.devices.iter().map(|device| device.shut_out.is_some()).collect();
        assert_eq!(shut_out, [false, true], "an archive of before says so of the user");
    }

    #[test]
    fn whatever_is_not_of_its_grammar_refuses_all_of_it() {
        for (at, value) in [
            ("/format", json!(2)),
            ("/users/0/username", json!("x\ny:$7$101$")),
            ("/users/0/username", json!("aa:cc")),
            ("/users/0/username", json!("../x")),
            ("/users/0/username", json!(CANARY)),
            ("/users/1/username", json!("pump-1")),
            ("/users/0/role", json!("root")),
            ("/users/0/password_hash", json!("$7$101$a\nb$c")),
            ("/users/0/changed_at", json!("yesterday")),
            ("/devices/0/device", json!("a/#")),
            ("/devices/0/device", json!("aa:bb")),
            ("/devices/1/about/name", json!("two\nlines")),
            ("/devices/1/about/metadata", json!(["\u{1b}[2J"])),
            ("/groups/1/match_tag", json!("\u{1b}[2J")),
            ("/groups/0/group", json!("+")),
            ("/groups/0/members/0", json!("pump 1")),
            ("/groups/0/members/0", json!("pump-2")),
            ("/groups/0", json!({"group": "north", "members": [], "\u{1b}[2J": 1})),
        ] {
            let mut document = sound();
            *document.pointer_mut(at).expect("it is there") = value.clone();
            let refused = parse(&document);
            assert!(refused.is_err(), "{at} = {value} is taken");
            let text = format!("{:#}", refused.expect_err("it is refused"));
            assert!(!text.contains(char::is_control), "{text:?}");
        }
    }
}
