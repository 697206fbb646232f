//! What the service says of itself and of the broker, on the system's and the monitoring's topics: figures that are measured.
//!
//! One replica speaks, the one that has the courier's lease. Health and alerts are retained, and expire by themselves: where
//! nobody speaks any more, nothing goes on saying that all is well.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::db::lease::Lease;
use crate::lifecycle::readiness::{Condition, Readiness};
use crate::mqtt::publish::{Message, Properties, QoS};
use crate::mqtt::publisher::Handle;
use crate::observe::accounting::{Accounting, Totals};
use crate::protocol::channels::Channel;
use crate::protocol::topic::TopicTree;

use super::broker::Heard;

/// How often it is looked whether health or alerts have changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often they are said although nothing has changed.
const REPEAT_EVERY: Duration = Duration::from_secs(60);
/// After how long without a word a retained one is forgotten.
const EXPIRY: Duration = Duration::from_secs(180);

/// How often figures are said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// Zero says nothing at all, health and alerts included.
    pub every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        // As often as Mosquitto looks at itself.
        Self {
            every: Duration::from_secs(10),
        }
    }
}

/// The one that speaks.
#[derive(Debug)]
pub struct Speaker {
    /// How often.
    pub config: Config,
    /// The topic tree.
    pub tree: TopicTree,
    /// The way to the broker.
    pub publisher: Handle,
    /// Whether it is this replica that speaks.
    pub lease: watch::Receiver<Lease>,
    /// The condition of every part.
    pub readiness: Readiness,
    /// The account of messages.
    pub accounting: Arc<Accounting>,
    /// What the broker said of itself.
    pub broker: watch::Receiver<Arc<Heard>>,
}

/// What was said last, and when.
#[derive(Debug, Default)]
struct Said {
    health: Option<(Value, Instant)>,
    alerts: Option<(Value, Instant)>,
    totals: Option<(Totals, Instant)>,
    broker_at: Option<i64>,
}

impl Speaker {
    /// Speaks until told to stop.
    pub async fn run(self, stop: CancellationToken) {
        if self.config.every.is_zero() {
            return;
        }
        let mut said = Said::default();
        let (mut look, mut figures) = (tokio::time::interval(LOOK_EVERY), tokio::time::interval(self.config.every));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        figures.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let with_figures = tokio::select! {
                () = stop.cancelled() => return,
                _ = look.tick() => false,
                _ = figures.tick() => true,
            };
            // Unknown: the database is away, which somebody should be told; another replica has no lease either.
            if !matches!(*self.lease.borrow(), Lease::Held { .. } | Lease::Unknown) {
                said = Said::default();
                continue;
            }
            let speaking = async {
                self.say_condition(&mut said).await;
                if with_figures {
                    self.say_figures(&mut said).await;
                }
            };
            tokio::select! { () = stop.cancelled() => return, () = speaking => {} }
        }
    }

    /// Health and alerts, where they have changed, or were not said for a while.
    async fn say_condition(&self, said: &mut Said) {
        let conditions = self.readiness.conditions();
        self.say_anew(Channel::SystemHealth, health(&conditions), &mut said.health).await;
        self.say_anew(Channel::SystemAlerts, json!({"alerts": alerts(&conditions)}), &mut said.alerts)
            .await;
    }

    async fn say_anew(&self, channel: Channel, news: Value, said: &mut Option<(Value, Instant)>) {
        let known = said
            .as_ref()
            .is_some_and(|(known, at)| *known == news && at.elapsed() < REPEAT_EVERY);
        if !known && self.say(channel, news.clone()).await {
            *said = Some((news, Instant::now()));
        }
    }

    async fn say_figures(&self, said: &mut Said) {
        let (totals, now) = (self.accounting.totals(), Instant::now());
        let seconds = said.totals.map(|(_, at)| (now - at).as_secs_f64());
        let figures = metrics(&totals, said.totals.map(|(before, _)| before).as_ref().zip(seconds));
        said.totals = Some((totals, now));
        self.say(Channel::SystemMetrics, figures).await;
        let heard = Arc::clone(&self.broker.borrow());
        // The same figures a second time would be a measurement that nobody made.
        if heard.at.is_none() || heard.at == said.broker_at {
            return;
        }
        said.broker_at = heard.at;
        for (channel, figures) in monitoring(&heard) {
            self.say(channel, figures).await;
        }
    }

    /// Whether it was said. What cannot be said now is said the next time, as it is then.
    async fn say(&self, channel: Channel, mut news: Value) -> bool {
        news["timestamp"] = Timestamp::now().to_string().into();
        let spec = channel.spec();
        let message = Message {
            topic: channel.topic(&self.tree),
            payload: news.to_string().into(),
            qos: if spec.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce },
            retain: spec.retain,
            properties: Properties {
                expiry: spec.retain.then_some(EXPIRY),
                content_type: Some("application/json".to_owned()),
                ..Properties::default()
            },
        };
        let published = self.publisher.publish(message).await;
        if let Err(failure) = &published {
            debug!(channel = spec.name, %failure, "not said");
        }
        published.is_ok()
    }
}

fn health(conditions: &BTreeMap<String, Condition>) -> Value {
    let ready = conditions.values().all(|condition| condition.ready);
    let warned = conditions.values().any(|condition| !condition.warnings.is_empty());
    let status = match (ready, warned) {
        (false, _) => "unhealthy",
        (true, true) => "degraded",
        (true, false) => "healthy",
    };
    let parts: BTreeMap<&str, bool> = conditions
        .iter()
        .map(|(name, condition)| (name.as_str(), condition.ready))
        .collect();
    json!({"status": status, "version": env!("CARGO_PKG_VERSION"), "parts": parts})
}

fn alerts(conditions: &BTreeMap<String, Condition>) -> Vec<Value> {
    let mut alerts = Vec::new();
    for (name, condition) in conditions {
        if !condition.ready {
            alerts.push(json!({"severity": "critical", "part": name, "detail": condition.detail}));
        }
        let warnings = condition.warnings.iter();
        alerts.extend(warnings.map(|warning| json!({"severity": "warning", "part": name, "detail": warning})));
    }
    alerts
}

/// One of the account's figures, by QoS.
type ByQos = fn(&Totals) -> [u64; 2];

/// The account, and what it grew by a second since it was last said.
fn metrics(totals: &Totals, before: Option<(&Totals, f64)>) -> Value {
    let sum = |of: ByQos, totals: &Totals| of(totals).iter().sum::<u64>();
    let kinds: [(&str, ByQos); 5] = [
        ("received", |totals| totals.received),
        ("committed", |totals| totals.committed),
        ("duplicates", |totals| totals.duplicates),
        ("dead_lettered", |totals| totals.dead_lettered),
        ("shed", |totals| totals.shed),
    ];
    let (mut total, mut rates) = (serde_json::Map::new(), serde_json::Map::new());
    for (name, of) in kinds {
        let now = sum(of, totals);
        total.insert(name.to_owned(), now.into());
        if let Some((before, seconds)) = before {
            #[expect(clippy::cast_precision_loss, reason = "a difference of counts over seconds")]
            let rate = now.saturating_sub(sum(of, before)) as f64 / seconds.max(0.001);
            rates.insert(name.to_owned(), ((rate * 10.0).round() / 10.0).into());
        }
    }
    json!({"total": total, "per_second": rates, "in_flight": totals.in_flight.iter().sum::<u64>()})
}

fn monitoring(heard: &Heard) -> [(Channel, Value); 3] {
    let report = &heard.report;
    [
        (
            Channel::MonitoringBroker,
            json!({
                "version": report.version, "uptime_seconds": report.uptime_seconds,
                "heap_bytes": report.heap_bytes, "heap_maximum_bytes": report.heap_maximum_bytes,
                "retained_messages": report.retained_messages, "stored_messages": report.stored_messages,
                "stored_bytes": report.stored_bytes,
            }),
        ),
        (
            Channel::MonitoringClients,
            json!({
                "connected": report.clients_connected, "disconnected": report.clients_disconnected, "total": report.clients_total,
                "maximum": report.clients_maximum, "expired": report.clients_expired,
                "subscriptions": report.subscriptions, "shared_subscriptions": report.shared_subscriptions,
                "connections_per_minute": report.connections_1min,
            }),
        ),
        (
            Channel::MonitoringTraffic,
            json!({
                "messages_received": report.publish_received, "messages_sent": report.publish_sent,
                "messages_dropped": report.publish_dropped,
                "received_per_minute": report.publish_received_1min, "sent_per_minute": report.publish_sent_1min,
                "dropped_per_minute": report.publish_dropped_1min,
                "bytes_received": report.bytes_received, "bytes_sent": report.bytes_sent,
            }),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_as_bad_as_its_worst_part() {
        let condition = |ready, warnings: &[&str]| Condition {
            ready,
            detail: "so".to_owned(),
            warnings: warnings.iter().map(ToString::to_string).collect(),
        };
        let of = |parts: &[(&str, Condition)]| parts.iter().map(|(name, part)| ((*name).to_owned(), part.clone())).collect();
        let well: BTreeMap<_, _> = of(&[("database", condition(true, &[]))]);
        assert_eq!((&health(&well)["status"], alerts(&well).len()), (&json!("healthy"), 0));
        let warned: BTreeMap<_, _> = of(&[("database", condition(true, &["slow"]))]);
        assert_eq!(
            (&health(&warned)["status"], &alerts(&warned)[0]["severity"]),
            (&json!("degraded"), &json!("warning"))
        );
        let ill: BTreeMap<_, _> = of(&[("broker", condition(false, &[])), ("database", condition(true, &["slow"]))]);
        assert_eq!((&health(&ill)["status"], alerts(&ill).len()), (&json!("unhealthy"), 2));
    }

    #[test]
    fn rates_are_differences_over_time() {
        let before = Totals {
            received: [10, 10],
            ..Totals::default()
        };
        let now = Totals {
            received: [30, 40],
            ..Totals::default()
        };
        let said = metrics(&now, Some((&before, 10.0)));
        assert_eq!(
            (&said["total"]["received"], &said["per_second"]["received"]),
            (&json!(70), &json!(5.0))
        );
        assert!(metrics(&now, None)["per_second"]["received"].is_null());
    }
}
