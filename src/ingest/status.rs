//! Status topics: where each device stands. One stage for all devices, in the order in which the messages came.
//!
//! Of a device's messages in one batch only the newest of each meaning counts; they are written in one transaction and
//! acked after it, as readings are.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use deadpool_postgres::ClientWrapper;
use foldhash::fast::FixedState;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tracing::warn;

use crate::lifecycle::backoff::Backoff;
use crate::observe::accounting::ByQos;
use crate::protocol::id::DeviceId;
use crate::protocol::payload::{Origin, Parser};
use crate::protocol::reject::{Reason, Rejection};
use crate::protocol::time;
use crate::protocol::topic::{Channel, Status, Telemetry, TopicTree};

use super::batch::Message;
use super::config::Config;
use super::copy::Store;
use super::dead_letter;
use super::hearing::Hearing;
use super::ledger;
use super::queue::Delivery;
use super::resolve;
use super::transaction::{AttemptError, on_connection};

/// Most messages in one transaction.
const BATCH: usize = 5_000;
/// How often it is noted that nothing waits.
const IDLE: Duration = Duration::from_secs(1);

// A message older than one that is known tells nothing of where the device stands, but for one who was put offline by the sweep and
// whose clock may have gone back; that it came counts in any case. Not what the broker had kept: that comes again with each new
// subscription, and tells something only if it is newer than all that is known. What the broker sends when it is told to forget a
// deleted device is no news of it.
const UPSERT: &str = "
    INSERT INTO device_status AS known (device_id, status, since, seen_at, payload, received_at, heartbeat_at)
    SELECT device_id, status, at, at, payload, received_at, heartbeat_at
    FROM (SELECT device_id, status, retained, payload::jsonb AS payload,
                 timestamptz '1970-01-01 00:00:00+00' + micros * interval '1 microsecond' AS at,
                 timestamptz '1970-01-01 00:00:00+00' + received * interval '1 microsecond' AS received_at,
                 timestamptz '1970-01-01 00:00:00+00' + heartbeat * interval '1 microsecond' AS heartbeat_at
          FROM unnest($1::int4[], $2::text[], $3::int8[], $4::text[], $5::int8[], $6::int8[], $7::bool[], $8::bool[])
               AS news (device_id, status, micros, payload, received, heartbeat, undated, retained)
          -- What the broker had kept and has no time: nobody knows how old it is, so whatever is known stands.
          WHERE NOT (undated AND EXISTS (SELECT FROM device_status s WHERE s.device_id = news.device_id))) AS news
    JOIN devices d USING (device_id)
    WHERE d.deleted_at IS NULL
      AND NOT (retained AND EXISTS (SELECT FROM device_status s WHERE s.device_id = news.device_id AND s.seen_at >= news.at))
    ORDER BY device_id
    ON CONFLICT (device_id) DO UPDATE
        SET (status, since, seen_at, payload, swept) = (
                SELECT CASE WHEN is_news THEN excluded.status ELSE known.status END,
                       CASE WHEN is_news AND known.status <> excluded.status THEN excluded.since ELSE known.since END,
                       CASE WHEN is_news THEN excluded.seen_at ELSE known.seen_at END,
                       CASE WHEN is_news THEN coalesce(excluded.payload, known.payload) ELSE known.payload END,
                       known.swept AND NOT is_news
                FROM (SELECT excluded.seen_at >= known.seen_at OR known.swept AS is_news) AS judged),
            received_at = greatest(known.received_at, excluded.received_at),
            heartbeat_at = greatest(known.heartbeat_at, excluded.heartbeat_at)";

/// What a device's newest message said.
#[derive(Debug, Clone, PartialEq, Eq)]
struct State {
    online: bool,
    at: i64,
    /// The broker had kept it, and it has no time: it may be older than whatever is known. A device that came and went once has both
    /// retained, that it is online and that it is offline.
    undated: bool,
    /// Of this batch only what the broker had kept is there.
    retained: bool,
    payload: Option<String>,
    /// When its newest message came, by our clock.
    received: i64,
    /// When its newest heartbeat came, whichever message counts.
    heartbeat: Option<i64>,
}

impl State {
    /// Takes a later message of the device in.
    fn follow(&mut self, next: Self) {
        let (received, heartbeat) = (self.received.max(next.received), self.heartbeat.max(next.heartbeat));
        let retained = self.retained && next.retained;
        let is_newer = match (self.undated, next.undated) {
            (false, false) => self.at <= next.at,
            // That it is online stands: it may be away then, and its session keeps what is for it. Were it the other way round, what
            // is for it would be held though it is there.
            (true, true) => next.online || !self.online,
            (is_undated, _) => is_undated,
        };
        if is_newer {
            *self = next;
        }
        (self.received, self.heartbeat, self.retained) = (received, heartbeat, retained);
    }
}

/// The stage.
#[derive(Debug)]
pub struct StatusStage {
    store: Store,
    tree: TopicTree,
    parser: Parser,
    hearing: Arc<Hearing>,
}

impl StatusStage {
    /// A stage on what `store` shares.
    #[must_use]
    pub fn new(config: &Config, tree: TopicTree, store: Store, hearing: Arc<Hearing>) -> Self {
        Self {
            store,
            tree,
            parser: Parser::new(config.time_window),
            hearing,
        }
    }

    /// Stores what comes until the inbox is closed and empty.
    pub async fn run(mut self, mut inbox: mpsc::Receiver<Delivery>) {
        let give_up = self.store.give_up.clone();
        let mut deliveries = Vec::with_capacity(BATCH);
        let mut tick = tokio::time::interval(IDLE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                received = inbox.recv_many(&mut deliveries, BATCH) => if received == 0 { return },
                _ = tick.tick() => {
                    self.hearing.stored(time::now());
                    continue;
                }
            }
            let through = deliveries.last().map_or(0, |delivery| delivery.receipt.at);
            let mut messages: Vec<Message> = deliveries
                .drain(..)
                .map(|delivery| Message {
                    delivery,
                    device_time: None,
                    new_rows: 0,
                    refusal: None,
                })
                .collect();
            let states = self.read(&mut messages);
            let stored = tokio::select! {
                () = self.store(&messages, &states) => true,
                () = give_up.cancelled() => false,
            };
            self.settle(messages, stored);
            if stored {
                self.hearing.stored(through);
            }
        }
    }

    fn read(&mut self, messages: &mut [Message]) -> HashMap<DeviceId, State, FixedState> {
        let mut states: HashMap<DeviceId, State, FixedState> = HashMap::default();
        for message in messages {
            match self.state(&message.delivery) {
                Ok((device, state)) => match states.get_mut(&device) {
                    Some(known) => known.follow(state),
                    None => drop(states.insert(device, state)),
                },
                Err(rejection) => message.refuse(rejection),
            }
        }
        states
    }

    fn state(&mut self, delivery: &Delivery) -> Result<(DeviceId, State), Rejection> {
        let (device, channel) = self.tree.parse(&delivery.topic)?;
        let Channel::Status(status) = channel else {
            return Err(Rejection::new(Reason::UnknownTopic, "no status topic"));
        };
        let mut state = State {
            online: status != Status::Offline,
            at: delivery.receipt.at,
            undated: delivery.receipt.retained,
            retained: delivery.receipt.retained,
            payload: None,
            received: delivery.receipt.at,
            heartbeat: (status == Status::Heartbeat).then_some(delivery.receipt.at),
        };
        // The topic says it all; an empty payload also clears a retained message.
        if !delivery.payload.is_empty() {
            let origin = Origin {
                device,
                kind: Telemetry::Events,
                received_at: delivery.receipt.at,
            };
            self.parser.parse(origin, &delivery.payload, |reading| {
                state.at = reading.time;
                state.undated &= reading.time == origin.received_at;
                state.payload = String::from_utf8(reading.extra.clone()).ok();
                Ok(())
            })?;
        }
        Ok((device.to_owned(), state))
    }

    async fn store(&self, messages: &[Message], states: &HashMap<DeviceId, State, FixedState>) {
        let mut patience = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        loop {
            let attempt = on_connection(&self.store.pool, self.store.copy_timeout, async |client| {
                write(client, messages, states).await
            });
            match attempt.await {
                Ok(()) => return,
                Err(failure) => {
                    let wait = patience.next_wait();
                    warn!(%failure, ?wait, "storing device states failed and is tried again");
                    tokio::time::sleep(wait).await;
                }
            }
        }
    }

    fn settle(&self, messages: Vec<Message>, stored: bool) {
        let (mut committed, mut dead, mut abandoned, mut held): (ByQos, ByQos, ByQos, ByQos) = Default::default();
        for message in &messages {
            held[message.delivery.qos()] += 1;
            let outcome = match (&message.refusal, stored) {
                (_, false) => &mut abandoned,
                (Some(_), true) => &mut dead,
                (None, true) => &mut committed,
            };
            outcome[message.delivery.qos()] += 1;
            if let (Some(refusal), true) = (&message.refusal, stored) {
                self.store.metrics.rejected[refusal.rejection.reason as usize].increment(1);
            }
        }
        self.store.metrics.status_written.increment(committed[0] + committed[1]);
        self.store.accounting.book(|totals| {
            for qos in 0..2 {
                totals.committed[qos] += committed[qos];
                totals.dead_lettered[qos] += dead[qos];
                totals.abandoned[qos] += abandoned[qos];
            }
            totals.release(held);
        });
        self.store
            .held
            .subtract(messages.iter().map(|message| message.delivery.held_bytes()).sum());
        if stored {
            ledger::settle(messages.into_iter().filter_map(|mut message| message.delivery.ticket.take()));
        }
    }
}

async fn write(
    client: &mut ClientWrapper,
    messages: &[Message],
    states: &HashMap<DeviceId, State, FixedState>,
) -> Result<(), AttemptError> {
    let (devices, states): (Vec<DeviceId>, Vec<&State>) = states.iter().map(|(device, state)| (device.clone(), state)).unzip();
    let ids = resolve::devices(client, &devices).await?;
    let transaction = client.build_transaction().start().await?;
    if !ids.is_empty() {
        let statuses: Vec<&str> = states.iter().map(|state| if state.online { "online" } else { "offline" }).collect();
        let times: Vec<i64> = states.iter().map(|state| state.at).collect();
        let payloads: Vec<Option<&str>> = states.iter().map(|state| state.payload.as_deref()).collect();
        let undated: Vec<bool> = states.iter().map(|state| state.undated).collect();
        let retained: Vec<bool> = states.iter().map(|state| state.retained).collect();
        let received: Vec<i64> = states.iter().map(|state| state.received).collect();
        let heartbeats: Vec<Option<i64>> = states.iter().map(|state| state.heartbeat).collect();
        transaction
            .execute(
                UPSERT,
                &[&ids, &statuses, &times, &payloads, &received, &heartbeats, &undated, &retained],
            )
            .await?;
    }
    dead_letter::upsert(&transaction, messages.iter()).await?;
    transaction.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(online: bool, at: i64, undated: bool) -> State {
        State {
            online,
            at,
            undated,
            retained: undated,
            payload: None,
            received: at,
            heartbeat: None,
        }
    }

    #[test]
    fn what_the_broker_had_kept_without_a_time_yields_to_whatever_is_dated() {
        let (old, new) = (state(true, 1, false), state(false, 2, false));
        let (kept_online, kept_offline) = (state(true, 3, true), state(false, 4, true));
        for (first, second, expected) in [
            (&old, &new, &new),
            (&new, &old, &new),
            (&old, &kept_offline, &old),
            (&kept_offline, &old, &old),
            (&kept_online, &kept_offline, &kept_online),
            (&kept_offline, &kept_online, &kept_online),
        ] {
            let mut followed = first.clone();
            followed.follow(second.clone());
            assert_eq!(
                (followed.online, followed.at),
                (expected.online, expected.at),
                "{first:?} {second:?}"
            );
        }
    }
}
