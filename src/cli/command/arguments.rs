//! The command line of `iotflow command`, and which part answers it.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use crate::cli::{DATA, Sources, runtime, with_variables};
use crate::config::parse_span;
use crate::devices::commands::read::Filter;
use crate::devices::commands::state::State;
use crate::observe::logging;
use crate::operations::commands::Recipient;
use crate::protocol::command::{CommandId, Kind};
use crate::protocol::id::{DeviceIdRef, GroupId};

use super::send::Wish;
use super::{follow, send};

pub(in crate::cli) fn command() -> Command {
    let to_device = giving("send", "Send a command to a device", "DEVICE", "The device's id");
    let to_group = giving("fleet", "Send a command to all members of a group", "GROUP", "The group's id");
    let list = Command::new("list")
        .about("Show commands, newest first")
        .arg(option("device", "DEVICE", "Of this device, those of its groups included"))
        .arg(option("group", "GROUP", "Of this group"))
        .arg(
            option("state", "STATE", "With a device in this state")
                .value_parser(PossibleValuesParser::new(State::ALL.iter().map(|state| state.as_str()))),
        )
        .arg(kind().required(false).help("About this"))
        .arg(
            option("limit", "NUMBER", "At most so many")
                .default_value("50")
                .value_parser(value_parser!(u32).range(1..=10_000)),
        )
        .arg(json());
    let show = Command::new("show")
        .about("Show a command, and how far each device has come")
        .arg(id())
        .arg(json());
    let cancel = Command::new("cancel").about("Take back what was not sent of a command").arg(id());
    let watch = Command::new("watch")
        .about("Follow a command until every device has come to an end")
        .long_about("Follows a command, a line for each change, until every device has come to an end or the time is over. Exits 0 if all completed it, else 1.")
        .arg(id())
        .arg(option("for", "SPAN", "For so long at most [default: 10m]"))
        .arg(json());
    Command::new("command")
        .about("Send commands to devices and fleets, and follow them")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([to_device, to_group, list, show, cancel, watch].map(with_variables))
}

fn giving(name: &'static str, about: &'static str, to: &'static str, help: &'static str) -> Command {
    Command::new(name)
        .about(about)
        .long_about(format!(
            "{about}. It is in the database when this ends, and the running service sends it. With --wait it exits 0 if every device completed it in time, else 1."
        ))
        .arg(Arg::new("to").value_name(to).required(true).help(help))
        .arg(Arg::new("command").value_name("COMMAND").required(true).help("What to do, such as restart"))
        .arg(kind().default_value(Kind::Control.as_str()).help("What it is about"))
        .arg(option("parameters", "JSON|-", "With what; - reads it from standard input, for a command line can be read by others"))
        .arg(option("id", "ID", "Your own id for it; the same one twice is the same command"))
        .arg(option("qos", "QOS", "0, 1 or 2 [default: 2]").value_parser(value_parser!(u8).range(0..=2)))
        .arg(option("ttl", "SPAN", "How long it may wait and be worked at, 1s to 30d [default: 1d]"))
        .arg(option("idempotency-key", "KEY", "Your own name for the request; the same one twice is the same command"))
        .arg(option("wait", "SPAN", "Wait for the answers, so long at most"))
        .arg(json())
}

fn option(name: &'static str, value: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).value_name(value).help(help)
}

fn kind() -> Arg {
    option("type", "TYPE", "").value_parser(PossibleValuesParser::new(Kind::ALL.map(Kind::as_str)))
}

fn id() -> Arg {
    Arg::new("id").value_name("ID").required(true).help("The command's id")
}

fn json() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("JSON in place of text")
}

pub(in crate::cli) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (name, matches) = matches.subcommand().context("clap demands one")?;
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    let runtime = runtime()?;
    let given = |name: &str| matches.try_get_one::<String>(name).ok().flatten().map(String::as_str);
    let as_json = matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or(false);
    let command_id = || CommandId::parse(given("id").context("clap demands it")?).context("ID");
    match name {
        "send" | "fleet" => {
            let text = given("to").context("clap demands it")?;
            let to = if name == "send" {
                Recipient::Device(DeviceIdRef::parse(text)?.to_owned())
            } else {
                Recipient::Group(GroupId::parse(text)?)
            };
            let wish = Wish {
                to,
                kind: given("type").context("it has a default")?.parse()?,
                command: given("command").context("clap demands it")?.to_owned(),
                parameters: given("parameters").map(str::to_owned),
                command_id: given("id").map(CommandId::parse).transpose()?,
                qos: matches.get_one::<u8>("qos").copied(),
                ttl: span(given("ttl"), "--ttl")?,
                idempotency_key: given("idempotency-key").map(str::to_owned),
                wait: span(given("wait"), "--wait")?,
            };
            runtime.block_on(send::run(&config, &wish, as_json))
        }
        "list" => {
            let filter = Filter {
                device: given("device"),
                group: given("group"),
                state: given("state").map(str::parse).transpose()?,
                command_type: given("type"),
            };
            let limit = *matches.get_one::<u32>("limit").context("it has a default")?;
            runtime.block_on(follow::list(&config, &filter, limit, as_json))
        }
        "show" => runtime.block_on(follow::show(&config, &command_id()?, as_json)),
        "cancel" => runtime.block_on(follow::cancel(&config, &command_id()?)),
        "watch" => {
            let most = span(given("for"), "--for")?.unwrap_or(Duration::from_secs(600));
            runtime.block_on(follow::watch(&config, &command_id()?, most, as_json))
        }
        _ => unreachable!("clap demands one of the above"),
    }
}

fn span(text: Option<&str>, flag: &str) -> anyhow::Result<Option<Duration>> {
    text.map(|text| parse_span(text).with_context(|| format!("{flag} {text:?}: a time span such as 30s or 12h is expected")))
        .transpose()
}
