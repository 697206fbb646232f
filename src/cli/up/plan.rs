//! The order of things: start, say what to try, watch, stop, account.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use tokio::time::MissedTickBehavior;

use crate::api::server;
use crate::app::{App, Ended};
use crate::cli::{DATA, EXIT_FAILED, EXIT_OK, Sources, runtime};
use crate::config::{Config, parse_span};
use crate::lifecycle::signals::Signals;
use crate::observe::logging;

use super::account;
use super::display::Display;
use super::fleet::{Fleet, next_line};
use super::servers::Stack;

/// How long the last messages may be under way once the fleet has ended.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

pub(in crate::cli) fn command() -> Command {
    Command::new("up")
        .about("Start it all: PostgreSQL, Mosquitto, the service and a demonstration fleet")
        .long_about("Starts a private PostgreSQL and a private Mosquitto (unless DATABASE_URL and MQTT_HOST name others), migrates, starts the service and a fleet, and shows how it goes. Exits 0 only if every published message is accounted for and none is lost.")
        .arg(Arg::new("for").long("for").value_name("SPAN").help("End by itself after this time, such as 20s"))
        .arg(Arg::new("data").long("data").value_name("FOLDER").default_value(DATA).help("Where everything is kept"))
        .arg(Arg::new("devices").long("devices").value_parser(value_parser!(u32)).default_value("200").help("Devices of the fleet"))
        .arg(Arg::new("rate").long("rate").value_parser(value_parser!(f64)).default_value("1000").help("Messages a second of the whole fleet"))
        .arg(Arg::new("no-fleet").long("no-fleet").action(ArgAction::SetTrue).help("Start no fleet"))
}

pub(in crate::cli) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let sources = Sources::new(matches)?;
    let span = match matches.get_one::<String>("for") {
        Some(text) => Some(parse_span(text).with_context(|| format!("--for {text:?}: a time span such as 20s or 5m is expected"))?),
        None => None,
    };
    let data = matches.get_one::<String>("data").map(PathBuf::from).context("it has a default")?;
    std::fs::create_dir_all(&data).with_context(|| format!("{} cannot be made", data.display()))?;
    let plan = Plan {
        span,
        data: data.canonicalize()?,
        devices: *matches.get_one("devices").context("it has a default")?,
        rate: *matches.get_one("rate").context("it has a default")?,
        fleet: !matches.get_flag("no-fleet"),
    };
    runtime()?.block_on(plan.run(&sources))
}

/// What the command line asked for.
pub(super) struct Plan {
    pub(super) span: Option<Duration>,
    pub(super) data: PathBuf,
    pub(super) devices: u32,
    pub(super) rate: f64,
    fleet: bool,
}

impl Plan {
    async fn run(&self, sources: &Sources) -> anyhow::Result<ExitCode> {
        let mut config = sources.config()?;
        if config.log.file.is_none() {
            config.log.file = Some(self.data.join("iotflow.log"));
        }
        logging::start(&config.log)?;
        let mut signals = Signals::new()?;
        // From here on a signal ends the start as well, and what was started ends with its handle.
        let started = tokio::select! {
            started = self.start(sources, &mut config) => started?,
            _ = signals.next() => return Ok(ExitCode::from(EXIT_OK)),
        };
        let (stack, app) = started;
        self.say_what_to_try(&config, &stack, &app)?;

        let mut fleet = if self.fleet {
            Some(Fleet::start(self, &config, &stack)?)
        } else {
            None
        };
        let outcome = self.watch(&app, fleet.as_mut(), &mut signals).await;
        let report = match fleet {
            Some(fleet) => Some(fleet.end().await?),
            None => None,
        };
        settle(&app).await;
        let totals = app.accounting.totals();
        let ended = app.stop().await;
        stack.stop().await?;
        outcome?;
        let balanced = account::print(&totals, report.as_ref());
        if ended != Ended::Drained {
            println!(
                "  the service did not end in order: {ended:?}; see {}",
                self.data.join("iotflow.log").display()
            );
        }
        Ok(ExitCode::from(if balanced && ended == Ended::Drained {
            EXIT_OK
        } else {
            EXIT_FAILED
        }))
    }

    fn say_what_to_try(&self, config: &Config, stack: &Stack, app: &App) -> anyhow::Result<()> {
        let here = std::env::current_dir()?;
        let data = match self.data.strip_prefix(&here) {
            Ok(below) if below.as_os_str().is_empty() => Path::new("."),
            Ok(below) => below,
            Err(_) => &self.data,
        }
        .display();
        println!("\n  Try next, in another terminal:");
        if stack.broker.is_some() {
            println!(
                "    XDG_CONFIG_HOME={data}/client mosquitto_pub -t {}/devices/my-sensor/telemetry/sensors -m '{{\"temperature\":21.5}}'",
                config.ingest.base_topic
            );
        }
        if stack.postgres.is_some() {
            let url = config.db.url.reveal().parse::<tokio_postgres::Config>()?;
            let port = url.get_ports().first().copied().unwrap_or(5432);
            println!(
                "    PGPASSFILE={data}/pgpass psql -h 127.0.0.1 -p {port} -U iotflow iotflow -c \"SELECT * FROM readings WHERE device = 'my-sensor' ORDER BY time DESC LIMIT 5\""
            );
        }
        let address = server::from_here(app.address);
        println!("    curl http://{address}/metrics/qos        curl http://{address}/readyz?verbose");
        // The token of whoever asks; the page asks for it.
        let program = std::env::current_exe().map_or_else(|_| "iotflow".to_owned(), |path| path.display().to_string());
        let program = program.strip_prefix(&format!("{}/", here.display())).unwrap_or(&program).to_owned();
        println!("    {program} token create me --role admin        and with it http://{address}/docs\n");
        Ok(())
    }

    /// Shows how it goes until the time is up, the fleet has ended, or a signal came.
    async fn watch(&self, app: &App, mut fleet: Option<&mut Fleet>, signals: &mut Signals) -> anyhow::Result<()> {
        let mut display = Display::new();
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let deadline = tokio::time::Instant::now() + self.span.unwrap_or(Duration::from_secs(u64::from(u32::MAX)));
        loop {
            let published = fleet.as_ref().map_or(0, |fleet| fleet.published);
            tokio::select! {
                _ = tick.tick() => display.show(published, &app.accounting, &app.metrics),
                _ = signals.next() => return Ok(()),
                () = tokio::time::sleep_until(deadline), if fleet.is_none() => return Ok(()),
                ended = next_line(fleet.as_deref_mut()) => {
                    if ended? {
                        display.show(fleet.as_ref().map_or(0, |fleet| fleet.published), &app.accounting, &app.metrics);
                        return Ok(());
                    }
                }
            }
        }
    }
}

pub(super) async fn wait_until_ready(app: &App) -> anyhow::Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while !app.readiness.is_ready() {
        if tokio::time::Instant::now() > deadline {
            let parts: Vec<String> = app
                .readiness
                .conditions()
                .into_iter()
                .filter(|(_, part)| !part.ready)
                .map(|(name, part)| format!("{name}: {}", part.detail))
                .collect();
            bail!("the service does not become ready: {}", parts.join("; "));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Waits until nothing is in flight any more, for a bounded time.
async fn settle(app: &App) {
    let deadline = tokio::time::Instant::now() + SETTLE_WITHIN;
    while app.accounting.totals().in_flight != [0, 0] && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
