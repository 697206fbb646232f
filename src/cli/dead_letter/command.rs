//! The command line of `iotflow dead-letter`, and which part answers it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use jiff::Timestamp;
use uuid::Uuid;

use crate::cli::{DATA, Sources, runtime, with_variables};
use crate::config::parse_span;
use crate::devices::telemetry::span::moment;
use crate::ingest::dead_letter::kept::{Filter, Purge};
use crate::observe::logging;
use crate::protocol::reject::Reason;

use super::{act, look};

/// The most letters of one list, and of one replay.
const MOST: u32 = 10_000;

pub(in crate::cli) fn command() -> Command {
    let list = with_filter(Command::new("list"))
        .about("List dead letters, newest last")
        .arg(since())
        .arg(limit("50"))
        .arg(json());
    let show = Command::new("show")
        .about("Show a dead letter and what is in it")
        .arg(id().required(true))
        .arg(json());
    let replay = with_filter(Command::new("replay"))
        .about("Publish dead letters again, oldest first, and remove those that the broker has taken")
        .long_about("Publishes a dead letter, or all that fit, on their topics again, oldest first, and removes each once the broker has it. What still breaks a rule becomes a new dead letter. Exits 0 if all were published, 1 if one was not.")
        .arg(id().num_args(0..).conflicts_with_all(["reason", "topic-prefix"]))
        .arg(limit("1000"));
    let purge = with_filter(Command::new("purge"))
        .about("Remove dead letters for good")
        .arg(id().num_args(0..).conflicts_with_all(["reason", "topic-prefix", "before", "all"]))
        .arg(
            Arg::new("before")
                .long("before")
                .value_name("TIME|SPAN")
                .help("Received before this time, or longer ago than this: 2025-07-01T00:00:00Z, 30d"),
        )
        .arg(
            Arg::new("all")
                .long("all")
                .action(ArgAction::SetTrue)
                .conflicts_with_all(["reason", "topic-prefix", "before"])
                .help("All of them"),
        );
    Command::new("dead-letter")
        .about("See, replay and remove messages that were refused")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([list, show, replay, purge].map(with_variables))
}

fn with_filter(command: Command) -> Command {
    let reasons = PossibleValuesParser::new(Reason::ALL.iter().map(|reason| reason.as_str()));
    command
        .arg(
            Arg::new("reason")
                .long("reason")
                .value_name("REASON")
                .value_parser(reasons)
                .hide_possible_values(true)
                .help("Of this reason, such as not_json"),
        )
        .arg(
            Arg::new("topic-prefix")
                .long("topic-prefix")
                .value_name("TOPIC")
                .help("On topics that begin so"),
        )
}

fn id() -> Arg {
    Arg::new("id").value_name("ID").value_parser(value_parser!(Uuid)).help("Its id")
}

fn since() -> Arg {
    Arg::new("since")
        .long("since")
        .value_name("TIME|SPAN")
        .help("Not older than this: 2025-07-01T00:00:00Z, 2h, 7d")
}

fn limit(default: &'static str) -> Arg {
    Arg::new("limit")
        .long("limit")
        .value_name("LETTERS")
        .value_parser(value_parser!(u32).range(1..=i64::from(MOST)))
        .default_value(default)
        .help("At most so many")
}

fn json() -> Arg {
    Arg::new("json")
        .long("json")
        .action(ArgAction::SetTrue)
        .help("One JSON object a line")
}

pub(in crate::cli) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (name, matches) = matches.subcommand().context("clap demands one")?;
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    let runtime = runtime()?;
    let (reason, topic_prefix) = (text(matches, "reason"), text(matches, "topic-prefix"));
    let ids: Vec<Uuid> = given(matches, "id");
    match name {
        "list" => {
            let filter = Filter {
                reason,
                topic_prefix,
                since: time(matches, "since")?,
                before: None,
                limit: *matches.get_one("limit").context("it has a default")?,
            };
            runtime.block_on(look::list(&config, &filter, matches.get_flag("json")))
        }
        "show" => {
            let id = *ids.first().context("clap demands it")?;
            runtime.block_on(look::show(&config, id, matches.get_flag("json")))
        }
        "replay" => {
            anyhow::ensure!(
                !ids.is_empty() || reason.is_some() || topic_prefix.is_some(),
                "which ones? ids, --reason or --topic-prefix are expected; `iotflow dead-letter list` shows what there is"
            );
            let filter = Filter {
                reason,
                topic_prefix,
                limit: *matches.get_one("limit").context("it has a default")?,
                ..Filter::default()
            };
            runtime.block_on(act::replay(&config, ids, &filter))
        }
        "purge" => {
            let purge = Purge {
                reason,
                topic_prefix,
                before: time(matches, "before")?,
            };
            anyhow::ensure!(
                !ids.is_empty() || !purge.is_everything() || matches.get_flag("all"),
                "which ones? ids, --reason, --topic-prefix, --before or --all are expected"
            );
            runtime.block_on(act::purge(&config, ids, &purge))
        }
        _ => unreachable!("clap demands one of the above"),
    }
}

fn text<'a>(matches: &'a ArgMatches, name: &str) -> Option<&'a str> {
    matches.try_get_one::<String>(name).ok().flatten().map(String::as_str)
}

fn given(matches: &ArgMatches, name: &str) -> Vec<Uuid> {
    let values = matches.try_get_many::<Uuid>(name).ok().flatten();
    values.into_iter().flatten().copied().collect()
}

/// A time, or a span back from now.
fn time(matches: &ArgMatches, name: &str) -> anyhow::Result<Option<Timestamp>> {
    let Some(text) = text(matches, name) else { return Ok(None) };
    if let Some(span) = parse_span(text) {
        return Ok(Some(Timestamp::now().saturating_sub(span)?));
    }
    Ok(Some(moment(text).with_context(|| format!("--{name}"))?))
}
