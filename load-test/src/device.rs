//! A connection that plays its share of the devices: sends what is due, keeps what is not acked, resumes after a break.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::bail;
use bytes::{BufMut as _, BytesMut};
use hdrhistogram::Histogram;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Packet, PubAckReason, PubRecReason, PubRel};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use crate::scenario::Scenario;
use crate::schedule::Schedule;
use crate::wire::{Broker, Wire};

/// Most bytes encoded ahead of the socket.
const AHEAD_BYTES: usize = 256 * 1024;
const PING_EVERY: Duration = Duration::from_secs(20);
const RECONNECT_AFTER: Duration = Duration::from_millis(200);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) broker: Broker,
    pub(crate) schedule: Schedule,
    /// Part of each client id.
    pub(crate) run: String,
    /// The start by the clock that devices stamp their readings with, in microseconds since 1970.
    pub(crate) start_micros: i64,
    pub(crate) start: Instant,
    pub(crate) live: Live,
}

/// Counts for those who watch.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) sent: AtomicU64,
    pub(crate) acked: AtomicU64,
    pub(crate) reconnects: AtomicU64,
}

/// How far a run has been told to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Send what is due.
    Play,
    /// Send nothing new, wait for acks.
    Drain,
    /// Leave.
    Leave,
}

/// What became of a connection's messages.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Messages handed to the socket, by device of this connection, repeats not counted.
    pub(crate) sent_by_device: Vec<(u32, u64)>,
    /// Messages never acked: device and round.
    pub(crate) unacked: Vec<(u32, u64)>,
    /// Messages that the broker refused: device and round.
    pub(crate) refused: Vec<(u32, u64)>,
    /// Messages that the broker took although nobody was subscribed: device and round.
    pub(crate) without_subscriber: Vec<(u32, u64)>,
    pub(crate) acked: u64,
    /// From due to acked, in microseconds.
    pub(crate) ack_latency: Histogram<u64>,
    /// From due to sent, in microseconds, of messages that nothing but this program held up.
    pub(crate) lag: Histogram<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    device: u32,
    round: u64,
    time: i64,
    due: Instant,
    /// QoS 2: the PUBREC came, PUBREL is out.
    released: bool,
}

/// See the module's documentation.
#[derive(Debug)]
pub(crate) struct Player {
    plan: Arc<Plan>,
    index: u32,
    devices: Vec<u32>,
    topics: Vec<Vec<u8>>,
    ids: Vec<String>,
    last_time: Vec<i64>,
    cursor: usize,
    round: u64,
    pending: Vec<Option<Pending>>,
    in_flight: usize,
    window: usize,
    last_packet_id: u16,
    out: BytesMut,
    payload: Vec<u8>,
    held_up_until: Instant,
    tally: Tally,
}

impl Player {
    /// Connection number `index` of the plan.
    pub(crate) fn new(plan: Arc<Plan>, index: u32) -> Self {
        let scenario = &plan.scenario;
        let devices: Vec<u32> = (index..scenario.devices).step_by(scenario.connections as usize).collect();
        let ids: Vec<String> = devices.iter().map(|device| scenario.device_id(*device)).collect();
        let topics = ids
            .iter()
            .map(|id| format!("{}/devices/{id}/{}", scenario.base_topic, scenario.profile.subtopic()).into_bytes())
            .collect();
        let histogram = || Histogram::new_with_bounds(1, 600_000_000, 3).expect("sound bounds");
        let tally = Tally {
            sent_by_device: devices.iter().map(|device| (*device, 0)).collect(),
            unacked: Vec::new(),
            refused: Vec::new(),
            without_subscriber: Vec::new(),
            acked: 0,
            ack_latency: histogram(),
            lag: histogram(),
        };
        Self {
            last_time: vec![0; devices.len()],
            pending: vec![None; usize::from(u16::MAX) + 1],
            cursor: 0,
            round: 0,
            in_flight: 0,
            window: usize::from(u16::MAX) - 1,
            last_packet_id: 0,
            out: BytesMut::with_capacity(2 * AHEAD_BYTES),
            payload: Vec::new(),
            held_up_until: plan.start,
            plan,
            index,
            devices,
            topics,
            ids,
            tally,
        }
    }

    /// Plays until all is sent and acked, or told to leave.
    pub(crate) async fn run(mut self, mut phase: watch::Receiver<Phase>) -> Tally {
        let client_id = format!("load-{}-{}", self.plan.run, self.index);
        while *phase.borrow() != Phase::Leave {
            match Wire::open(&self.plan.broker, &client_id).await {
                Ok((mut wire, connack)) => match self.play(&mut wire, &connack, &mut phase).await {
                    Ok(()) => break,
                    Err(error) => self.note_break(&error),
                },
                Err(error) => self.note_break(&error),
            }
            sleep(RECONNECT_AFTER).await;
            self.held_up_until = Instant::now();
        }
        self.tally.unacked = self
            .pending
            .iter()
            .flatten()
            .map(|pending| (pending.device, pending.round))
            .collect();
        self.tally
    }

    fn note_break(&self, error: &anyhow::Error) {
        if self.plan.live.reconnects.fetch_add(1, Ordering::Relaxed) == 0 {
            eprintln!(
                "iotflow-load: connection {}: {error:#}; reconnecting from now on without a word",
                self.index
            );
        }
    }

    async fn play(&mut self, wire: &mut Wire, connack: &ConnAck, phase: &mut watch::Receiver<Phase>) -> anyhow::Result<()> {
        let allowed = connack
            .properties
            .as_ref()
            .and_then(|properties| properties.receive_max)
            .unwrap_or(u16::MAX);
        self.window = usize::from(allowed.min(u16::MAX - 1));
        self.resend();
        let mut ping = tokio::time::interval(PING_EVERY);
        loop {
            let now_phase = *phase.borrow_and_update();
            if now_phase == Phase::Leave {
                return Ok(());
            }
            let next = if now_phase == Phase::Play { self.fill() } else { None };
            if next.is_none() && self.in_flight == 0 && self.out.is_empty() && (now_phase == Phase::Drain || self.is_over()) {
                return Ok(());
            }
            let (mut receiver, writer) = wire.halves();
            tokio::select! {
                biased;
                received = receiver.receive() => {
                    received?;
                    while let Some(packet) = wire.next()? {
                        self.take(&packet)?;
                    }
                }
                written = writer.write_buf(&mut self.out), if !self.out.is_empty() => {
                    if written? == 0 {
                        bail!("the connection broke");
                    }
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
                changed = phase.changed() => changed?,
                // PINGREQ
                _ = ping.tick() => self.out.put_slice(&[0xC0, 0]),
            }
        }
    }

    /// Encodes what is due. Returns when the next message is, where that is what to wait for.
    fn fill(&mut self) -> Option<Instant> {
        let now = Instant::now();
        loop {
            if self.is_over() || self.devices.is_empty() {
                return None;
            }
            if self.out.len() >= AHEAD_BYTES || (self.plan.scenario.qos > 0 && self.in_flight >= self.window) {
                self.held_up_until = now;
                return None;
            }
            let number = self.round * u64::from(self.plan.scenario.devices) + u64::from(self.devices[self.cursor]);
            let due = match self.plan.schedule.due(number) {
                Some(due) => self.plan.start + due,
                None => now,
            };
            if due > now {
                return Some(due);
            }
            self.send_next(due, now);
        }
    }

    /// Whether the time, or the number of messages, is up.
    fn is_over(&self) -> bool {
        let scenario = &self.plan.scenario;
        let Some(device) = self.devices.get(self.cursor) else { return true };
        let number = self.round * u64::from(scenario.devices) + u64::from(*device);
        if scenario.messages.is_some_and(|most| number >= most) {
            return true;
        }
        self.plan.schedule.due(number).unwrap_or_else(|| self.plan.start.elapsed()) >= scenario.duration()
    }

    fn send_next(&mut self, due: Instant, now: Instant) {
        if due >= self.held_up_until {
            self.tally.lag.saturating_record(micros(now - due));
        }
        let cursor = self.cursor;
        let stamped = self.plan.start_micros + i64::try_from((due - self.plan.start).as_micros()).unwrap_or(i64::MAX);
        // Distinct times are what tells a device's messages apart.
        let time = stamped.max(self.last_time[cursor] + self.step() * i64::from(self.plan.scenario.profile.readings()));
        self.last_time[cursor] = time;
        let pending = Pending {
            device: self.devices[cursor],
            round: self.round,
            time,
            due,
            released: false,
        };
        let packet_id = if self.plan.scenario.qos == 0 { 0 } else { self.free_packet_id() };
        self.encode(cursor, packet_id, pending, false);
        if packet_id != 0 {
            self.pending[usize::from(packet_id)] = Some(pending);
            self.in_flight += 1;
        }
        self.tally.sent_by_device[cursor].1 += 1;
        self.plan.live.sent.fetch_add(1, Ordering::Relaxed);
        self.cursor += 1;
        if self.cursor == self.devices.len() {
            self.cursor = 0;
            self.round += 1;
        }
    }

    /// Microseconds between two readings of one message.
    fn step(&self) -> i64 {
        let rate = self.plan.scenario.fleet_rate();
        if rate <= 0.0 {
            return 1;
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded below")]
        let between =
            (f64::from(self.plan.scenario.devices) / rate * 1e6 / f64::from(self.plan.scenario.profile.readings())).min(1e9) as i64;
        between.max(1)
    }

    fn encode(&mut self, cursor: usize, packet_id: u16, pending: Pending, again: bool) {
        let step = self.step();
        let Plan { scenario, .. } = &*self.plan;
        let readings = u64::from(scenario.profile.readings());
        let mut random = fastrand::Rng::with_seed(scenario.seed ^ (pending.round << 24) ^ u64::from(pending.device));
        self.payload.clear();
        scenario.profile.write(
            &mut self.payload,
            &self.ids[cursor],
            pending.round * readings + 1,
            pending.time,
            step,
            &mut random,
        );
        let topic = &self.topics[cursor];
        let remaining = 2 + topic.len() + if packet_id == 0 { 0 } else { 2 } + 1 + self.payload.len();
        self.out.put_u8(0x30 | (scenario.qos << 1) | if again { 8 } else { 0 });
        put_length(&mut self.out, remaining);
        self.out.put_u16(u16::try_from(topic.len()).expect("device ids are short"));
        self.out.put_slice(topic);
        if packet_id != 0 {
            self.out.put_u16(packet_id);
        }
        // No properties.
        self.out.put_u8(0);
        self.out.put_slice(&self.payload);
    }

    fn free_packet_id(&mut self) -> u16 {
        loop {
            self.last_packet_id = self.last_packet_id.checked_add(1).unwrap_or(1);
            if self.pending[usize::from(self.last_packet_id)].is_none() {
                return self.last_packet_id;
            }
        }
    }

    /// After a reconnect: everything that is not acked goes out once more, in its order.
    fn resend(&mut self) {
        self.out.clear();
        let mut again: Vec<(u16, Pending)> = (0..=u16::MAX)
            .zip(&self.pending)
            .filter_map(|(packet_id, pending)| pending.map(|pending| (packet_id, pending)))
            .collect();
        again.sort_unstable_by_key(|(_, pending)| (pending.round, pending.device));
        for (packet_id, pending) in again {
            if pending.released {
                self.release(packet_id);
            } else {
                let cursor = (pending.device - self.index) as usize / self.plan.scenario.connections as usize;
                self.encode(cursor, packet_id, pending, true);
            }
        }
    }

    fn take(&mut self, packet: &Packet) -> anyhow::Result<()> {
        match packet {
            Packet::PubAck(ack) => {
                self.note_without_subscriber(ack.pkid, ack.reason == PubAckReason::NoMatchingSubscribers);
                self.finish(
                    ack.pkid,
                    matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers),
                );
            }
            Packet::PubRec(received) => {
                let taken = matches!(received.reason, PubRecReason::Success | PubRecReason::NoMatchingSubscribers);
                self.note_without_subscriber(received.pkid, received.reason == PubRecReason::NoMatchingSubscribers);
                match &mut self.pending[usize::from(received.pkid)] {
                    Some(pending) if taken => {
                        pending.released = true;
                        self.release(received.pkid);
                    }
                    _ => self.finish(received.pkid, false),
                }
            }
            Packet::PubComp(complete) => self.finish(complete.pkid, true),
            Packet::PingResp(_) => {}
            other => bail!("{other:?} was not asked for"),
        }
        Ok(())
    }

    fn note_without_subscriber(&mut self, packet_id: u16, nobody: bool) {
        if let Some(pending) = &self.pending[usize::from(packet_id)]
            && nobody
        {
            self.tally.without_subscriber.push((pending.device, pending.round));
        }
    }

    fn release(&mut self, packet_id: u16) {
        PubRel::new(packet_id, None)
            .write(&mut self.out)
            .expect("a BytesMut takes every write");
    }

    fn finish(&mut self, packet_id: u16, taken: bool) {
        let Some(pending) = self.pending[usize::from(packet_id)].take() else {
            return;
        };
        self.in_flight -= 1;
        if taken {
            self.tally.acked += 1;
            self.plan.live.acked.fetch_add(1, Ordering::Relaxed);
            self.tally.ack_latency.saturating_record(micros(pending.due.elapsed()));
        } else {
            self.tally.refused.push((pending.device, pending.round));
        }
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// MQTT's variable byte integer (MQTT 5, 1.5.5).
fn put_length(out: &mut BytesMut, mut length: usize) {
    loop {
        let byte = u8::try_from(length % 128).expect("below 128");
        length /= 128;
        if length == 0 {
            return out.put_u8(byte);
        }
        out.put_u8(byte | 0x80);
    }
}
