//! What one read brought: deliveries to the shards or the status stage, the broker's answers, its word about itself.

use std::time::Instant;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, Publish, SubscribeReasonCode};
use tracing::info;

use crate::mqtt::connection::Connection;
use crate::observe::accounting::ByQos;
use crate::observe::metrics::ConnectionMetrics;
use crate::protocol::time;

use super::ledger;
use super::limits;
use super::queue::Delivery;
use super::subscribe::{BROKER_VERSION_TOPIC, Broken, Live, Outlet, Purpose, Subscriber};

impl Subscriber {
    /// Everything that was read at once: one look at the clock, one entry in the account, one wake-up a shard.
    pub(super) fn take_packets(&self, connection: &mut Connection, live: &mut Live, metrics: &ConnectionMetrics) -> Result<(), Broken> {
        let (received, now) = (Instant::now(), time::now());
        let (mut count, mut redelivered): (ByQos, ByQos) = Default::default();
        let (mut held, mut over_rate) = (0, 0);
        let outcome = loop {
            if live.window.is_full() {
                if connection.has_unread() {
                    self.warn(
                        "the broker has more deliveries under way than the Receive Maximum it was told; what is too much waits unread",
                    );
                }
                break Ok(());
            }
            let packet = match connection.next_packet() {
                Ok(Some(packet)) => packet,
                Ok(None) => break Ok(()),
                Err(error) => break Err(error.into()),
            };
            match packet {
                Packet::Publish(publish) if publish.topic.starts_with(b"$SYS/") => {
                    self.note_broker(&publish);
                    if publish.qos != QoS::AtMostOnce {
                        // Asked for at QoS 0; a session from before may hold some at QoS 1. Acked in its turn.
                        ledger::settle(std::iter::once(live.window.open(publish.pkid, received)));
                    }
                }
                Packet::Publish(mut publish) => {
                    let (ticket, mut receipt) = match publish.qos {
                        QoS::AtMostOnce => (None, live.delivered.unnoted(now)),
                        _ => (
                            Some(live.window.open(publish.pkid, received)),
                            live.delivered
                                .note(publish.pkid, publish.dup, &publish.topic, &publish.payload, now),
                        ),
                    };
                    receipt.retained = publish.retain;
                    count[usize::from(ticket.is_some())] += 1;
                    redelivered[usize::from(ticket.is_some())] += u64::from(publish.dup);
                    // What comes again was judged the first time, here or by a process before.
                    if let Some(rates) = &mut live.rates
                        && !publish.dup
                        && rates.is_exceeded_by(&publish.topic, received)
                    {
                        if ticket.is_none() {
                            over_rate += 1;
                            continue;
                        }
                        live.delivered.note_over_rate(publish.pkid);
                        receipt.over_rate = true;
                    }
                    let reply = match (&self.receipts, &mut publish.properties) {
                        (Some(asked), Some(properties)) => asked.by(&publish.topic, properties),
                        _ => None,
                    };
                    let delivery = Delivery {
                        topic: publish.topic,
                        payload: publish.payload,
                        receipt,
                        received,
                        ticket,
                        reply,
                    };
                    held += delivery.held_bytes();
                    live.burst.push(delivery);
                }
                other => {
                    if let Err(broken) = self.take_answer(&other, live, metrics) {
                        break Err(broken);
                    }
                }
            }
        };
        if count != [0, 0] {
            live.heard = received;
            // Booked before anybody can settle them, so that the account never owes.
            self.held.add(held);
            self.accounting.book(|totals| {
                totals.receive(count, redelivered);
                totals.shed[0] += over_rate;
                totals.release([over_rate, 0]);
            });
            self.metrics.shed_rate_limited.increment(over_rate);
            self.hand_over(&mut live.burst);
        }
        outcome
    }

    /// Passes a burst on, and wakes who waits for it.
    fn hand_over(&self, burst: &mut Vec<Delivery>) {
        let (mut shed, mut released): (ByQos, usize) = Default::default();
        for delivery in burst.drain(..) {
            // Only QoS 0 is ever refused; a QoS 1 refused would be a bug, which its ticket reports.
            if let Err(refused) = self.offer(delivery) {
                shed[refused.qos()] += 1;
                released += refused.held_bytes();
            }
        }
        if let Outlet::Telemetry(inlet) = &self.outlet {
            inlet.wake();
        }
        if shed != [0, 0] {
            self.held.subtract(released);
            self.metrics.shed_overload.increment(shed.iter().sum());
            self.accounting.book(|totals| {
                (0..2).for_each(|qos| totals.shed[qos] += shed[qos]);
                totals.release(shed);
            });
        }
    }

    fn offer(&self, delivery: Delivery) -> Result<(), Delivery> {
        if delivery.ticket.is_none() && self.held.is_exhausted() {
            return Err(delivery);
        }
        match &self.outlet {
            Outlet::Telemetry(inlet) => inlet.push(delivery),
            Outlet::Status { inbox, .. } => {
                // Half of its places are QoS 1's own.
                if delivery.ticket.is_none() && inbox.capacity() <= usize::from(self.mqtt.receive_maximum) {
                    return Err(delivery);
                }
                inbox.try_send(delivery).map_err(|refused| refused.into_inner())
            }
        }
    }

    fn take_answer(&self, packet: &Packet, live: &mut Live, metrics: &ConnectionMetrics) -> Result<(), Broken> {
        match (packet, &self.purpose) {
            (Packet::SubAck(answer), Purpose::Subscribe(filters)) if answer.pkid == live.asked => {
                for (filter, reason) in filters.iter().zip(&answer.return_codes) {
                    match reason {
                        SubscribeReasonCode::Success(QoS::AtMostOnce) if !filter.starts_with("$SYS/") => {
                            self.warn(
                                "the broker grants QoS 0 only: nothing is acked, and what is on its way when a connection ends is lost",
                            );
                        }
                        SubscribeReasonCode::Success(_) => {}
                        _ if filter.starts_with("$SYS/") => {}
                        reason => {
                            return Err(Broken::Refused {
                                filter: without_share_name(filter),
                                reason: *reason,
                            });
                        }
                    }
                }
                info!(connection = self.name, "subscribed");
                self.latch.ready("subscribed");
                metrics.connected.set(1.0);
                live.answered = Some(Instant::now());
                if let Outlet::Status { hearing, .. } = &self.outlet {
                    hearing.begin(time::now());
                }
            }
            (Packet::UnsubAck(answer), Purpose::Retire(_)) if answer.pkid == live.asked => live.answered = Some(Instant::now()),
            // PINGRESP and the like say that the broker is there, which the connection has noted.
            _ => {}
        }
        Ok(())
    }

    /// What the broker says of itself.
    fn note_broker(&self, publish: &Publish) {
        let Ok(text) = std::str::from_utf8(&publish.payload) else { return };
        if publish.topic == BROKER_VERSION_TOPIC.as_bytes() {
            if limits::forgets_shared_subscriptions(text) {
                self.warn(&format!(
                    "{text} forgets shared subscriptions when it is restarted: what is published until we are back is lost in the broker; MQTT_SHARED=false is the safe mode before 2.0.19"
                ));
            }
            return;
        }
        let Ok(dropped) = text.trim().parse::<f64>() else { return };
        self.metrics.broker_dropped.set(dropped);
        if dropped > 0.0 {
            self.warn("the broker has dropped messages (iotflow_broker_dropped_messages): a queue limit is too low (Mosquitto: a large max_queued_messages, with max_queued_bytes and memory_limit)");
        }
    }
}

/// A filter as a log may show it: whoever knows the share's name can take messages out of it.
fn without_share_name(filter: &str) -> String {
    let shared = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    shared.map_or_else(|| filter.to_owned(), |(_, topics)| format!("$share/[secret]/{topics}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_shown_without_its_name() {
        assert_eq!(
            without_share_name("$share/hidden/iotflow/devices/+/telemetry/#"),
            "$share/[secret]/iotflow/devices/+/telemetry/#"
        );
        assert_eq!(without_share_name("iotflow/devices/+/status/#"), "iotflow/devices/+/status/#");
    }
}
