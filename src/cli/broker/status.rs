//! `status`: whether the broker runs, where it listens, what it says of itself, and whether it obeys the database.

use std::net::{TcpStream, ToSocketAddrs as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Command;
use serde::Serialize;

use crate::broker::conf::{Kind, Listener};
use crate::broker::process::Process;
use crate::broker::sys::BrokerReport;
use crate::cli::{EXIT_FAILED, EXIT_OK, runtime};
use crate::config::Config;
use crate::db::error::describe;
use crate::db::pool;
use crate::mqtt::config::Config as MqttConfig;

use super::Asked;
use super::compose;
use super::place::Place;
use super::status_output;

const CONNECT_WITHIN: Duration = Duration::from_secs(1);
const REPORT_WITHIN: Duration = Duration::from_secs(2);
const ACCESS: &str = "
    SELECT version = applied_version, alarm, to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'),
           (SELECT count(*) FROM broker_users)
    FROM broker_access";

pub(super) fn command() -> Command {
    Command::new("status").about("Show whether the broker runs, its listeners, clients and message rates")
}

/// The broker, and what keeps it.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) running: bool,
    #[serde(flatten)]
    pub(super) process: Run,
    pub(super) listeners: Vec<Door>,
    /// What it says of itself; none where it is not asked, for it does not run.
    pub(super) broker: Option<Said<BrokerReport>>,
    pub(super) access: Said<Access>,
}

/// What runs it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Run {
    Pid(Option<i32>),
    Containers(Vec<compose::Container>),
}

/// A listener, and whether it takes connections.
#[derive(Debug, Serialize)]
pub(super) struct Door {
    pub(super) kind: Kind,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) open: bool,
}

/// Who may do what.
#[derive(Debug, Serialize)]
pub(super) struct Access {
    pub(super) users: i64,
    pub(super) in_force: bool,
    pub(super) applied_at: Option<String>,
    pub(super) alarm: Option<String>,
}

/// An answer, or why there is none.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Said<T> {
    Answer(T),
    Error { error: String },
}

impl<T> Said<T> {
    fn of(answer: anyhow::Result<T>) -> Self {
        answer.map_or_else(
            |error| Self::Error {
                error: format!("{error:#}"),
            },
            Self::Answer,
        )
    }
}

pub(super) fn run(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let (installation, settings) = asked.installation()?;
    let config = asked.sources()?.config()?;
    let (running, process) = match &asked.place {
        Place::Local => {
            let kept = installation.runner()?.is_some();
            let pid = Process::File(installation.broker().pid()).id()?.filter(|_| kept);
            (pid.is_some(), Run::Pid(pid))
        }
        Place::Compose(compose) => {
            let containers = compose.containers()?;
            (compose::is_running(&containers), Run::Containers(containers))
        }
    };
    let status = runtime()?.block_on(async {
        Status {
            running,
            process,
            listeners: settings.listeners.iter().map(door).collect(),
            broker: match running {
                true => Some(Said::of(report(&config.mqtt).await)),
                false => None,
            },
            access: Said::of(access(&config).await),
        }
    });
    status_output::print(&status, asked)?;
    Ok(ExitCode::from(if status.is_well() { EXIT_OK } else { EXIT_FAILED }))
}

impl Status {
    /// It runs, answers, and the last change is not known to have gone wrong.
    pub(super) fn is_well(&self) -> bool {
        let answers = matches!(self.broker, Some(Said::Answer(_)));
        answers && matches!(&self.access, Said::Answer(access) if access.alarm.is_none()) && self.listeners.iter().all(|door| door.open)
    }
}

/// As the service, at the staff's listener.
async fn report(config: &MqttConfig) -> anyhow::Result<BrokerReport> {
    let (user, password) = config
        .username
        .as_deref()
        .zip(config.password.clone())
        .context("the service has no user at the broker yet")?;
    let config = MqttConfig {
        connect_timeout: REPORT_WITHIN,
        ..config.errand(user, password)
    };
    Ok(BrokerReport::read(&config, REPORT_WITHIN).await?)
}

async fn access(config: &Config) -> anyhow::Result<Access> {
    let asked = async {
        let client = pool::connect(&config.db, "broker").await?;
        client.query_one(ACCESS, &[]).await
    };
    let row = asked
        .await
        .map_err(|error| anyhow::anyhow!(describe(&error)))
        .context("the database cannot be asked")?;
    Ok(Access {
        in_force: row.get(0),
        alarm: row.get(1),
        applied_at: row.get(2),
        users: row.get(3),
    })
}

fn door(listener: &Listener) -> Door {
    let places = (listener.reached_at(), listener.port).to_socket_addrs();
    Door {
        kind: listener.kind,
        address: listener.address.clone(),
        port: listener.port,
        open: places.is_ok_and(|mut places| places.any(|place| TcpStream::connect_timeout(&place, CONNECT_WITHIN).is_ok())),
    }
}
