//! The conversations under way at the broker, by packet id, and what the broker's packets mean for them.
//!
//! Id 1 is for SUBSCRIBE, those up to the middle are for commands and stand in the database, those above it for letters and
//! live as long as the connection. So no two conversations ever meet under one id.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::RangeInclusive;

use rumqttc::v5::mqttbytes::v5::Packet;
use tracing::warn;

use crate::mqtt::publish::ReasonCode;

const COMMANDS: RangeInclusive<u16> = 2..=0x7fff;
const LETTERS: RangeInclusive<u16> = 0x8000..=0xffff;
/// The most commands under way: enough for a broker a few milliseconds away, few enough to resume in a moment.
const MOST_COMMANDS: usize = 2_000;
/// The most letters under way.
const MOST_LETTERS: usize = 200;

/// What the broker said of what was published, gathered for one visit to the database.
#[derive(Debug, Default)]
pub(super) struct News {
    /// It has these: rows, and at QoS 2 the packet that is to be released then.
    pub(super) sent: Vec<(i64, Option<u16>)>,
    /// It refused these, in its words.
    pub(super) refused: Vec<(i64, String)>,
    /// Nothing more is to be said about these.
    pub(super) done: Vec<i64>,
    /// Nobody was there for these.
    pub(super) postponed: Vec<i64>,
    /// It has these letters.
    pub(super) gone: Vec<i64>,
    /// And so many of them it refused.
    pub(super) letters_refused: u64,
    /// Packets that are free once the database knows of the above.
    pub(super) free: Vec<u16>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.refused.is_empty() && self.done.is_empty() && self.postponed.is_empty() && self.gone.is_empty()
    }
}

/// The conversations.
#[derive(Debug)]
pub(super) struct Talk {
    commands: HashMap<u16, i64>,
    letters: HashMap<u16, i64>,
    next_command: u16,
    next_letter: u16,
    window: usize,
}

impl Talk {
    /// With the broker's Receive Maximum.
    pub(super) fn new(receive_maximum: u16) -> Self {
        Self {
            commands: HashMap::new(),
            letters: HashMap::new(),
            next_command: *COMMANDS.start(),
            next_letter: *LETTERS.start(),
            window: usize::from(receive_maximum),
        }
    }

    /// How many more commands may be published.
    pub(super) fn room_for_commands(&self) -> usize {
        let free = self.window.saturating_sub(self.commands.len() + self.letters.len());
        free.min(MOST_COMMANDS.saturating_sub(self.commands.len()))
    }

    /// How many more letters may be, after so many commands.
    pub(super) fn room_for_letters(&self, commands: usize) -> usize {
        let free = self.window.saturating_sub(self.commands.len() + self.letters.len() + commands);
        free.min(MOST_LETTERS.saturating_sub(self.letters.len()))
    }

    /// So many packet ids that are in no conversation.
    pub(super) fn free_ids(&mut self, count: usize) -> Vec<u16> {
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            let id = self.next_command;
            self.next_command = if id == *COMMANDS.end() { *COMMANDS.start() } else { id + 1 };
            if !self.commands.contains_key(&id) {
                ids.push(id);
            }
        }
        ids
    }

    pub(super) fn begin_command(&mut self, packet_id: u16, seq: i64) {
        self.commands.insert(packet_id, seq);
    }

    pub(super) fn begin_letter(&mut self, id: i64) -> u16 {
        loop {
            let packet_id = self.next_letter;
            self.next_letter = packet_id.checked_add(1).unwrap_or(*LETTERS.start());
            if let Entry::Vacant(place) = self.letters.entry(packet_id) {
                place.insert(id);
                return packet_id;
            }
        }
    }

    /// Whether this packet is known here.
    pub(super) fn knows(&self, packet_id: u16) -> bool {
        self.commands.contains_key(&packet_id)
    }

    /// The letters under way.
    pub(super) fn letters(&self) -> Vec<i64> {
        self.letters.values().copied().collect()
    }

    /// These packets may be used again.
    pub(super) fn end(&mut self, packet_ids: &[u16]) {
        for id in packet_ids {
            self.commands.remove(id);
            self.letters.remove(id);
        }
    }

    /// Notes what a packet of the broker's says. Returns whether the packet was such a one.
    pub(super) fn hear(&self, packet: &Packet, news: &mut News) -> bool {
        match packet {
            Packet::PubRec(rec) => self.received(rec.pkid, rec.reason.into(), true, news),
            Packet::PubAck(ack) => self.received(ack.pkid, ack.reason.into(), false, news),
            Packet::PubComp(comp) => {
                if let Some(seq) = self.commands.get(&comp.pkid) {
                    news.done.push(*seq);
                    news.free.push(comp.pkid);
                }
            }
            _ => return false,
        }
        true
    }

    fn received(&self, packet_id: u16, reason: ReasonCode, exactly_once: bool, news: &mut News) {
        if let Some(letter) = self.letters.get(&packet_id) {
            if reason.is_refusal() {
                warn!(%reason, letter, "the broker refused a publish of the outbox; it is given up");
                news.letters_refused += 1;
            }
            news.gone.push(*letter);
            news.free.push(packet_id);
            return;
        }
        let Some(seq) = self.commands.get(&packet_id).copied() else {
            return;
        };
        let postponed = reason == ReasonCode::PACKET_ID_IN_USE || (!exactly_once && reason == ReasonCode::NO_MATCHING_SUBSCRIBERS);
        if postponed {
            news.postponed.push(seq);
        } else if reason.is_refusal() {
            news.refused.push((seq, format!("the broker refused it: {reason}")));
        } else {
            // At QoS 2 Mosquitto says success whether or not anybody is there.
            news.sent.push((seq, exactly_once.then_some(packet_id)));
            if exactly_once {
                return;
            }
            news.done.push(seq);
        }
        news.free.push(packet_id);
    }
}

#[cfg(test)]
mod tests {
    use rumqttc::v5::mqttbytes::v5::{PubAck, PubAckReason, PubComp, PubRec, PubRecReason};

    use super::*;

    fn heard(talk: &Talk, packet: Packet) -> News {
        let mut news = News::default();
        assert!(talk.hear(&packet, &mut news));
        news
    }

    #[test]
    fn a_conversation_at_qos_2_takes_two_steps() {
        let mut talk = Talk::new(10);
        talk.begin_command(2, 70);
        let news = heard(&talk, Packet::PubRec(PubRec::new(2, None)));
        assert_eq!((news.sent, news.free), (vec![(70, Some(2))], vec![]));
        let news = heard(&talk, Packet::PubComp(PubComp::new(2, None)));
        assert_eq!((news.done, news.free), (vec![70], vec![2]));
        assert!(heard(&talk, Packet::PubComp(PubComp::new(3, None))).is_empty(), "nobody asked");
    }

    #[test]
    fn a_refusal_ends_it_and_an_empty_room_puts_it_off() {
        let mut talk = Talk::new(10);
        talk.begin_command(2, 70);
        let mut rec = PubRec::new(2, None);
        rec.reason = PubRecReason::NotAuthorized;
        let news = heard(&talk, Packet::PubRec(rec.clone()));
        assert_eq!(news.refused, [(70, "the broker refused it: 0x87 (not authorized)".to_owned())]);
        rec.reason = PubRecReason::PacketIdentifierInUse;
        assert_eq!(heard(&talk, Packet::PubRec(rec)).postponed, [70]);
        let mut ack = PubAck::new(2, None);
        ack.reason = PubAckReason::NoMatchingSubscribers;
        let news = heard(&talk, Packet::PubAck(ack));
        assert_eq!((news.postponed, news.free), (vec![70], vec![2]));
    }

    #[test]
    fn ids_in_use_are_passed_over_and_the_window_holds() {
        let mut talk = Talk::new(5);
        for id in [2, 4] {
            talk.begin_command(id, 1);
        }
        assert_eq!(talk.free_ids(3), [3, 5, 6]);
        assert_eq!((talk.room_for_commands(), talk.room_for_letters(1)), (3, 2));
        let letter = talk.begin_letter(9);
        assert_eq!((letter, talk.letters()), (0x8000, vec![9]));
        assert_eq!(talk.room_for_commands(), 2);
        talk.end(&[letter, 2]);
        assert!(!talk.knows(2) && talk.knows(4));
        talk.next_command = 0x7fff;
        assert_eq!(talk.free_ids(2), [0x7fff, 2], "and round again");
    }
}
