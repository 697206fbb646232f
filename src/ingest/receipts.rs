//! Receipts for committed telemetry pass through here: asked for with a publish, sent when its batch is committed.
//!
//! ```text
//! PUBLISH with Response Topic ─► Asked::by ─► Reply, with the delivery ─► commit ─► Outbox ─► run ─► publisher ─► device
//! ```
//!
//! A device asks by an MQTT 5 Response Topic of its own, and gets its Correlation Data back. A receipt is no promise: where the
//! outbox is full it is dropped, and counted; the device that misses one sends again, and is told `duplicate`. QoS 0 that is
//! shed has none.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use rumqttc::v5::mqttbytes::v5::PublishProperties;
use serde_json::json;
use tokio::sync::mpsc;

use crate::mqtt::publish::{Message, Properties, QoS};
use crate::mqtt::publisher::{Answer, Handle};
use crate::observe::metrics::Metrics;
use crate::protocol::channels::Channel;
use crate::protocol::id::DeviceIdRef;
use crate::protocol::time;
use crate::protocol::topic::TopicTree;

use super::reply::{Reply, Verdict};

/// Receipts that wait to be published. With the largest correlation data and topics these are some tens of megabytes.
const WAITING: usize = 16_384;
/// Publishes under way at once: the broker's round trips go side by side.
const UNDER_WAY: usize = 64;
/// Longer correlation data are refused: what waits here is memory.
const MAX_CORRELATION_BYTES: usize = 512;
/// The longest text of a dead letter's detail that goes into a receipt, in characters.
const MAX_DETAIL_CHARS: usize = 500;

/// A receipt on its way.
#[derive(Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The device's own topic for it.
    pub topic: String,
    /// What the device told its message apart by.
    pub correlation: Option<Bytes>,
    /// What became of the message.
    pub verdict: Verdict,
}

impl Receipt {
    /// The payload: `{"status":"committed","time":…}`, and of a dead letter its reason and detail.
    fn payload(&self) -> Bytes {
        let at = jiff::Timestamp::from_microsecond(time::now()).unwrap_or_default();
        let mut object = json!({ "status": self.verdict.as_str(), "time": at.to_string() });
        if let Verdict::DeadLettered(rejection) = &self.verdict {
            object["reason"] = rejection.reason.as_str().into();
            object["detail"] = rejection.detail.chars().take(MAX_DETAIL_CHARS).collect::<String>().into();
        }
        object.to_string().into()
    }

    fn message(&self) -> Message {
        Message {
            topic: self.topic.clone(),
            payload: self.payload(),
            qos: QoS::AtLeastOnce,
            retain: false,
            properties: Properties {
                correlation: self.correlation.clone(),
                content_type: Some("application/json".to_owned()),
                ..Properties::default()
            },
        }
    }
}

/// The end into which receipts are put; bounded, and never waited for.
#[derive(Debug, Clone)]
pub struct Outbox {
    sender: mpsc::Sender<Receipt>,
    metrics: Arc<Metrics>,
}

impl Outbox {
    /// An outbox, and the end that [`run`] empties.
    #[must_use]
    pub fn new(metrics: Arc<Metrics>) -> (Self, mpsc::Receiver<Receipt>) {
        let (sender, inbox) = mpsc::channel(WAITING);
        (Self { sender, metrics }, inbox)
    }

    /// Puts a receipt in, or drops it where it is full.
    pub fn put(&self, receipt: Receipt) {
        if self.sender.try_send(receipt).is_err() {
            self.metrics.receipts.dropped.increment(1);
        }
    }
}

/// Judges who may have a receipt: what a subscriber asks of each publish, where receipts are switched on.
#[derive(Debug, Clone)]
pub struct Asked {
    tree: TopicTree,
    outbox: Outbox,
}

impl Asked {
    /// Receipts for the devices of `tree`.
    #[must_use]
    pub fn new(tree: TopicTree, outbox: Outbox) -> Self {
        Self { tree, outbox }
    }

    /// The reply that a publish asks for, if it asks for one and may have it: the response topic must be the device's own
    /// `receipts`, or below it. Anything else would be a way to publish where the device may not.
    #[must_use]
    pub fn by(&self, topic: &[u8], properties: &mut PublishProperties) -> Option<Box<Reply>> {
        let response = properties.response_topic.take()?;
        let correlation = properties.correlation_data.take();
        let is_own = self.tree.device(topic).is_some_and(|device| self.is_receipts_of(device, &response));
        if !is_own || correlation.as_ref().is_some_and(|data| data.len() > MAX_CORRELATION_BYTES) {
            self.outbox.metrics.receipts.refused.increment(1);
            return None;
        }
        Some(Box::new(Reply::Receipt {
            outbox: self.outbox.clone(),
            topic: response,
            // A slice of what the socket was read into would keep all of that.
            correlation: correlation.map(|data| Bytes::copy_from_slice(&data)),
        }))
    }

    fn is_receipts_of(&self, device: DeviceIdRef<'_>, response: &str) -> bool {
        let own = Channel::Receipts.of_device(&self.tree, device);
        let below = response.strip_prefix(own.as_str());
        let is_name = response.len() <= 256 && !response.contains(['+', '#']) && !response.contains(char::is_control);
        is_name && below.is_some_and(|below| below.is_empty() || below.strip_prefix('/').is_some_and(|rest| !rest.is_empty()))
    }
}

/// Publishes receipts until the outbox is gone and empty.
pub async fn run(inbox: mpsc::Receiver<Receipt>, publisher: Handle, metrics: Arc<Metrics>) {
    let (publisher, metrics) = (&publisher, &metrics);
    futures_util::stream::unfold(inbox, async |mut inbox| Some((inbox.recv().await?, inbox)))
        .for_each_concurrent(UNDER_WAY, async |receipt| match publisher.publish(receipt.message()).await {
            // A device that is not subscribed any more does not want it.
            Ok(Answer::Taken | Answer::NoSubscribers) => metrics.receipts.sent.increment(1),
            Err(_) => metrics.receipts.dropped.increment(1),
        })
        .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::reject::{Reason, Rejection};

    const TOPIC: &[u8] = b"iotflow/devices/d1/telemetry/sensors";

    fn asked() -> (Asked, mpsc::Receiver<Receipt>) {
        let (outbox, inbox) = Outbox::new(Metrics::new());
        (Asked::new(TopicTree::new("iotflow").expect("a base topic"), outbox), inbox)
    }

    fn wanting(response: &str, correlation: usize) -> PublishProperties {
        PublishProperties {
            response_topic: Some(response.to_owned()),
            correlation_data: Some(vec![7; correlation].into()),
            ..Default::default()
        }
    }

    #[test]
    fn only_a_topic_of_the_devices_own_is_answered() {
        let (asked, _inbox) = asked();
        for own in ["iotflow/devices/d1/receipts", "iotflow/devices/d1/receipts/a/b"] {
            assert!(asked.by(TOPIC, &mut wanting(own, 4)).is_some(), "{own}");
        }
        for other in [
            "iotflow/devices/d2/receipts",
            "iotflow/devices/d1/receiptsx",
            "iotflow/devices/d1/receipts/",
            "iotflow/devices/d1/receipts/+",
            "iotflow/devices/d1/receipts/#",
            "iotflow/devices/d1/commands/control",
            "iotflow/devices/d1/receipts/a\u{7}",
            "elsewhere",
            "",
        ] {
            assert!(asked.by(TOPIC, &mut wanting(other, 4)).is_none(), "{other}");
        }
        let own = "iotflow/devices/d1/receipts";
        assert!(asked.by(TOPIC, &mut wanting(own, MAX_CORRELATION_BYTES + 1)).is_none());
        assert!(asked.by(b"iotflow/devices/a b/telemetry", &mut wanting(own, 4)).is_none());
        assert!(asked.by(TOPIC, &mut PublishProperties::default()).is_none());
    }

    #[test]
    fn a_full_outbox_drops_and_a_told_reply_is_in_it() {
        let (asked, mut inbox) = asked();
        let reply = asked
            .by(TOPIC, &mut wanting("iotflow/devices/d1/receipts", 4))
            .expect("it is its own");
        assert!(inbox.try_recv().is_err(), "nothing is said before it is told");
        let rejection = Rejection::new(Reason::NotJson, "x".repeat(2 * MAX_DETAIL_CHARS));
        reply.tell(Verdict::DeadLettered(rejection));
        let receipt = inbox.try_recv().expect("it was told");
        assert_eq!(receipt.correlation.as_deref(), Some([7; 4].as_slice()));
        let payload: serde_json::Value = serde_json::from_slice(&receipt.payload()).expect("JSON");
        assert_eq!(
            (&payload["status"], &payload["reason"]),
            (&"dead_lettered".into(), &"not_json".into())
        );
        assert_eq!(payload["detail"].as_str().map(str::len), Some(MAX_DETAIL_CHARS));
        for _ in 0..WAITING + 1 {
            let reply = asked
                .by(TOPIC, &mut wanting("iotflow/devices/d1/receipts", 0))
                .expect("it is its own");
            reply.tell(Verdict::Committed);
        }
        assert_eq!(inbox.len(), WAITING);
    }
}
