//! `iotflow audit`: what was done, by whom, from where.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use serde_json::{Value, json};

use crate::config::parse_span;
use crate::identity::audit::{self, Action, Entry, Filter};
use crate::observe::logging;

use super::terminal::{moment, table};
use super::{DATA, EXIT_OK, Sources, database, runtime, terminal};

pub(super) fn command() -> Command {
    let actions = PossibleValuesParser::new(Action::ALL.iter().map(|action| action.as_str()));
    Command::new("audit")
        .about("Show what operators did, newest last")
        .arg(
            Arg::new("since")
                .long("since")
                .value_name("SPAN")
                .help("Not older than this, such as 2h or 7d"),
        )
        .arg(
            Arg::new("actor")
                .long("actor")
                .value_name("NAME")
                .help("Of this actor: an account, token:NAME or jwt:SUBJECT"),
        )
        .arg(
            Arg::new("action")
                .long("action")
                .value_name("ACTION")
                .value_parser(actions)
                .help("Of this action"),
        )
        .arg(Arg::new("object").long("object").value_name("NAME").help("On this object"))
        .arg(
            Arg::new("before")
                .long("before")
                .value_name("ID")
                .value_parser(value_parser!(i64))
                .help("Older than this entry: the page before"),
        )
        .arg(
            Arg::new("limit")
                .long("limit")
                .value_name("ENTRIES")
                .value_parser(value_parser!(u32).range(1..=i64::from(audit::MAX_LIST)))
                .default_value("50")
                .help("At most so many, the newest"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("One JSON object a line"),
        )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let filter = Filter {
        since: text("since")
            .map(|span| parse_span(span).with_context(|| format!("--since {span:?}: a time span such as 2h or 7d is expected")))
            .transpose()?,
        actor: text("actor"),
        action: text("action").map(str::parse).transpose()?,
        object: text("object"),
        before_id: matches.get_one("before").copied(),
        limit: *matches.get_one("limit").context("it has a default")?,
    };
    let mut entries = runtime()?.block_on(async {
        let client = database::connect(&config.db, "audit").await?;
        anyhow::Ok(audit::list(&client, &filter).await?)
    })?;
    entries.reverse();
    if matches.get_flag("json") {
        entries.iter().for_each(|entry| println!("{}", terminal::json(&object(entry))));
    } else if entries.is_empty() {
        println!("nothing was done, or nothing that fits");
    } else {
        println!(
            "{}",
            table(
                &["id", "at", "actor", "from", "action", "object", "outcome", "detail"],
                entries.iter().map(row)
            )
        );
    }
    Ok(ExitCode::from(EXIT_OK))
}

fn row(entry: &Entry) -> Vec<String> {
    vec![
        entry.id.to_string(),
        moment(entry.at),
        entry.actor.clone(),
        entry.origin.clone(),
        entry.action.clone(),
        entry.object.clone(),
        entry.outcome.clone(),
        detail(&entry.detail),
    ]
}

/// `name=value`, which is shorter than JSON and quoted as JSON where it must be.
fn detail(detail: &Value) -> String {
    let pairs = detail.as_object().into_iter().flatten().map(|(name, value)| match value {
        Value::String(text) if !text.contains(|c: char| c.is_whitespace() || c == '=' || c == '"') => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    pairs.collect::<Vec<_>>().join(" ")
}

fn object(entry: &Entry) -> Value {
    json!({
        "id": entry.id,
        "at": moment(entry.at),
        "actor": entry.actor,
        "origin": entry.origin,
        "action": entry.action,
        "object": entry.object,
        "outcome": entry.outcome,
        "detail": entry.detail,
    })
}
