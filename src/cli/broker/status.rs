//! `status`: whether the broker runs, where it listens, and whether it obeys the database.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Command;
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::{Value, json};

use crate::broker::conf::Listener;
use crate::broker::process::Process;
use crate::cli::installation::folder::Installation;
use crate::cli::{EXIT_FAILED, EXIT_OK, Sources, runtime};
use crate::db::pool;

use super::Asked;
use super::setup::meaning;

const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const ACCESS: &str = "
    SELECT version, applied_version, alarm, to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
           (SELECT count(*) FROM broker_users)
    FROM broker_access";

pub(super) fn command() -> Command {
    Command::new("status").about("Show whether the broker runs, its listeners, clients and message rates")
}

pub(super) fn run(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let installation = Installation::open(&asked.data)?;
    let settings = installation.settings()?.context("it is there")?;
    let config = Sources::with_installation(asked.matches, &asked.data)?.config()?;
    let runner = installation.runner()?;
    let pid = Process::File(installation.broker().pid()).id()?.filter(|_| runner.is_some());
    let listeners: Vec<(&Listener, bool)> = settings.listeners.iter().map(|listener| (listener, answers(listener))).collect();
    let access = runtime()?.block_on(async {
        let client = pool::connect(&config.db, "broker")
            .await
            .context("the database cannot be reached")?;
        let row = client.query_one(ACCESS, &[]).await?;
        let (version, applied): (i64, i64) = (row.get(0), row.get(1));
        anyhow::Ok(json!({
            "users": row.get::<_, i64>(4), "version": version, "applied_version": applied, "in_force": version == applied,
            "applied_at": row.get::<_, Option<String>>(3), "alarm": row.get::<_, Option<String>>(2),
        }))
    });
    let access = access.unwrap_or_else(|error| json!({"error": format!("{error:#}")}));
    let healthy = pid.is_some() && listeners.iter().any(|(_, open)| *open) && access["alarm"].is_null() && access["error"].is_null();
    if asked.json {
        let listeners: Vec<Value> = listeners
            .iter()
            .map(|(listener, open)| json!({"kind": listener.kind, "address": listener.address, "port": listener.port, "open": open}))
            .collect();
        println!(
            "{}",
            json!({
                "status": if healthy { "success" } else { "error" }, "running": pid.is_some(), "pid": pid, "listeners": listeners,
                "access": access,
            })
        );
    } else {
        show(pid, &listeners, &access);
    }
    Ok(ExitCode::from(if healthy { EXIT_OK } else { EXIT_FAILED }))
}

fn show(pid: Option<i32>, listeners: &[(&Listener, bool)], access: &Value) {
    match pid {
        Some(pid) => println!("Mosquitto is running (process {pid})"),
        None => println!("Mosquitto is not running; start it: ./mqtt_manage.sh start"),
    }
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["listener", "for", ""]);
    for (listener, open) in listeners {
        table.add_row([
            format!("{}:{}", listener.address, listener.port),
            meaning(listener.kind).to_owned(),
            if *open { "open" } else { "closed" }.to_owned(),
        ]);
    }
    println!("{table}");
    if let Some(error) = access["error"].as_str() {
        println!("Users: {error}");
    } else if let Some(alarm) = access["alarm"].as_str() {
        println!("ALARM: the last change of users is not in force: {alarm}");
    } else if access["in_force"] == true {
        println!(
            "{} users, in force since {}",
            access["users"],
            access["applied_at"].as_str().unwrap_or("-")
        );
    } else {
        println!("{} users; the last change is not in force yet", access["users"]);
    }
}

fn answers(listener: &Listener) -> bool {
    let host = if listener.address == "0.0.0.0" {
        "127.0.0.1"
    } else {
        listener.address.as_str()
    };
    let Ok(mut places) = (host, listener.port).to_socket_addrs() else {
        return false;
    };
    places.any(|place| TcpStream::connect_timeout(&place, CONNECT_WITHIN).is_ok())
}
