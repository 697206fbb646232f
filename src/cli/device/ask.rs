//! What is meant by the command line of `iotflow device`: judged before the database is asked.

use std::time::Duration;

use anyhow::Context as _;
use clap::ArgMatches;
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::config::parse_span;
use crate::devices::desired::Text;
use crate::devices::label::{self, DeviceType, Metadata, Name, Tag};
use crate::devices::list::Filter;
use crate::devices::patch::Patch;
use crate::devices::registry::Description;
use crate::operations::bulk::{Format, Options};
use crate::operations::credentials::Wanted;
use crate::operations::devices::Registration;
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};

use super::bulk;

/// What is to be done.
pub(super) enum Asked {
    One(Act),
    Import(ToImport),
    Export(Format),
}

/// An act on devices one by one, and how it is answered.
pub(super) struct Act {
    pub(super) what: What,
    pub(super) as_json: bool,
}

pub(super) enum What {
    Register(Registration),
    List(Filter, usize),
    Show(DeviceId),
    Update(DeviceId, Patch, Option<i32>),
    Delete(DeviceId, Option<i32>),
    Rotate(DeviceId, Wanted),
    Revoke(DeviceId),
    SetEnabled(DeviceId, bool),
    GetConfig(DeviceId),
    SetConfig(DeviceId, Text, Option<i32>),
    DeleteConfig(DeviceId, Option<i32>),
}

/// An import.
pub(super) struct ToImport {
    pub(super) format: Format,
    pub(super) data: Vec<u8>,
    pub(super) options: Options,
    pub(super) as_json: bool,
}

pub(super) fn read(name: &str, matches: &ArgMatches) -> anyhow::Result<Asked> {
    let flag = |name: &str| matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false);
    let what = match name {
        "import" => {
            return Ok(Asked::Import(ToImport {
                format: bulk::format(text(matches, "format"), text(matches, "file").unwrap_or_default())?,
                data: bulk::read(text(matches, "file").unwrap_or_default())?,
                options: Options {
                    dry_run: flag("dry-run"),
                    credentials: Wanted {
                        mqtt: flag("mqtt"),
                        api_key: flag("api-key"),
                    },
                },
                as_json: flag("json"),
            }));
        }
        "export" => return Ok(Asked::Export(text(matches, "format").context("it has a default")?.parse()?)),
        "list" => What::List(filter(matches)?, limit(matches)),
        "register" => What::Register(registration(matches)?),
        "show" => What::Show(id(matches)?),
        "update" => What::Update(id(matches)?, patch(matches)?, number(matches, "revision")),
        "delete" => What::Delete(id(matches)?, number(matches, "revision")),
        "rotate" => {
            let wanted = Wanted {
                mqtt: !flag("api-key"),
                api_key: flag("api-key") || flag("both"),
            };
            What::Rotate(id(matches)?, wanted)
        }
        "revoke" => What::Revoke(id(matches)?),
        "enable" => What::SetEnabled(id(matches)?, true),
        "disable" => What::SetEnabled(id(matches)?, false),
        "config get" => What::GetConfig(id(matches)?),
        "config set" => What::SetConfig(id(matches)?, config(matches)?, number(matches, "version")),
        "config delete" => What::DeleteConfig(id(matches)?, number(matches, "version")),
        other => unreachable!("clap knows no command {other}"),
    };
    Ok(Asked::One(Act {
        what,
        as_json: flag("json"),
    }))
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.try_get_one::<String>(name).ok().flatten().map(String::as_str)
}

fn texts<'a>(matches: &'a ArgMatches, name: &str) -> Vec<&'a str> {
    matches.get_many::<String>(name).into_iter().flatten().map(String::as_str).collect()
}

fn number(matches: &ArgMatches, name: &str) -> Option<i32> {
    matches.get_one(name).copied()
}

fn limit(matches: &ArgMatches) -> usize {
    let limit = matches.get_one::<u32>("limit").copied().unwrap_or(u32::MAX);
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn id(matches: &ArgMatches) -> anyhow::Result<DeviceId> {
    let text = text(matches, "device").context("clap demands it")?;
    Ok(DeviceIdRef::parse(text)?.to_owned())
}

fn registration(matches: &ArgMatches) -> anyhow::Result<Registration> {
    let metadata = metadata(matches)?.unwrap_or_else(|| Value::Object(Map::new()));
    let groups = texts(matches, "group").into_iter().map(GroupId::parse);
    Ok(Registration {
        id: id(matches)?,
        description: Description {
            name: text(matches, "name").map(Name::parse).transpose()?,
            device_type: text(matches, "type").map(DeviceType::parse).transpose()?,
            tags: label::tags(&texts(matches, "tag"))?,
            metadata: Metadata::new(metadata)?,
        },
        groups: groups.collect::<Result<_, _>>()?,
        credentials: Wanted {
            mqtt: !matches.get_flag("no-mqtt"),
            api_key: matches.get_flag("api-key"),
        },
    })
}

fn patch(matches: &ArgMatches) -> anyhow::Result<Patch> {
    let (name, device_type) = (text(matches, "name"), text(matches, "type"));
    let tags = texts(matches, "tag");
    Ok(Patch {
        name: match name {
            Some(name) => Some(Some(Name::parse(name)?)),
            None => matches.get_flag("no-name").then_some(None),
        },
        device_type: match device_type {
            Some(device_type) => Some(Some(DeviceType::parse(device_type)?)),
            None => matches.get_flag("no-type").then_some(None),
        },
        tags: (!tags.is_empty() || matches.get_flag("no-tags"))
            .then(|| label::tags(&tags))
            .transpose()?,
        metadata: metadata(matches)?,
    })
}

fn metadata(matches: &ArgMatches) -> anyhow::Result<Option<Value>> {
    let Some(text) = text(matches, "metadata") else { return Ok(None) };
    let value: Value = serde_json::from_str(text).context("--metadata: a JSON object is expected, such as {\"site\": \"north\"}")?;
    anyhow::ensure!(value.is_object(), label::BadLabel::NoObject);
    Ok(Some(value))
}

fn config(matches: &ArgMatches) -> anyhow::Result<Text> {
    let data = bulk::read(text(matches, "file").unwrap_or_default())?;
    Ok(Text::parse(std::str::from_utf8(&data).context("the configuration is no UTF-8")?)?)
}

fn filter(matches: &ArgMatches) -> anyhow::Result<Filter> {
    let ago = |name: &str| {
        let Some(text) = text(matches, name) else { return Ok(None) };
        let span: Duration = parse_span(text).with_context(|| format!("--{name} {text:?}: a time span such as 2h or 7d is expected"))?;
        // A span that goes back further than time does is since ever.
        anyhow::Ok(Some(
            Timestamp::now()
                .checked_sub(span)
                .unwrap_or(Timestamp::UNIX_EPOCH)
                .max(Timestamp::UNIX_EPOCH),
        ))
    };
    if let Some(text) = text(matches, "text") {
        anyhow::ensure!(
            !text.is_empty() && !text.contains(char::is_control),
            "--text: a text of one line is expected"
        );
    }
    Ok(Filter {
        status: text(matches, "status").map(str::parse).transpose()?,
        device_type: text(matches, "type")
            .map(DeviceType::parse)
            .transpose()?
            .map(|kind| kind.to_string()),
        group: text(matches, "group")
            .map(GroupId::parse)
            .transpose()?
            .map(|group| group.to_string()),
        tag: text(matches, "tag").map(Tag::parse).transpose()?.map(|tag| tag.to_string()),
        text: text(matches, "text").map(str::to_owned),
        last_seen_before: ago("unseen-for")?,
        last_seen_after: ago("seen-within")?,
        enabled: match (matches.get_flag("enabled"), matches.get_flag("disabled")) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        },
    })
}
