//! What a session's last connection delivered: by this a message that comes again is known, and keeps its time of receipt.
//!
//! A message without a time of its own is stored at its time of receipt, so that must be the same when the broker delivers
//! it again, or it would be two rows. A broker that resumes a session first sends again what it has no ack for, in the
//! order of the first time and under the same packet ids (MQTT 5, 4.4 and 4.6): the last so many of the deliveries noted
//! here. DUP alone tells nothing: Mosquitto also sets it on what it sends for the first time after a reconnect.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::queue::Receipt;

/// How far back a delivery may come again: half of the packet ids, so that an id that was used anew is never taken for the
/// message that had it before.
const FURTHEST: u64 = 1 << 15;

#[derive(Debug, Clone, Copy, Default)]
struct Entry {
    /// Its number among the session's deliveries, from 1.
    number: u64,
    fingerprint: u64,
    received_at: i64,
    over_rate: bool,
}

/// Where we are among the deliveries that come again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeats {
    /// The connection's first delivery may be one.
    MayBegin,
    /// The next is this number, or there are no more.
    Next(u64),
    Over,
}

/// See the module's documentation. It outlives connections, and belongs to one session.
#[derive(Debug)]
pub struct Delivered {
    /// By packet id.
    entries: Box<[Entry]>,
    /// The number given last.
    last: u64,
    /// The same, when the connection began.
    last_before: u64,
    repeats: Repeats,
    last_received_at: i64,
}

impl Default for Delivered {
    fn default() -> Self {
        Self {
            entries: vec![Entry::default(); usize::from(u16::MAX) + 1].into(),
            last: 0,
            last_before: 0,
            repeats: Repeats::Over,
            last_received_at: 0,
        }
    }
}

impl Delivered {
    /// A connection begins; `resumed` is what the CONNACK says of the session.
    pub(super) fn begin(&mut self, resumed: bool) {
        self.repeats = if resumed { Repeats::MayBegin } else { Repeats::Over };
        self.last_before = self.last;
    }

    /// The time of receipt of a delivery at QoS 0, which is never known again.
    pub(super) fn unnoted(&mut self, now: i64) -> Receipt {
        self.last_received_at = now.max(self.last_received_at + 1);
        Receipt {
            at: self.last_received_at,
            again: false,
            over_rate: false,
            retained: false,
        }
    }

    /// Notes a delivery and returns its time of receipt: `now`, or that of the first time, with the verdict it had then.
    pub(super) fn note(&mut self, packet_id: u16, dup: bool, topic: &[u8], payload: &[u8], now: i64) -> Receipt {
        let fingerprint = xxh3_64_with_seed(payload, xxh3_64_with_seed(topic, 0));
        let known = self.entries[usize::from(packet_id)];
        let expected = match self.repeats {
            Repeats::MayBegin => known.number > self.last_before.saturating_sub(FURTHEST),
            Repeats::Next(number) => known.number == number,
            Repeats::Over => false,
        };
        let again = expected && dup && known.number > 0 && known.fingerprint == fingerprint;
        self.repeats = if again && known.number < self.last_before {
            Repeats::Next(known.number + 1)
        } else {
            Repeats::Over
        };
        let receipt = if again {
            Receipt {
                at: known.received_at,
                again,
                over_rate: known.over_rate,
                retained: false,
            }
        } else {
            self.unnoted(now)
        };
        self.last += 1;
        self.entries[usize::from(packet_id)] = Entry {
            number: self.last,
            fingerprint,
            received_at: receipt.at,
            over_rate: receipt.over_rate,
        };
        receipt
    }

    /// The delivery noted last with this packet id was more than its device may send, and so it will be if it comes again.
    pub(super) fn note_over_rate(&mut self, packet_id: u16) {
        self.entries[usize::from(packet_id)].over_rate = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Deliveries 1 to 5 of a first connection, at times 101 to 105.
    fn five() -> Delivered {
        let mut delivered = Delivered::default();
        delivered.begin(false);
        for packet in 1..=5_u16 {
            let receipt = delivered.note(packet, false, b"topic", &packet.to_be_bytes(), 100 + i64::from(packet));
            assert_eq!((receipt.at, receipt.again), (100 + i64::from(packet), false));
        }
        delivered
    }

    fn again(delivered: &mut Delivered, packet: u16, payload: u16) -> Option<i64> {
        let receipt = delivered.note(packet, true, b"topic", &payload.to_be_bytes(), 1_000);
        receipt.again.then_some(receipt.at)
    }

    #[test]
    fn what_comes_again_keeps_its_time_of_receipt_and_what_comes_after_does_not() {
        let mut delivered = five();
        delivered.begin(true);
        // The acks of 1 to 3 arrived. 6 was never sent, and is marked DUP all the same.
        assert_eq!(again(&mut delivered, 4, 4), Some(104));
        assert_eq!(again(&mut delivered, 5, 5), Some(105));
        assert_eq!(again(&mut delivered, 6, 6), None);
        // And once more, on a third connection.
        delivered.begin(true);
        assert_eq!(again(&mut delivered, 5, 5), Some(105));
        assert_eq!(again(&mut delivered, 6, 6), Some(1_000));
    }

    #[test]
    fn what_comes_again_keeps_its_verdict_and_its_packet_ids_next_message_does_not() {
        let mut delivered = five();
        delivered.note_over_rate(4);
        delivered.begin(true);
        let mut verdict = |packet: u16| {
            let receipt = delivered.note(packet, true, b"topic", &packet.to_be_bytes(), 1_000);
            (receipt.again, receipt.over_rate)
        };
        assert_eq!([4, 5].map(&mut verdict), [(true, true), (true, false)]);
        assert_eq!(verdict(4), (false, false), "the same again, for the first time");
        delivered.begin(true);
        let receipt = delivered.note(5, true, b"topic", &5_u16.to_be_bytes(), 2_000);
        assert_eq!((receipt.again, receipt.over_rate), (true, false));
    }

    #[test]
    fn another_message_under_a_known_packet_id_is_new() {
        let mut delivered = five();
        delivered.begin(true);
        assert_eq!(again(&mut delivered, 4, 40), None);
        assert_eq!(again(&mut delivered, 5, 5), None, "the run was broken, so this is no repeat either");
        let mut delivered = five();
        delivered.begin(true);
        assert_eq!(again(&mut delivered, 4, 4), Some(104));
        assert_eq!(again(&mut delivered, 3, 3), None, "not in the order of the first time");
    }

    #[test]
    fn a_new_session_repeats_nothing() {
        let mut delivered = five();
        delivered.begin(false);
        assert_eq!(again(&mut delivered, 5, 5), None);
    }

    #[test]
    fn a_packet_id_that_came_round_is_not_taken_for_the_message_that_had_it_before() {
        let mut delivered = Delivered::default();
        delivered.begin(false);
        // The same payload all the time, all acked: the next packet id was last used a whole round ago.
        for packet in 1..=u16::MAX {
            delivered.note(packet, false, b"topic", b"same", i64::from(packet));
        }
        delivered.begin(true);
        let receipt = delivered.note(1, true, b"topic", b"same", 1_000_000);
        assert!(!receipt.again);
    }

    #[test]
    fn no_two_deliveries_have_the_same_time_of_receipt() {
        let mut delivered = Delivered::default();
        let times: Vec<i64> = (1..=3).map(|packet| delivered.note(packet, false, b"t", b"p", 7).at).collect();
        assert_eq!(times, [7, 8, 9]);
        assert_eq!(delivered.unnoted(7).at, 10);
    }
}
