//! Each device's messages against the rate that one device is allowed: a token bucket a device, a message a token.
//!
//! Judged where a message is received and not where it is parsed: QoS 0 above the rate is then shed before it takes a place in
//! a queue, so that a flood never costs another device's messages theirs, however long the database stands still. QoS 1 above
//! the rate becomes a dead letter, whole and unparsed. A bucket belongs to a share-group slot, whose one connection is all that
//! asks it: nothing is shared and nothing locked.
//!
//! The crate governor was measured beside it. With a key at hand it is as fast (31 to 42 ns a message of 1,000 devices; this, with
//! the topic read, 34) and as large (some 80 bytes a device). But it wants a key of its own for each message, which is an
//! allocation and twice the time, and it has no clock that could stand still as the next lines want it.
//!
//! Two things must not be held against a device:
//! - What comes again. It is not charged, and keeps the verdict of the first time (`delivered`); what only an earlier process
//!   can have judged carries DUP, and passes. So no message that was stored becomes a dead letter by being delivered again.
//! - What had to wait. While nothing is read, the broker keeps what is published, and then sends it at once. So buckets fill
//!   by [`Stream`], a clock that stands still meanwhile: what a device could have sent in that time it may send after it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use foldhash::fast::FixedState;

use crate::protocol::id::{DeviceId, DeviceIdRef};
use crate::protocol::topic::{BadBaseTopic, TopicTree};

use super::config::Config;

/// How long the broker may have been without us when a process takes a session over; what it kept is not dated. Longer than a
/// restart takes, and no more than that, for it is also what each device may send at once after it.
const UNKNOWN_ABSENCE: Duration = Duration::from_secs(600);
/// A device that was away for so long, and sends what it gathered at its usual rate, is within its burst.
const DEFAULT_BURST_SECONDS: u32 = 10;
/// A token, in the millionths of one that a rate of one a second brings each microsecond.
const TOKEN: u64 = 1_000_000;
/// Buckets that are kept before it is looked which of them are full: some 12 MB of them.
const FIRST_SWEEP: usize = 1 << 17;
/// Between two counts of the devices that were limited.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// See the module's documentation. It outlives connections, and belongs to one session.
#[derive(Debug)]
pub struct Rates {
    tree: TopicTree,
    /// Tokens a second.
    rate: u64,
    /// Millionths of a token that a full bucket holds.
    burst: u64,
    buckets: HashMap<DeviceId, Bucket, FixedState>,
    /// At this many buckets those that are full are dropped.
    sweep_at: usize,
    stream: Stream,
    /// The count of limited devices that goes on, and what it came to.
    count: u32,
    counted_at: Instant,
    limited: usize,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// When it will be full again, in microseconds of the stream times the rate: exact in whole numbers, and all that there is
    /// to know of a bucket.
    full_at: u64,
    /// In which count it was limited last.
    limited_in: u32,
}

impl Rates {
    /// What `config` allows a device; `None` where that is not limited.
    ///
    /// # Errors
    /// [`BadBaseTopic`].
    pub fn new(config: &Config) -> Result<Option<Self>, BadBaseTopic> {
        let tree = TopicTree::new(&config.base_topic)?;
        Ok(Self::of_each(tree, config.device_rate, config.device_burst))
    }

    /// For each device below `tree` so many messages a second, and a burst at once: ten seconds' worth where it is 0. `None`
    /// where the rate is 0, which limits nothing.
    #[must_use]
    pub fn of_each(tree: TopicTree, rate: u32, burst: u32) -> Option<Self> {
        let burst = if burst == 0 {
            rate.saturating_mul(DEFAULT_BURST_SECONDS)
        } else {
            burst
        };
        let now = Instant::now();
        (rate > 0).then(|| Self {
            tree,
            rate: u64::from(rate),
            burst: u64::from(burst) * TOKEN,
            buckets: HashMap::default(),
            sweep_at: FIRST_SWEEP,
            stream: Stream::new(now),
            count: 1,
            counted_at: now,
            limited: 0,
        })
    }

    /// A connection begins; `resumed` is what the CONNACK says of the session.
    pub fn begin(&mut self, resumed: bool, now: Instant) {
        if resumed {
            self.stream.pass(now, false);
        } else {
            self.stream.catch_up(now);
        }
    }

    /// Time went by, in which the connection was read or was not.
    pub fn pass(&mut self, now: Instant, reading: bool) {
        self.stream.pass(now, reading);
    }

    /// Charges a message, received `now`, to its device. Returns whether it is above the rate, and then charges nothing. What
    /// names no device is charged to nobody: it ends as a dead letter anyhow.
    pub fn is_exceeded_by(&mut self, topic: &[u8], now: Instant) -> bool {
        self.tree
            .device(topic)
            .is_some_and(|device| self.is_exceeded_by_device(device, now))
    }

    /// The same, where it is known already whose message it is.
    pub fn is_exceeded_by_device(&mut self, device: DeviceIdRef<'_>, now: Instant) -> bool {
        let (now, full) = (self.stream.micros(now) * self.rate, self.stream.floor * self.rate);
        let new = Bucket {
            full_at: full,
            limited_in: 0,
        };
        let bucket = match self.buckets.get_mut(device.as_str()) {
            Some(bucket) => bucket,
            None => {
                self.make_room(full);
                self.buckets.entry(device.to_owned()).or_insert(new)
            }
        };
        let charged = bucket.full_at.max(full) + TOKEN;
        if charged <= now + self.burst {
            bucket.full_at = charged;
            return false;
        }
        if bucket.limited_in != self.count {
            bucket.limited_in = self.count;
            self.limited += 1;
        }
        true
    }

    /// How many devices were above the rate, each time that [`COUNT_EVERY`] is over.
    pub fn count(&mut self, now: Instant) -> Option<usize> {
        if now.duration_since(self.counted_at) < COUNT_EVERY {
            return None;
        }
        self.counted_at = now;
        self.count = self.count.wrapping_add(1).max(1);
        Some(std::mem::take(&mut self.limited))
    }

    /// Drops full buckets, which are no different from none, when there are many: those of devices that have gone quiet.
    fn make_room(&mut self, full: u64) {
        if self.buckets.len() >= self.sweep_at {
            self.buckets.retain(|_, bucket| bucket.full_at > full);
            self.sweep_at = FIRST_SWEEP.max(2 * self.buckets.len());
        }
    }
}

/// How far the messages may have come that are read now, in microseconds: those that are read at once were published at once
/// only if nothing had to wait. `floor` is the earliest that they can have been published. It stands still while nothing is
/// read, and then goes twice as fast as time until it is there: what had piled up is through by then, unless more comes than
/// half of what can be taken.
#[derive(Debug)]
struct Stream {
    began: Instant,
    /// The last instant that passed.
    seen: u64,
    floor: u64,
}

impl Stream {
    /// Begins behind by [`UNKNOWN_ABSENCE`].
    fn new(began: Instant) -> Self {
        let mut stream = Self { began, seen: 0, floor: 0 };
        stream.seen = stream.micros(began);
        stream
    }

    fn micros(&self, now: Instant) -> u64 {
        // Half a million years fit in.
        u64::try_from((UNKNOWN_ABSENCE + now.duration_since(self.began)).as_micros()).unwrap_or(u64::MAX)
    }

    fn pass(&mut self, now: Instant, reading: bool) {
        let now = self.micros(now);
        if reading {
            let passed = now.saturating_sub(self.seen);
            self.floor = (self.floor + 2 * passed).min(now);
        }
        self.seen = now.max(self.seen);
    }

    fn catch_up(&mut self, now: Instant) {
        self.seen = self.micros(now);
        self.floor = self.seen;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOPIC: &[u8] = b"iotflow/devices/d/telemetry";

    /// Rates of a session that is read from its first day on, and when that is.
    fn rates(device_rate: u32, device_burst: u32) -> (Rates, Instant) {
        let config = Config {
            device_rate,
            device_burst,
            ..Config::default()
        };
        let mut rates = Rates::new(&config).expect("a good base topic").expect("a limit");
        let began = rates.counted_at;
        rates.begin(false, began);
        (rates, began)
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    proptest! {
        /// In any span of time: what was admitted in it is no more than a full bucket and what flows in meanwhile.
        #[test]
        fn never_more_is_admitted_than_the_burst_and_the_rate_allow(
            rate in 1_u32..2_000,
            burst in 1_u32..50,
            gaps in prop::collection::vec(prop_oneof![Just(0), 1_u64..1_000, 1_u64..3_000_000], 1..300),
        ) {
            let (mut rates, began) = rates(rate, burst);
            let (mut at, mut admitted) = (0, Vec::new());
            for gap in gaps {
                at += gap;
                rates.pass(began + micros(at), true);
                if !rates.is_exceeded_by(TOPIC, began + micros(at)) {
                    admitted.push(at);
                }
            }
            for (first, from) in admitted.iter().enumerate() {
                for (last, to) in admitted.iter().enumerate().skip(first) {
                    let (count, span) = ((last - first + 1) as u64, to - from);
                    prop_assert!(
                        count * TOKEN <= u64::from(burst) * TOKEN + u64::from(rate) * span,
                        "{count} in {span} µs at {rate}/s with bursts of {burst}"
                    );
                }
            }
        }

        #[test]
        fn who_keeps_to_the_rate_is_never_limited(
            rate in 1_u32..2_000,
            burst in 1_u32..50,
            steps in prop::collection::vec((1_u64..100, 0_u64..5_000_000), 1..100),
        ) {
            let (mut rates, began) = rates(rate, burst);
            let interval = TOKEN.div_ceil(u64::from(rate));
            let mut at = 0;
            // As many at once as a burst holds, and then as long a silence as they are worth.
            for (together, more) in steps {
                let together = together.min(u64::from(burst));
                rates.pass(began + micros(at), true);
                for _ in 0..together {
                    prop_assert!(!rates.is_exceeded_by(TOPIC, began + micros(at)));
                }
                at += together * interval + more;
            }
        }

        /// However long nothing was read, and however the pauses lie.
        #[test]
        fn what_had_to_wait_is_not_held_against_the_device(
            rate in 1_u32..100,
            pauses in prop::collection::vec((0_u64..100, 0_u64..400), 1..30),
        ) {
            let (mut rates, began) = rates(rate, 2);
            let interval = TOKEN.div_ceil(u64::from(rate));
            // In intervals: messages are published one an interval, and read as soon as anything is read.
            let (mut now, mut published) = (0, 0);
            for (reading, standing) in pauses {
                for _ in 0..reading {
                    now += 1;
                    rates.pass(began + micros(now * interval), true);
                    while published < now {
                        published += 1;
                        prop_assert!(!rates.is_exceeded_by(TOPIC, began + micros(now * interval)));
                    }
                }
                now += standing;
                rates.pass(began + micros(now * interval), false);
            }
        }
    }

    #[test]
    fn one_devices_flood_leaves_anothers_bucket_alone() {
        let (mut rates, began) = rates(1, 3);
        let flood = (0..100).filter(|_| rates.is_exceeded_by(TOPIC, began)).count();
        assert_eq!(flood, 97);
        for other in ["a", "b", "c"] {
            let topic = format!("iotflow/devices/{other}/telemetry/sensors");
            assert_eq!((0..4).filter(|_| rates.is_exceeded_by(topic.as_bytes(), began)).count(), 1);
        }
        assert_eq!(rates.count(began + COUNT_EVERY), Some(4), "devices, and not messages");
        assert_eq!(rates.count(began + COUNT_EVERY), None);
        assert!(rates.is_exceeded_by(TOPIC, began));
        assert_eq!(rates.count(began + 2 * COUNT_EVERY), Some(1));
    }

    #[test]
    fn what_names_no_device_has_no_bucket() {
        let (mut rates, began) = rates(1, 1);
        for topic in [
            "elsewhere",
            "iotflow/devices/",
            "iotflow/devices/d",
            "iotflow/devices/a b/telemetry",
        ] {
            assert!(!(0..10).any(|_| rates.is_exceeded_by(topic.as_bytes(), began)), "{topic}");
        }
        assert!(rates.buckets.is_empty());
        // A device that floods a topic which does not exist is a device all the same.
        assert!((0..2).any(|_| rates.is_exceeded_by(b"iotflow/devices/d/telemetry/unknown", began)));
    }

    #[test]
    fn buckets_of_quiet_devices_are_dropped_and_others_are_not() {
        let (mut rates, began) = rates(1, 1);
        assert!(!rates.is_exceeded_by(TOPIC, began));
        let later = began + Duration::from_millis(500);
        rates.pass(later, true);
        for device in 0..FIRST_SWEEP {
            rates.is_exceeded_by(format!("iotflow/devices/{device}/telemetry").as_bytes(), later);
        }
        assert_eq!(rates.buckets.len(), FIRST_SWEEP + 1, "none was full, so none was dropped");
        let later = began + Duration::from_millis(1_200);
        rates.pass(later, true);
        rates.sweep_at = rates.buckets.len();
        rates.is_exceeded_by(b"iotflow/devices/one_more/telemetry", later);
        assert_eq!(
            rates.buckets.len(),
            FIRST_SWEEP + 1,
            "the first was full again, all others are in use"
        );
        assert!(!rates.buckets.contains_key("d"));
        let later = began + Duration::from_secs(60);
        rates.pass(later, true);
        rates.sweep_at = rates.buckets.len();
        rates.is_exceeded_by(TOPIC, later);
        assert_eq!(rates.buckets.len(), 1);
        assert_eq!(rates.sweep_at, FIRST_SWEEP);
    }

    #[test]
    fn a_session_taken_over_may_hold_what_waited_for_a_restart() {
        let config = Config {
            device_rate: 1,
            device_burst: 5,
            ..Config::default()
        };
        let mut rates = Rates::new(&config).expect("a good base topic").expect("a limit");
        let now = rates.counted_at;
        rates.begin(true, now);
        let admitted = (0..2_000).filter(|_| !rates.is_exceeded_by(TOPIC, now)).count();
        assert_eq!(admitted as u64, UNKNOWN_ABSENCE.as_secs() + 5);
        // And once as much time has been read, it is as any other.
        let later = now + UNKNOWN_ABSENCE;
        rates.pass(later, true);
        let admitted = (0..2_000)
            .filter(|_| !rates.is_exceeded_by(b"iotflow/devices/other/telemetry", later))
            .count();
        assert_eq!(admitted, 5);
    }
}
