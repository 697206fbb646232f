//! `agent`: keeps a broker that somebody else runs, such as a container, in step with the database.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, Command};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::access::agent;
use crate::access::apply::Applier;
use crate::broker::conf::Paths;
use crate::broker::process::Process;
use crate::broker::shelf::Shelf;
use crate::cli::installation::servers::seed;
use crate::cli::{EXIT_FAILED, EXIT_OK, Sources, runtime};
use crate::config::Config;
use crate::db::{migrate, pool};
use crate::lifecycle::signals::Signals;
use crate::mqtt::config::Config as MqttConfig;
use crate::observe::logging;
use crate::observe::secret::Secret;
use crate::protocol::rights::Role;
use crate::protocol::topic::TopicTree;

use super::Asked;

/// The simulator's user.
const FLEET: &str = "fleet";

pub(super) fn command() -> Command {
    Command::new("agent")
        .about("Keep a broker that runs elsewhere, as in a container, in step with the database")
        .long_about("Writes who may do what from the database into the broker's files, tells the broker (by --bell, or the one process called mosquitto that can be seen from here), and proves that it obeys. MQTT_HOST, MQTT_PORT, MQTT_USERNAME and MQTT_PASSWORD are the service's own login at the staff's listener.")
        .arg(Arg::new("folder").long("folder").value_name("FOLDER").help("The broker's folder, in which `access` is written"))
        .arg(Arg::new("bell").long("bell").value_name("PIPE").help("The named pipe of mosquitto/bell.sh, which tells the broker in another container"))
        .arg(Arg::new("device-listener").long("device-listener").value_name("HOST:PORT").help("A listener for devices, to be proven too"))
        .arg(Arg::new("fleet-password-file").long("fleet-password-file").value_name("FILE").help("Let in the simulator, as `fleet`, with this password"))
        .arg(Arg::new("check").long("check").action(ArgAction::SetTrue).help("Only say whether an agent is at work and the last change in force"))
}

pub(super) fn run(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let config = Sources::new(asked.matches)?.config()?;
    if asked.matches.get_flag("check") {
        return runtime()?.block_on(check(&config));
    }
    logging::start(&config.log)?;
    let folder = asked
        .matches
        .get_one::<String>("folder")
        .map(PathBuf::from)
        .context("--folder is expected")?;
    let mut listeners = vec![config.mqtt.clone()];
    if let Some(place) = asked.matches.get_one::<String>("device-listener") {
        let (host, port) = place.rsplit_once(':').context("--device-listener HOST:PORT is expected")?;
        listeners.push(MqttConfig {
            host: host.to_owned(),
            port: port.parse().with_context(|| format!("--device-listener {place}"))?,
            ..config.mqtt.clone()
        });
    }
    let fleet = match asked.matches.get_one::<String>("fleet-password-file") {
        Some(file) => Some(Secret::new(std::fs::read_to_string(file).with_context(|| file.clone())?.trim_end())),
        None => None,
    };
    let applier = Applier {
        tree: TopicTree::new(&config.ingest.base_topic)?,
        shelf: Shelf::new(Paths::of(&folder), None),
        process: match asked.matches.get_one::<String>("bell") {
            Some(pipe) => Process::Bell(PathBuf::from(pipe)),
            None => Process::Named,
        },
        listeners,
    };
    runtime()?.block_on(keep(&config, fleet, applier))
}

async fn keep(config: &Config, fleet: Option<Secret>, applier: Applier) -> anyhow::Result<ExitCode> {
    let mut signals = Signals::new()?;
    migrate::migrate(&config.db)
        .await
        .context("the database cannot be brought up to date")?;
    let client = pool::connect(&config.db, "broker").await?;
    let Some((user, password)) = config.mqtt.username.as_ref().zip(config.mqtt.password.as_ref()) else {
        bail!("MQTT_USERNAME and MQTT_PASSWORD_FILE are expected: the service's own login");
    };
    seed(&client, user, Role::Service, password).await?;
    if let Some(password) = &fleet {
        seed(&client, FLEET, Role::Fleet, password).await?;
    }
    let stop = CancellationToken::new();
    let (alarm, mut alarms) = mpsc::channel(1);
    let process = applier.process.clone();
    let agent = agent::run(applier, config.db.clone(), stop.clone(), alarm);
    tokio::pin!(agent);
    loop {
        tokio::select! {
            () = &mut agent => return Ok(ExitCode::from(EXIT_OK)),
            signal = signals.next() => {
                info!(signal, "stopping");
                stop.cancel();
            }
            Some(why) = alarms.recv() => {
                error!(why, "the broker is ended; one that starts refuses files that it cannot read");
                process.end()?;
            }
        }
    }
}

async fn check(config: &Config) -> anyhow::Result<ExitCode> {
    let client = pool::connect(&config.db, "broker").await?;
    let (at_work, behind) = (agent::is_at_work(&client).await?, Applier::is_behind(&client).await?);
    let words = match (at_work, behind) {
        (false, _) => "no agent is at work",
        (true, true) => "the last change is not in force",
        (true, false) => "in force",
    };
    println!("{words}");
    Ok(ExitCode::from(if at_work && !behind { EXIT_OK } else { EXIT_FAILED }))
}
