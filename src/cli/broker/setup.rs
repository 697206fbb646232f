//! `setup`: what the installation is told once, and the first start.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, Command};
use serde_json::json;

use crate::broker::certs::authority::Authority;
use crate::broker::conf::{Kind, Listener};
use crate::cli::installation::folder::{Installation, Settings};
use crate::cli::installation::servers::DATABASE_SECRET;
use crate::cli::{EXIT_OK, Sources};

use super::{Asked, life};

pub(super) fn commands() -> Vec<Command> {
    vec![
        Command::new("setup")
            .about("Make the broker's configuration, keys and folders, and start it")
            .long_about("Makes the broker's configuration, keys and folders, and starts it; with a private PostgreSQL unless DATABASE_URL names another. Doing it again changes what is asked for and keeps the rest.")
            .arg(Arg::new("plain").long("plain").action(ArgAction::SetTrue).help("Take connections in the clear (1883, 9001) from other machines too"))
            .arg(Arg::new("name").long("name").value_name("NAME").action(ArgAction::Append).help("A host name or address by which devices reach the broker; it stands in its certificate"))
            .arg(
                Arg::new("listener")
                    .long("listener")
                    .value_name("KIND=ADDRESS:PORT")
                    .action(ArgAction::Append)
                    .help("Another place for a listener: staff, plain, tls, mutual-tls, web-sockets or secure-web-sockets; `KIND=off` leaves it out, port 0 takes a free one"),
            )
            .arg(Arg::new("no-start").long("no-start").action(ArgAction::SetTrue).help("Do not start it")),
    ]
}

pub(super) fn setup(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let sources = Sources::new(asked.matches)?;
    let config = sources.config()?;
    let known = known(&asked.data)?.filter(|settings| !settings.improvised);
    let again = known.is_some();
    let mut settings = known.unwrap_or_else(|| Settings::usual(&config.ingest.base_topic, false));
    if sources.is_set("MQTT_BASE_TOPIC") {
        settings.base_topic.clone_from(&config.ingest.base_topic);
    }
    if asked.matches.get_flag("plain") {
        for listener in &mut settings.listeners {
            match listener.kind {
                Kind::Plain => "0.0.0.0".clone_into(&mut listener.address),
                Kind::SecureWebSockets => listener.kind = Kind::WebSockets,
                _ => {}
            }
        }
    }
    for name in asked.matches.get_many::<String>("name").into_iter().flatten() {
        if !settings.names.contains(name) {
            settings.names.push(name.clone());
        }
    }
    for place in asked.matches.get_many::<String>("listener").into_iter().flatten() {
        put(&mut settings.listeners, place)?;
    }
    if settings.port(Kind::Staff).is_none() {
        bail!("the listener for the staff cannot be left out: the service itself comes by it");
    }
    Authority::check_server_names(&settings.names)?;
    // All that was asked for makes sense: from here on things change.
    let installation = Installation::create(&asked.data)?;
    if sources.is_set("DATABASE_URL") {
        settings.own_database = false;
        installation.keep_secret(DATABASE_SECRET, &config.db.url)?;
    }
    installation.remember(&settings)?;
    let listeners: Vec<String> = settings
        .listeners
        .iter()
        .map(|listener| format!("  {}:{}  {}", listener.address, listener.port, meaning(listener.kind)))
        .collect();
    asked.answer(
        &format!(
            "{} in {}\n{}",
            if again { "Changed the set-up" } else { "Set up" },
            installation.data.display(),
            listeners.join("\n")
        ),
        &json!({"status": "success", "folder": installation.data, "listeners": settings.listeners}),
    );
    if asked.matches.get_flag("no-start") {
        return Ok(ExitCode::from(EXIT_OK));
    }
    life::start(asked)
}

/// What an installation that does not run was told before.
fn known(data: &Path) -> anyhow::Result<Option<Settings>> {
    if !data.exists() {
        return Ok(None);
    }
    let installation = Installation::create(data)?;
    if let Some((pid, _)) = installation.runner()? {
        bail!("the broker runs (process {pid}); stop it first: ./mqtt_manage.sh stop");
    }
    installation.settings()
}

fn put(listeners: &mut Vec<Listener>, place: &str) -> anyhow::Result<()> {
    let expected = || format!("--listener {place:?}: KIND=ADDRESS:PORT is expected, such as plain=127.0.0.1:1883, or KIND=off");
    let (kind, place) = place.split_once('=').with_context(expected)?;
    let kind: Kind = serde_json::from_value(json!(kind)).ok().with_context(expected)?;
    let is_web = |kind| matches!(kind, Kind::WebSockets | Kind::SecureWebSockets);
    // WebSockets are one listener, in the clear or not.
    listeners.retain(|listener| listener.kind != kind && !(is_web(listener.kind) && is_web(kind)));
    if place == "off" {
        return Ok(());
    }
    let (address, port) = place.rsplit_once(':').with_context(expected)?;
    let address: std::net::IpAddr = address.parse().ok().with_context(expected)?;
    let port = port.parse().ok().with_context(expected)?;
    listeners.push(Listener {
        kind,
        address: address.to_string(),
        port: if port == 0 { crate::stack::ports::free()? } else { port },
    });
    Ok(())
}

/// What a listener is for, in a few words.
pub(super) fn meaning(kind: Kind) -> &'static str {
    match kind {
        Kind::Staff => "for the service, admins and the simulator",
        Kind::Plain => "MQTT with a password, in the clear",
        Kind::Tls => "MQTT with a password, by TLS",
        Kind::MutualTls => "MQTT with a certificate, by TLS",
        Kind::WebSockets => "MQTT over WebSockets with a password, in the clear",
        Kind::SecureWebSockets => "MQTT over WebSockets with a password, by TLS",
    }
}
