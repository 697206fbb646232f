//! `iotflow discovery`: devices that ask for credentials, and what is decided.

use std::process::ExitCode;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};
use serde_json::{Value, json};

use crate::cli::terminal::{self, table};
use crate::cli::{DATA, EXIT_FAILED, EXIT_OK, Sources, database, runtime, with_variables};
use crate::config::Config;
use crate::devices::discovery::{self as rows, Request, State};
use crate::identity::audit::Actor;
use crate::observe::logging;
use crate::operations::discovery::{self, DecideError};
use crate::protocol::id::DeviceIdRef;

mod announce;

/// Registrations that are read at once.
const PAGE: u32 = 1_000;

pub(super) fn command() -> Command {
    let device = || Arg::new("device").required(true).value_name("DEVICE").help("The device's id");
    let list = Command::new("list")
        .about("Show who asked for credentials, and who is expected to")
        .arg(
            Arg::new("state")
                .long("state")
                .value_name("STATE")
                .value_parser(PossibleValuesParser::new(State::ALL.map(State::as_str)))
                .help("Of this state only"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .action(ArgAction::SetTrue)
                .help("JSON in place of a table, a line each"),
        );
    let reject = Command::new("reject")
        .about("Give a device no credentials")
        .arg(device())
        .arg(Arg::new("reason").long("reason").value_name("TEXT").help("For the audit"));
    Command::new("discovery")
        .about("Devices that ask for credentials: list, approve, reject, announce")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands(
            [
                list,
                Command::new("approve")
                    .about("Give a device credentials, now or when it asks again")
                    .arg(device()),
                reject,
                Command::new("expect")
                    .about("Announce a device: it gets credentials as soon as it asks")
                    .arg(device().required(false).required_unless_present("file"))
                    .arg(
                        Arg::new("file")
                            .long("file")
                            .value_name("CSV")
                            .conflicts_with_all(["device", "key"])
                            .help("Announce all devices of a file with the columns device_id and expected_key (which may be empty)"),
                    )
                    .arg(
                        Arg::new("key")
                            .long("key")
                            .value_name("BASE64")
                            .value_parser(discovery::public_key)
                            .help("Its X25519 public key: nobody gets its credentials by another"),
                    ),
                Command::new("forget")
                    .about("Forget a registration, so that the device can ask anew")
                    .arg(device()),
            ]
            .map(with_variables),
        )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (name, matches) = matches.subcommand().context("clap demands one")?;
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    if name == "list" {
        let state = text("state").and_then(State::parse);
        return runtime()?.block_on(list(&config, state, matches.get_flag("json")));
    }
    if let Some(file) = matches.try_get_one::<String>("file").ok().flatten() {
        return runtime()?.block_on(announce_all(&config, file));
    }
    let device = DeviceIdRef::parse(text("device").context("clap demands it")?)?;
    let reason = (name == "reject").then(|| text("reason")).flatten();
    let key = matches.try_get_one::<Vec<u8>>("key").ok().flatten().map(Vec::as_slice);
    runtime()?.block_on(decide(&config, name, device, reason, key))
}

async fn announce_all(config: &Config, file: &str) -> anyhow::Result<ExitCode> {
    let mut client = database::connect(&config.db, "discovery").await?;
    let all = announce::announce(&mut client, &Actor::of_command_line(), file).await?;
    Ok(ExitCode::from(if all { EXIT_OK } else { EXIT_FAILED }))
}

async fn decide(
    config: &Config,
    what: &str,
    device: DeviceIdRef<'_>,
    reason: Option<&str>,
    key: Option<&[u8]>,
) -> anyhow::Result<ExitCode> {
    let mut client = database::connect(&config.db, "discovery").await?;
    let actor = Actor::of_command_line();
    let done = match what {
        "approve" => discovery::approve(&mut client, &actor, device).await.map(|()| "approved"),
        "reject" => discovery::reject(&mut client, &actor, device, reason).await.map(|()| "rejected"),
        "forget" => discovery::forget(&mut client, &actor, device).await.map(|()| "forgotten"),
        "expect" => match discovery::expect(&mut client, &actor, device, key).await {
            Ok(true) => Ok("expected"),
            Ok(false) => {
                eprintln!("iotflow: there is a registration of {device} already");
                return Ok(ExitCode::from(EXIT_FAILED));
            }
            Err(error) => Err(error),
        },
        _ => unreachable!("clap demands one of the above"),
    };
    match done {
        Ok(done) => println!("{device} is {done}"),
        Err(error @ DecideError::Database(_)) => return Err(error.into()),
        Err(refused) => {
            eprintln!("iotflow: {refused}");
            return Ok(ExitCode::from(EXIT_FAILED));
        }
    }
    Ok(ExitCode::from(EXIT_OK))
}

async fn list(config: &Config, state: Option<State>, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = database::connect(&config.db, "discovery").await?;
    let mut all: Vec<Request> = Vec::new();
    loop {
        let after = all.last().map(|request| request.device.clone());
        let page = rows::list(&client, state, after.as_deref(), PAGE).await?;
        let last = page.len() < PAGE as usize;
        all.extend(page);
        if last {
            break;
        }
    }
    if as_json {
        all.iter().for_each(|request| println!("{}", terminal::json(&object(request))));
    } else if all.is_empty() {
        println!("no device has asked for credentials");
    } else {
        let header = ["device", "state", "asked", "attempts", "sealed", "says", "decided by", "reason"];
        println!("{}", table(&header, all.iter().map(row)));
    }
    Ok(ExitCode::from(EXIT_OK))
}

fn object(request: &Request) -> Value {
    json!({
        "device_id": request.device, "state": request.state.as_str(), "payload": request.payload, "attempts": request.attempts,
        "has_public_key": request.public_key.is_some(), "expected_key": request.expected_key.as_ref().map(|key| STANDARD.encode(key)),
        "created_at": request.created_at, "requested_at": request.requested_at, "decided_at": request.decided_at,
        "decided_by": request.decided_by, "issued_at": request.issued_at, "reason": request.reason,
    })
}

fn row(request: &Request) -> Vec<String> {
    let asked = request
        .requested_at
        .map_or_else(|| "not yet".to_owned(), |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
    vec![
        request.device.clone(),
        request.state.as_str().to_owned(),
        asked,
        request.attempts.to_string(),
        if request.public_key.is_some() { "yes" } else { "no" }.to_owned(),
        request.payload.to_string().chars().take(40).collect(),
        request.decided_by.clone().unwrap_or_default(),
        request.reason.clone().unwrap_or_default(),
    ]
}
