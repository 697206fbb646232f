//! What the broker says of itself, asked for every so often and kept for whoever wants to know.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::broker::sys::BrokerReport;
use crate::mqtt::config::Config;
use crate::protocol::time;

/// How often it is asked. Mosquitto looks at itself every ten seconds.
const EVERY: Duration = Duration::from_secs(10);
/// How long an answer may take.
const WITHIN: Duration = Duration::from_secs(2);

/// What was last heard.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Heard {
    /// When, in microseconds since 1970; none before the first answer.
    pub at: Option<i64>,
    /// What the broker said then.
    pub report: BrokerReport,
    /// Why nothing newer was heard.
    pub fault: Option<String>,
}

/// Asks until `stop`.
pub async fn watch(config: Config, heard: watch::Sender<Arc<Heard>>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while tokio::select! { () = stop.cancelled() => false, _ = tick.tick() => true } {
        let asked = tokio::select! { () = stop.cancelled() => return, asked = BrokerReport::read(&config, WITHIN) => asked };
        let news = match asked {
            Ok(report) => Heard {
                at: Some(time::now()),
                report,
                fault: None,
            },
            Err(error) => {
                // The sessions say aloud what ails the broker.
                debug!(%error, "the broker says nothing of itself");
                let known = heard.borrow().as_ref().clone();
                Heard {
                    fault: Some(error.to_string()),
                    ..known
                }
            }
        };
        heard.send_replace(Arc::new(news));
    }
}
