//! The command line of `iotflow device`, and which part answers it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::cli::terminal::refused;
use crate::cli::{DATA, EXIT_OK, Sources, database, runtime, with_variables};
use crate::devices::device::Status;
use crate::observe::logging;
use crate::protocol::topic::TopicTree;

use super::{ask, bulk, manage};

pub(in crate::cli) fn command() -> Command {
    let about = |name: &'static str, about: &'static str| Command::new(name).about(about).arg(id());
    let register = with_description(about(
        "register",
        "Register a device; its credentials are shown once, on standard output",
    ))
    .arg(many("group", "ID", "A group that it joins; one that there is none of is made"))
    .arg(flag("no-mqtt", "No password at the broker"))
    .arg(flag("api-key", "A key for HTTP (X-API-Key) too"))
    .arg(json());
    let update = with_description(about("update", "Change what is known of a device; what is not said stays"))
        .arg(flag("no-name", "Take its name away").conflicts_with("name"))
        .arg(flag("no-type", "Take its type away").conflicts_with("type"))
        .arg(flag("no-tags", "Take its tags away").conflicts_with("tag"))
        .arg(revision())
        .arg(json());
    let rotate = about("rotate", "Give a device another password at the broker, or another key; shown once")
        .arg(flag("api-key", "The key for HTTP in place of the password"))
        .arg(flag("both", "The password and the key").conflicts_with("api-key"))
        .arg(json());
    Command::new("device")
        .about("Register, find, change and delete devices, and give them credentials and configurations")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(
            [
                register,
                list(),
                about("show", "Show all that is known of a device").arg(json()),
                update,
                about("delete", "Delete a device with its credentials; its telemetry stays").arg(revision()),
                rotate,
                about(
                    "revoke",
                    "Take a device's password and key away; a certificate is revoked by `iotflow broker certs`",
                ),
                about("enable", "Let a device in again"),
                about("disable", "Shut a device out"),
                import(),
                export(),
            ]
            .map(with_variables),
        )
        .subcommand(config())
}

fn list() -> Command {
    Command::new("list")
        .about("Show devices, by id, those that fit all that is asked for")
        .arg(option("status", "STATUS", "Of this status").value_parser(PossibleValuesParser::new(Status::ALL.map(Status::as_str))))
        .arg(option("type", "TYPE", "Of this type"))
        .arg(option("group", "ID", "In this group"))
        .arg(option("tag", "TAG", "With this tag"))
        .arg(option("text", "TEXT", "With this text in their id or name"))
        .arg(option("seen-within", "SPAN", "Seen since then, such as 2h or 7d"))
        .arg(option("unseen-for", "SPAN", "Not seen since then, or never"))
        .arg(flag("enabled", "Only those that are let in").conflicts_with("disabled"))
        .arg(flag("disabled", "Only those that are shut out"))
        .arg(
            option("limit", "DEVICES", "At most so many")
                .value_parser(value_parser!(u32).range(1..))
                .default_value("1000"),
        )
        .arg(json().help("One JSON object a line"))
}

fn import() -> Command {
    Command::new("import")
        .about("Bring devices: each line registers one, or changes the one that is there")
        .long_about("Brings devices from CSV (header: device_id, and any of name, type, tags, groups, metadata; tags and groups are parted by ;) or from a JSON object a line. What a line does not say stays. Lines that make no sense are told by their number on standard error, and the others are taken; then it exits with 1.")
        .arg(file("The file; - for standard input"))
        .arg(format())
        .arg(flag("dry-run", "Judge every line, and change nothing"))
        .arg(flag("mqtt", "Make passwords for devices that have none; shown once, on standard output"))
        .arg(flag("api-key", "Make keys for devices that have none; shown once, on standard output"))
        .arg(json())
}

fn export() -> Command {
    Command::new("export")
        .about("Print all devices, in the form that an import takes")
        .arg(format().default_value("csv"))
}

fn config() -> Command {
    let about = |name: &'static str, about: &'static str| Command::new(name).about(about).arg(id());
    let version =
        || option("version", "VERSION", "Only if this is still its version; 0 for none yet").value_parser(value_parser!(i32).range(0..));
    Command::new("config")
        .about("How a device is to be set, and how it says that it is")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(
            [
                about("get", "Show what is wanted, and what the device reports").arg(json()),
                about("set", "Set what is wanted; the device gets it as it is given")
                    .arg(file("A file with a JSON object; - for standard input"))
                    .arg(version()),
                about("delete", "Want nothing of the device any more").arg(version()),
            ]
            .map(with_variables),
        )
}

fn with_description(command: Command) -> Command {
    command
        .arg(option("name", "NAME", "What people call it: one line"))
        .arg(option("type", "TYPE", "What kind of device it is"))
        .arg(many("tag", "TAG", "What devices are gathered by; all of its tags anew"))
        .arg(option(
            "metadata",
            "JSON",
            "What else is known: an object, merged into what is there",
        ))
}

fn id() -> Arg {
    Arg::new("device").value_name("ID").required(true).help("The device's id")
}

fn file(help: &'static str) -> Arg {
    Arg::new("file").value_name("FILE").required(true).help(help)
}

fn format() -> Arg {
    option("format", "FORMAT", "csv or ndjson").value_parser(PossibleValuesParser::new(["csv", "ndjson"]))
}

fn json() -> Arg {
    flag("json", "JSON in place of text")
}

fn revision() -> Arg {
    option("revision", "NUMBER", "Only if it still has this revision").value_parser(value_parser!(i32).range(1..))
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn many(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    option(name, value, help).action(ArgAction::Append)
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

pub(in crate::cli) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (name, mut matches) = matches.subcommand().context("clap demands one")?;
    let mut name = name.to_owned();
    if let ("config", Some((further, below))) = (name.as_str(), matches.subcommand()) {
        name = format!("config {further}");
        matches = below;
    }
    let asked = ask::read(&name, matches)?;
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    let tree = TopicTree::new(&config.ingest.base_topic)?;
    runtime()?.block_on(async {
        let mut client = database::connect(&config.db, "device").await?;
        let done = match asked {
            ask::Asked::Import(wanted) => bulk::import(&mut client, &wanted).await,
            ask::Asked::Export(format) => bulk::export(&client, format).await.map(|()| EXIT_OK),
            ask::Asked::One(act) => manage::act(&mut client, &tree, act).await.map(|()| EXIT_OK),
        };
        Ok(done.map_or_else(|error| refused(&error), ExitCode::from))
    })
}
