//! `iotflow up`: everything at once, for trying it out: servers of our own where none is named, the service, a fleet.

use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr};
use tokio::time::MissedTickBehavior;
use xxhash_rust::xxh3::xxh3_64;

use crate::app::{App, Ended};
use crate::broker::acl::{self, Role};
use crate::broker::{conf, passwords};
use crate::config::{Config, parse_span};
use crate::lifecycle::signals::Signals;
use crate::observe::accounting::Totals;
use crate::observe::logging;
use crate::observe::secret::Secret;
use crate::stack::account::{Account, write_private};
use crate::stack::mosquitto::{self, Files, Mosquitto};
use crate::stack::ports;
use crate::stack::postgres::{self, Postgres};

use super::display::Display;
use super::{EXIT_FAILED, EXIT_OK, Sources, runtime};

/// The broker's users: the service, and the demonstration fleet.
const SERVICE: &str = "iotflow";
const FLEET: &str = "demo";
/// Longer than anybody watches: eleven days.
const ENDLESS_SECONDS: &str = "950400";
/// How long the last messages may be under way once the fleet has ended.
const SETTLE_WITHIN: Duration = Duration::from_secs(30);

pub(super) fn command() -> Command {
    Command::new("up")
        .about("Start it all: PostgreSQL, Mosquitto, the service and a demonstration fleet")
        .long_about("Starts a private PostgreSQL and a private Mosquitto (unless DATABASE_URL and MQTT_HOST name others), migrates, starts the service and a fleet, and shows how it goes. Exits 0 only if every published message is accounted for and none is lost.")
        .arg(Arg::new("for").long("for").value_name("SPAN").help("End by itself after this time, such as 20s"))
        .arg(Arg::new("data").long("data").value_name("FOLDER").default_value(".iotflow").help("Where everything is kept"))
        .arg(Arg::new("devices").long("devices").value_parser(value_parser!(u32)).default_value("200").help("Devices of the fleet"))
        .arg(Arg::new("rate").long("rate").value_parser(value_parser!(f64)).default_value("1000").help("Messages a second of the whole fleet"))
        .arg(Arg::new("no-fleet").long("no-fleet").action(ArgAction::SetTrue).help("Start no fleet"))
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
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

struct Plan {
    span: Option<Duration>,
    data: PathBuf,
    devices: u32,
    rate: f64,
    fleet: bool,
}

/// The servers that are ours, and how the fleet reaches them.
struct Stack {
    broker: Option<Mosquitto>,
    postgres: Option<Postgres>,
    fleet_login: Option<(String, Secret)>,
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
        let (mut stack, app) = started;
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
        if let Some(broker) = &mut stack.broker {
            broker.halt(Signal::SIGTERM)?;
        }
        if let Some(postgres) = &mut stack.postgres {
            postgres.halt(Signal::SIGINT)?;
        }
        outcome?;
        let balanced = account(&totals, report.as_ref());
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

    async fn start(&self, sources: &Sources, config: &mut Config) -> anyhow::Result<(Stack, App)> {
        let mut stack = Stack {
            broker: None,
            postgres: None,
            fleet_login: None,
        };
        let servers = self.servers_folder()?;
        if sources.is_set("DATABASE_URL") {
            println!("  database  as DATABASE_URL says");
        } else {
            let postgres = self.start_postgres(&servers).await?;
            config.db.url = postgres.url();
            stack.postgres = Some(postgres);
        }
        if sources.is_set("MQTT_HOST") {
            println!("  broker    {}:{}, as MQTT_HOST says", config.mqtt.host, config.mqtt.port);
            stack.fleet_login = config.mqtt.username.clone().zip(config.mqtt.password.clone());
        } else {
            let (broker, port, login, fleet_login) = self.start_mosquitto(&servers, &config.ingest.base_topic).await?;
            (config.mqtt.host, config.mqtt.port, config.mqtt.tls) = ("127.0.0.1".to_owned(), port, None);
            (config.mqtt.username, config.mqtt.password) = (Some(login.0), Some(login.1));
            stack.fleet_login = Some(fleet_login);
            stack.broker = Some(broker);
        }
        if !sources.is_set("PORT") {
            config.api.port = ports::usual_or_free(config.api.port)?;
        }
        let app = App::start(config.clone()).await?;
        println!("  service   http://{}", app.address);
        wait_until_ready(&app).await?;
        Ok((stack, app))
    }

    /// The data folder, or one that the servers' account can reach where it cannot reach that.
    fn servers_folder(&self) -> anyhow::Result<PathBuf> {
        let account = Account::for_servers()?;
        if account.can_reach(&self.data.join("x")) {
            return Ok(self.data.clone());
        }
        let elsewhere = PathBuf::from(format!(
            "/var/tmp/iotflow-{:016x}",
            xxh3_64(self.data.as_os_str().as_encoded_bytes())
        ));
        std::fs::create_dir_all(&elsewhere)?;
        std::fs::write(self.data.join("elsewhere"), format!("{}\n", elsewhere.display()))?;
        println!(
            "  data      the servers' account cannot reach {}; their data is in {}",
            self.data.display(),
            elsewhere.display()
        );
        Ok(elsewhere)
    }

    async fn start_postgres(&self, servers: &Path) -> anyhow::Result<Postgres> {
        let port = ports::usual_or_free(5432)?;
        let password = self.secret("postgres")?;
        let settings = postgres::Settings {
            folder: servers.join("postgres"),
            port,
            password: password.clone(),
            durable: true,
            extra: Vec::new(),
        };
        let server = Postgres::start(settings).await?;
        write_private(
            &self.data.join("pgpass"),
            &format!("127.0.0.1:{port}:*:iotflow:{}\n", password.reveal()),
        )?;
        println!("  database  PostgreSQL on 127.0.0.1:{port}");
        Ok(server)
    }

    async fn start_mosquitto(&self, servers: &Path, base: &str) -> anyhow::Result<(Mosquitto, u16, (String, Secret), (String, Secret))> {
        let port = ports::usual_or_free(1883)?;
        let folder = servers.join("mosquitto");
        let files = Files::of(&folder);
        let (service, fleet) = (self.secret("mqtt-service")?, self.secret("mqtt-demo")?);
        let settings = mosquitto::Settings {
            conf: conf::render(&[
                ("listener", &format!("{port} 127.0.0.1")),
                ("password_file", &files.passwords.display().to_string()),
                ("acl_file", &files.acl.display().to_string()),
                ("persistence_location", &files.data),
            ])?,
            passwords: passwords::line(SERVICE, &service, passwords::salt()?)? + &passwords::line(FLEET, &fleet, passwords::salt()?)?,
            acl: acl::render(base, &[(SERVICE, Role::Service), (FLEET, Role::Fleet)]),
            folder,
            port,
        };
        let broker = Mosquitto::start(settings).await?;
        // Where mosquitto_pub finds its options, so that no password stands on a command line.
        let client = self.data.join("client");
        std::fs::create_dir_all(&client)?;
        write_private(
            &client.join("mosquitto_pub"),
            &format!("-h 127.0.0.1\n-p {port}\n-u {FLEET}\n-P {}\n-V 5\n-q 1\n", fleet.reveal()),
        )?;
        println!("  broker    Mosquitto on 127.0.0.1:{port}");
        Ok((broker, port, (SERVICE.to_owned(), service), (FLEET.to_owned(), fleet)))
    }

    /// A generated secret, kept from one run to the next.
    fn secret(&self, name: &str) -> anyhow::Result<Secret> {
        let folder = self.data.join("secrets");
        std::fs::create_dir_all(&folder)?;
        let file = folder.join(name);
        if let Ok(text) = std::fs::read_to_string(&file) {
            return Ok(Secret::new(text.trim()));
        }
        let secret = passwords::generate()?;
        write_private(&file, secret.reveal())?;
        Ok(secret)
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
        println!(
            "    curl http://{0}/metrics/qos        curl http://{0}/readyz?verbose\n",
            app.address
        );
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

/// The demonstration fleet: the load simulator as a process of its own.
struct Fleet {
    child: Child,
    lines: tokio::io::Lines<BufReader<ChildStderr>>,
    published: u64,
}

impl Fleet {
    fn start(plan: &Plan, config: &Config, stack: &Stack) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?.with_file_name("iotflow-load");
        if !program.exists() {
            bail!(
                "{} is not there; build it with `cargo build --release --workspace`, or start with --no-fleet",
                program.display()
            );
        }
        let seconds = plan
            .span
            .map_or_else(|| ENDLESS_SECONDS.to_owned(), |span| span.as_secs_f64().to_string());
        let ramp = plan.span.map_or(2.0, |span| span.as_secs_f64().min(2.0)).to_string();
        let mut command = tokio::process::Command::new(program);
        command
            .args([
                "run",
                "--qos",
                "1",
                "--profile",
                "default",
                "--prefix",
                "demo-",
                "--connections",
                "10",
                "--report",
                "json",
                "--progress",
                "json",
            ])
            .args([
                "--devices",
                &plan.devices.to_string(),
                "--rate",
                &plan.rate.to_string(),
                "--duration",
                &seconds,
                "--ramp",
                &ramp,
            ])
            .env("MQTT_HOST", &config.mqtt.host)
            .env("MQTT_PORT", config.mqtt.port.to_string())
            .env("MQTT_BASE_TOPIC", &config.ingest.base_topic)
            .env("DATABASE_URL", config.db.url.reveal())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some((username, password)) = &stack.fleet_login {
            command.env("MQTT_USERNAME", username).env("MQTT_PASSWORD", password.reveal());
        }
        let mut child = command.spawn().context("the fleet cannot be started")?;
        let lines = BufReader::new(child.stderr.take().context("it is piped")?).lines();
        Ok(Self {
            child,
            lines,
            published: 0,
        })
    }

    /// Has it stop publishing, count, and report.
    async fn end(mut self) -> anyhow::Result<Value> {
        if let Some(id) = self.child.id() {
            // It may have ended by itself.
            let _ended = nix::sys::signal::kill(Pid::from_raw(i32::try_from(id)?), Signal::SIGINT);
        }
        let mut text = String::new();
        self.child.stdout.take().context("it is piped")?.read_to_string(&mut text).await?;
        let status = self.child.wait().await?;
        serde_json::from_str(text.trim()).with_context(|| format!("the fleet ended without a report ({status})"))
    }
}

/// The fleet's next word. Returns whether it has ended.
async fn next_line(fleet: Option<&mut Fleet>) -> anyhow::Result<bool> {
    let Some(fleet) = fleet else { return std::future::pending().await };
    let Some(line) = fleet.lines.next_line().await? else {
        return Ok(true);
    };
    match serde_json::from_str::<Value>(&line) {
        Ok(progress) => fleet.published = progress["acked"].as_u64().unwrap_or(fleet.published),
        Err(_) => println!("  fleet: {line}"),
    }
    Ok(false)
}

async fn wait_until_ready(app: &App) -> anyhow::Result<()> {
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
    while app.accounting.totals().in_flight() != [0, 0] && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Prints the account and says whether it balances.
fn account(totals: &Totals, report: Option<&Value>) -> bool {
    let sum = |counts: [u64; 2]| counts.iter().sum::<u64>();
    let (received, committed, duplicates, dead, shed) = (
        sum(totals.received),
        sum(totals.committed),
        sum(totals.duplicates),
        sum(totals.dead_lettered),
        sum(totals.shed),
    );
    let stored = committed + duplicates + dead;
    let mut balanced = received == stored + shed && sum(totals.in_flight()) == 0 && sum(totals.abandoned) == 0;
    println!(
        "\n  received  {received} = committed {committed} + duplicates {duplicates} + dead letters {dead} + shed {shed}{}",
        if balanced { "" } else { "   DOES NOT BALANCE" }
    );
    let Some(report) = report else { return balanced };
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let published = number("/acked");
    if published == stored {
        println!("  published {published} = committed {committed} + duplicates {duplicates} + dead letters {dead}");
    } else {
        println!(
            "  published {published} by the fleet; {} more were received: from others, or delivered again",
            i128::from(stored) - i128::from(published)
        );
        balanced &= stored > published;
    }
    let (expected, found, lost, doubled, unexpected) = (
        number("/verified/expected"),
        number("/verified/found"),
        number("/verified/lost"),
        number("/verified/doubled"),
        number("/verified/unexpected"),
    );
    let passed =
        report["verified"].is_object() && lost + doubled + unexpected + number("/unacked") + number("/refused") == 0 && found >= expected;
    println!("  in SQL    {found} of {expected} readings, lost {lost}, doubled {doubled}, unexpected {unexpected}");
    if let Some(latency) = report.pointer("/verified/latency").filter(|latency| latency.is_object()) {
        let ms = |name: &str| latency[name].as_f64().unwrap_or(0.0);
        println!(
            "  latency   from due to committed: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            ms("p50_ms"),
            ms("p99_ms"),
            ms("max_ms")
        );
    }
    println!(
        "  {}",
        if balanced && passed {
            "every message is accounted for, none is lost"
        } else {
            "NOT EVERY MESSAGE IS ACCOUNTED FOR"
        }
    );
    balanced && passed
}
