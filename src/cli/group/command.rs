//! The command line of `iotflow group`, and what is meant by it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::cli::terminal::refused;
use crate::cli::{DATA, EXIT_OK, Sources, database, runtime, with_variables};
use crate::devices::groups::{Description, Patch};
use crate::devices::label::{DeviceType, Name, Tag};
use crate::observe::logging;
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};
use crate::protocol::topic::TopicTree;

use super::manage;

/// What is to be done.
pub(super) enum Act {
    Create(GroupId, Description),
    List,
    Show(GroupId),
    Update(GroupId, Patch, Option<i32>),
    Delete(GroupId, Option<i32>),
    Add(GroupId, Vec<DeviceId>),
    Remove(GroupId, Vec<DeviceId>),
}

pub(in crate::cli) fn command() -> Command {
    let about = |name: &'static str, about: &'static str| {
        let id = Arg::new("group").value_name("ID").required(true).help("The group's id");
        Command::new(name).about(about).arg(id)
    };
    let option = |name: &'static str, value: &'static str, help: &'static str| Arg::new(name).long(name).value_name(value).help(help);
    let flag = |name: &'static str, help: &'static str| Arg::new(name).long(name).action(ArgAction::SetTrue).help(help);
    let described = |command: Command| {
        command
            .arg(option("name", "NAME", "What people call it: one line"))
            .arg(option("match-tag", "TAG", "Whoever has this tag is a member"))
            .arg(option(
                "match-type",
                "TYPE",
                "Whoever is of this type is a member; with a tag too, those that fit both",
            ))
    };
    let json = || flag("json", "JSON in place of text");
    let revision = || option("revision", "NUMBER", "Only if it still has this revision").value_parser(value_parser!(i32).range(1..));
    let devices = || {
        Arg::new("devices")
            .value_name("DEVICE")
            .required(true)
            .num_args(1..)
            .help("The devices' ids: all of them, or none")
    };
    let update = described(about("update", "Change a group; what is not said stays"))
        .arg(flag("no-name", "Take its name away").conflicts_with("name"))
        .arg(flag("no-match-tag", "Whichever tags they have").conflicts_with("match-tag"))
        .arg(flag("no-match-type", "Of whichever type they are").conflicts_with("match-type"))
        .arg(revision())
        .arg(json());
    Command::new("group")
        .about("Make, change and delete groups of devices, and say who belongs to them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(
            [
                described(about(
                    "create",
                    "Make a group: a list, or by a tag or a type one whose members follow by themselves",
                ))
                .arg(json()),
                Command::new("list").about("Show all groups").arg(json()),
                about("show", "Show a group and its members").arg(json()),
                update,
                about("delete", "Delete a group; its members stay what they are").arg(revision()),
                about("add", "Add devices to a group").arg(devices()),
                about("remove", "Take devices out of a group").arg(devices()),
            ]
            .map(with_variables),
        )
}

pub(in crate::cli) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (name, matches) = matches.subcommand().context("clap demands one")?;
    let act = read(name, matches)?;
    let as_json = matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or(false);
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    let tree = TopicTree::new(&config.ingest.base_topic)?;
    runtime()?.block_on(async {
        let mut client = database::connect(&config.db, "group").await?;
        let done = manage::act(&mut client, &tree, act, as_json).await;
        Ok(done.map_or_else(|error| refused(&error), |()| ExitCode::from(EXIT_OK)))
    })
}

fn read(name: &str, matches: &ArgMatches) -> anyhow::Result<Act> {
    if name == "list" {
        return Ok(Act::List);
    }
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let revision = || matches.get_one::<i32>("revision").copied();
    let devices = || {
        let ids = matches.get_many::<String>("devices").into_iter().flatten();
        let id = |text: &String| {
            DeviceIdRef::parse(text)
                .map(DeviceIdRef::to_owned)
                .with_context(|| format!("{text:?}"))
        };
        ids.map(id).collect::<anyhow::Result<Vec<DeviceId>>>()
    };
    let id = GroupId::parse(text("group").context("clap demands it")?)?;
    Ok(match name {
        "create" => Act::Create(
            id,
            Description {
                name: text("name").map(Name::parse).transpose()?,
                match_tag: text("match-tag").map(Tag::parse).transpose()?,
                match_type: text("match-type").map(DeviceType::parse).transpose()?,
            },
        ),
        "show" => Act::Show(id),
        "update" => {
            let patch = Patch {
                name: match text("name") {
                    Some(name) => Some(Some(Name::parse(name)?)),
                    None => matches.get_flag("no-name").then_some(None),
                },
                match_tag: match text("match-tag") {
                    Some(tag) => Some(Some(Tag::parse(tag)?)),
                    None => matches.get_flag("no-match-tag").then_some(None),
                },
                match_type: match text("match-type") {
                    Some(kind) => Some(Some(DeviceType::parse(kind)?)),
                    None => matches.get_flag("no-match-type").then_some(None),
                },
            };
            Act::Update(id, patch, revision())
        }
        "delete" => Act::Delete(id, revision()),
        "add" => Act::Add(id, devices()?),
        "remove" => Act::Remove(id, devices()?),
        other => unreachable!("clap knows no command {other}"),
    })
}
