//! `run`: plays the scenario from all connections, shows how it goes, verifies, reports, judges.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use crate::device::{Live, Phase, Plan, Player, Tally};
use crate::payload::Profile;
use crate::report::{Quantiles, Report};
use crate::scenario::Scenario;
use crate::schedule::Schedule;
use crate::verify::{self, Database, Expected};
use crate::wire::Broker;

/// The arguments of `run`. Each given one replaces the scenario's value.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A TOML file with a scenario.
    #[arg(long)]
    scenario: Option<PathBuf>,
    #[command(flatten)]
    broker: Broker,
    #[command(flatten)]
    database: Database,
    /// How many devices.
    #[arg(long)]
    devices: Option<u32>,
    /// Messages a second of the whole fleet; 0 sends as many as the broker takes.
    #[arg(long)]
    rate: Option<f64>,
    /// Seconds between two messages of one device, in place of a rate.
    #[arg(long, conflicts_with = "rate")]
    interval: Option<f64>,
    /// 0, 1 or 2.
    #[arg(long)]
    qos: Option<u8>,
    /// What the messages look like.
    #[arg(long)]
    profile: Option<Profile>,
    /// Seconds in which the rate grows to its full height.
    #[arg(long)]
    ramp: Option<f64>,
    /// Seconds of playing.
    #[arg(long)]
    duration: Option<f64>,
    /// Stop after this many messages.
    #[arg(long)]
    messages: Option<u64>,
    /// Seeds the values.
    #[arg(long)]
    seed: Option<u64>,
    /// Connections that the devices share.
    #[arg(long)]
    connections: Option<u32>,
    /// What device ids begin with.
    #[arg(long)]
    prefix: Option<String>,
    /// The base topic.
    #[arg(long, env = "MQTT_BASE_TOPIC")]
    base_topic: Option<String>,
    /// Lost readings allowed.
    #[arg(long)]
    max_lost: Option<u64>,
    /// 99th percentile allowed from due to committed, in milliseconds.
    #[arg(long)]
    max_p99_ms: Option<f64>,
    /// Table for people or JSON for programs, on standard output.
    #[arg(long, value_enum, default_value_t = Output::Table)]
    report: Output,
    /// How the run shows itself while it goes, on standard error.
    #[arg(long, value_enum, default_value_t = Progress::Bar)]
    progress: Progress,
    /// Most seconds to wait for the last acks.
    #[arg(long, default_value_t = 30.0)]
    drain_seconds: f64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Progress {
    /// A bar.
    Bar,
    /// A JSON object a line.
    Json,
    None,
}

impl Args {
    fn scenario(&self) -> anyhow::Result<Scenario> {
        let mut scenario = self.scenario.as_deref().map_or_else(|| Ok(Scenario::default()), Scenario::load)?;
        fn replace<T: Clone>(value: &mut T, given: &Option<T>) {
            if let Some(given) = given {
                value.clone_from(given);
            }
        }
        replace(&mut scenario.devices, &self.devices);
        if self.rate.is_some() {
            scenario.interval_seconds = None;
        }
        replace(&mut scenario.rate, &self.rate);
        scenario.interval_seconds = self.interval.or(scenario.interval_seconds);
        replace(&mut scenario.qos, &self.qos);
        replace(&mut scenario.profile, &self.profile);
        replace(&mut scenario.ramp_seconds, &self.ramp);
        replace(&mut scenario.duration_seconds, &self.duration);
        scenario.messages = self.messages.or(scenario.messages);
        replace(&mut scenario.seed, &self.seed);
        replace(&mut scenario.connections, &self.connections);
        replace(&mut scenario.prefix, &self.prefix);
        replace(&mut scenario.base_topic, &self.base_topic);
        scenario.thresholds.max_lost = self.max_lost.or(scenario.thresholds.max_lost);
        scenario.thresholds.max_p99_ms = self.max_p99_ms.or(scenario.thresholds.max_p99_ms);
        scenario.connections = scenario.connections.min(scenario.devices);
        scenario.check()?;
        Ok(scenario)
    }
}

/// Runs `run`. Returns whether every threshold was kept.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let scenario = args.scenario()?;
    let plan = Arc::new(Plan {
        schedule: Schedule::new(scenario.fleet_rate(), scenario.ramp_seconds),
        run: format!("{:08x}", fastrand::u32(..)),
        broker: args.broker.clone(),
        start_micros: jiff::Timestamp::now().as_microsecond(),
        start: Instant::now(),
        live: Live::default(),
        scenario,
    });
    let (phases, phase) = watch::channel(Phase::Play);
    let mut players = JoinSet::new();
    for index in 0..plan.scenario.connections {
        players.spawn(Player::new(Arc::clone(&plan), index).run(phase.clone()));
    }
    let tallies = attend(&args, &plan, &phases, players).await;
    let seconds = plan.start.elapsed().as_secs_f64();
    let mut report = report(&plan, &tallies, seconds);
    report.verified = verify::verify(&args.database, &report.expected).await?;
    report.judge();
    match args.report {
        Output::Table => println!("{}", report.table()),
        Output::Json => println!("{}", serde_json::to_string(&report)?),
    }
    Ok(report.failures.is_empty())
}

/// Waits for the players, tells them when to drain and when to leave, and shows how they get on.
async fn attend(args: &Args, plan: &Plan, phases: &watch::Sender<Phase>, mut players: JoinSet<Tally>) -> Vec<Tally> {
    let bar = bar(args, plan);
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let drain = Duration::from_secs_f64(args.drain_seconds);
    let mut drain_at = plan.start + plan.scenario.duration() + Duration::from_millis(100);
    let mut leave_at = drain_at + drain;
    let mut tallies = Vec::new();
    while !players.is_empty() {
        tokio::select! {
            Some(player) = players.join_next() => tallies.extend(player.ok()),
            _ = tick.tick() => show(args, plan, bar.as_ref()),
            () = tokio::time::sleep_until(drain_at), if *phases.borrow() == Phase::Play => drop(phases.send_replace(Phase::Drain)),
            () = tokio::time::sleep_until(leave_at), if *phases.borrow() == Phase::Drain => drop(phases.send_replace(Phase::Leave)),
            _ = tokio::signal::ctrl_c() => {
                // The first ends the sending, the second the waiting.
                let now = Instant::now();
                (drain_at, leave_at) = if *phases.borrow() == Phase::Play { (now, now + drain) } else { (now, now) };
            }
        }
    }
    show(args, plan, bar.as_ref());
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    tallies
}

fn bar(args: &Args, plan: &Plan) -> Option<ProgressBar> {
    let style = ProgressStyle::with_template("{elapsed_precise} {bar:30} {msg}").expect("a sound template");
    (args.progress == Progress::Bar)
        .then(|| ProgressBar::new(u64::try_from(plan.scenario.duration().as_millis()).unwrap_or(u64::MAX)).with_style(style))
}

fn show(args: &Args, plan: &Plan, bar: Option<&ProgressBar>) {
    let (sent, acked, elapsed) = (
        plan.live.sent.load(Ordering::Relaxed),
        plan.live.acked.load(Ordering::Relaxed),
        plan.start.elapsed(),
    );
    if let Some(bar) = bar {
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let rate = sent as f64 / elapsed.as_secs_f64().max(0.001);
        bar.set_position(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        bar.set_message(format!("{sent} sent, {acked} acked, {rate:.0}/s"));
    }
    if args.progress == Progress::Json {
        let line = serde_json::json!({"seconds": elapsed.as_secs_f64(), "sent": sent, "acked": acked, "reconnects": plan.live.reconnects.load(Ordering::Relaxed)});
        // Whoever reads this may have left; the run goes on.
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}

fn report(plan: &Plan, tallies: &[Tally], seconds: f64) -> Report {
    let scenario = &plan.scenario;
    let readings = u64::from(scenario.profile.readings());
    let mut histograms = [(); 2].map(|()| hdrhistogram::Histogram::new_with_bounds(1, 600_000_000, 3).expect("sound bounds"));
    let mut sent = Vec::new();
    let mut uncertain = Vec::new();
    for tally in tallies {
        histograms[0] += &tally.ack_latency;
        histograms[1] += &tally.lag;
        sent.extend(
            tally
                .sent_by_device
                .iter()
                .map(|(device, messages)| (scenario.device_id(*device), messages * readings)),
        );
        // One message can be more than one of these.
        let doubtful: BTreeSet<(u32, u64)> = [&tally.unacked, &tally.refused, &tally.without_subscriber]
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for (device, round) in doubtful {
            uncertain.extend((1..=readings).map(|index| (scenario.device_id(device), round * readings + index)));
        }
    }
    let sum = |count: fn(&Tally) -> u64| tallies.iter().map(count).sum::<u64>();
    let total = plan.live.sent.load(Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 are below 2^53")]
    let start = plan.start_micros as f64 / 1e6;
    Report {
        scenario: scenario.clone(),
        started_at: start,
        sent: total,
        acked: sum(|tally| tally.acked),
        refused: sum(|tally| tally.refused.len() as u64),
        without_subscriber: sum(|tally| tally.without_subscriber.len() as u64),
        unacked: sum(|tally| tally.unacked.len() as u64),
        reconnects: plan.live.reconnects.load(Ordering::Relaxed),
        seconds,
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        rate: total as f64 / seconds,
        ack_latency: Quantiles::of(&histograms[0]),
        generator_lag: Quantiles::of(&histograms[1]),
        generator_bound: false,
        // Readings gathered into one message reach back before the start, by one device interval at most.
        expected: Expected {
            sent,
            uncertain,
            span: (start - reach_back(scenario), start + seconds + 60.0),
            late_ms: scenario.thresholds.late_ms,
        },
        verified: None,
        failures: Vec::new(),
    }
}

fn reach_back(scenario: &Scenario) -> f64 {
    match scenario.profile.readings() {
        1 => 0.0,
        readings if scenario.fleet_rate() > 0.0 => {
            f64::from(scenario.devices) / scenario.fleet_rate() * f64::from(readings - 1) / f64::from(readings)
        }
        _ => 0.001,
    }
}
