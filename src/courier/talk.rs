//! The conversations under way at the broker, by packet id, and what the broker's packets mean for them.
//!
//! Id 1 is for SUBSCRIBE, those up to the middle are for commands and stand in the database, those above it for letters and
//! live as long as the connection. So no two conversations ever meet under one id.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
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
/// However many letters there are, this part of the window stays free for commands.
const COMMANDS_SHARE: usize = 2;
/// And this for letters, however many commands. Letters are rare, and never urgent.
const LETTERS_SHARE: usize = 8;

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
    /// These packets are under way at the broker, and nobody here knows of what.
    pub(super) foreign: Vec<u16>,
    /// Packets that are free once the database knows of the above.
    pub(super) free: Vec<u16>,
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        self.sent.is_empty() && self.refused.is_empty() && self.done.is_empty() && self.postponed.is_empty() && self.gone.is_empty()
    }
}

/// How many more may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Room {
    pub(super) commands: usize,
    pub(super) letters: usize,
    /// Of both together.
    pub(super) both: usize,
}

/// About one command.
#[derive(Debug, Clone, Copy)]
struct Conversation {
    seq: i64,
    /// It was begun by a connection before, so the broker may know it.
    again: bool,
}

/// The conversations.
#[derive(Debug)]
pub(super) struct Talk {
    commands: HashMap<u16, Conversation>,
    /// Conversations that others began, and that are being brought to their end.
    foreign: HashSet<u16>,
    letters: HashMap<u16, i64>,
    next_command: u16,
    next_letter: u16,
    window: usize,
    /// A window of one cannot be shared: commands and letters take turns.
    letters_turn: bool,
}

impl Talk {
    /// With the broker's Receive Maximum.
    pub(super) fn new(receive_maximum: u16) -> Self {
        Self {
            commands: HashMap::new(),
            foreign: HashSet::new(),
            letters: HashMap::new(),
            next_command: *COMMANDS.start(),
            next_letter: *LETTERS.start(),
            window: usize::from(receive_maximum),
            letters_turn: false,
        }
    }

    /// What there is room for. Each side has a share that the other leaves free, and whoever is there first has the rest; so a
    /// flood of the one never stops the other. To be asked when something is then published: with a window of one the turn passes.
    pub(super) fn room(&mut self) -> Room {
        let (commands, letters) = (self.commands.len(), self.letters.len());
        let both = self.window.saturating_sub(commands + letters + self.foreign.len());
        let letters_share = if !self.takes_turns() {
            (self.window / LETTERS_SHARE).clamp(1, MOST_LETTERS)
        } else {
            let share = usize::from(self.letters_turn);
            self.letters_turn ^= both > 0;
            share
        };
        let most_commands = MOST_COMMANDS.min(self.window - letters_share);
        let most_letters = MOST_LETTERS.min(self.window - self.window / COMMANDS_SHARE);
        Room {
            commands: both.min(most_commands.saturating_sub(commands)),
            letters: both.min(most_letters.saturating_sub(letters)),
            both,
        }
    }

    /// Whether commands and letters take turns.
    pub(super) fn takes_turns(&self) -> bool {
        self.window == 1
    }

    /// So many packet ids that are in no conversation.
    pub(super) fn free_ids(&mut self, count: usize) -> Vec<u16> {
        let mut ids = Vec::with_capacity(count);
        while ids.len() < count {
            let id = self.next_command;
            self.next_command = if id == *COMMANDS.end() { *COMMANDS.start() } else { id + 1 };
            if !self.commands.contains_key(&id) && !self.foreign.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }

    pub(super) fn begin_command(&mut self, packet_id: u16, seq: i64, again: bool) {
        self.commands.insert(packet_id, Conversation { seq, again });
    }

    /// This packet is somebody else's: it is kept clear of until the broker says that it is free.
    pub(super) fn leave_to_others(&mut self, packet_id: u16) {
        self.commands.remove(&packet_id);
        self.foreign.insert(packet_id);
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
            self.foreign.remove(id);
            self.letters.remove(id);
        }
    }

    /// Notes what a packet of the broker's says. Returns whether the packet was such a one.
    pub(super) fn hear(&self, packet: &Packet, news: &mut News) -> bool {
        match packet {
            Packet::PubRec(rec) => self.received(rec.pkid, rec.reason.into(), true, news),
            Packet::PubAck(ack) => self.received(ack.pkid, ack.reason.into(), false, news),
            Packet::PubComp(comp) => {
                if let Some(conversation) = self.commands.get(&comp.pkid) {
                    news.done.push(conversation.seq);
                    news.free.push(comp.pkid);
                } else if self.foreign.contains(&comp.pkid) {
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
        let Some(Conversation { seq, again }) = self.commands.get(&packet_id).copied() else {
            return;
        };
        let in_use = reason == ReasonCode::PACKET_ID_IN_USE;
        // A broker may say so where others say success: it has had this one from the connection before.
        let had = in_use && again && exactly_once;
        if in_use && !had {
            // The row of what is under way there was deleted meanwhile. Its conversation would take up the broker's window for ever.
            news.postponed.push(seq);
            news.foreign.push(packet_id);
            return;
        }
        if !exactly_once && reason == ReasonCode::NO_MATCHING_SUBSCRIBERS {
            news.postponed.push(seq);
        } else if reason.is_refusal() && !had {
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
        talk.begin_command(2, 70, false);
        let news = heard(&talk, Packet::PubRec(PubRec::new(2, None)));
        assert_eq!((news.sent, news.free), (vec![(70, Some(2))], vec![]));
        let news = heard(&talk, Packet::PubComp(PubComp::new(2, None)));
        assert_eq!((news.done, news.free), (vec![70], vec![2]));
        assert!(heard(&talk, Packet::PubComp(PubComp::new(3, None))).is_empty(), "nobody asked");
    }

    #[test]
    fn a_refusal_ends_it_and_an_empty_room_puts_it_off() {
        let mut talk = Talk::new(10);
        talk.begin_command(2, 70, false);
        let mut rec = PubRec::new(2, None);
        rec.reason = PubRecReason::NotAuthorized;
        let news = heard(&talk, Packet::PubRec(rec.clone()));
        assert_eq!(news.refused, [(70, "the broker refused it: 0x87 (not authorized)".to_owned())]);
        rec.reason = PubRecReason::PacketIdentifierInUse;
        let news = heard(&talk, Packet::PubRec(rec.clone()));
        assert_eq!((news.postponed, news.foreign, news.free), (vec![70], vec![2], vec![]));
        let mut resumed = Talk::new(10);
        resumed.begin_command(2, 70, true);
        let news = heard(&resumed, Packet::PubRec(rec));
        assert_eq!(
            (news.sent, news.postponed),
            (vec![(70, Some(2))], vec![]),
            "the broker has it already"
        );
        let mut ack = PubAck::new(2, None);
        ack.reason = PubAckReason::NoMatchingSubscribers;
        let news = heard(&talk, Packet::PubAck(ack));
        assert_eq!((news.postponed, news.free), (vec![70], vec![2]));
    }

    #[test]
    fn a_packet_of_others_is_kept_clear_of_until_the_broker_is_done_with_it() {
        let mut talk = Talk::new(5);
        talk.begin_command(2, 70, false);
        talk.leave_to_others(2);
        assert_eq!((talk.room().both, talk.free_ids(1), talk.knows(2)), (4, vec![3], false));
        let news = heard(&talk, Packet::PubComp(PubComp::new(2, None)));
        assert!(news.is_empty() && news.free == [2], "no row has to do with it");
        talk.end(&news.free);
        assert_eq!(talk.room().both, 5);
    }

    #[test]
    fn ids_in_use_are_passed_over_and_the_window_holds() {
        let mut talk = Talk::new(5);
        for id in [2, 4] {
            talk.begin_command(id, 1, false);
        }
        assert_eq!(talk.free_ids(3), [3, 5, 6]);
        assert_eq!(talk.room().both, 3);
        let letter = talk.begin_letter(9);
        assert_eq!((letter, talk.letters()), (0x8000, vec![9]));
        assert_eq!(talk.room().both, 2);
        talk.end(&[letter, 2]);
        assert!(!talk.knows(2) && talk.knows(4));
        talk.next_command = 0x7fff;
        assert_eq!(talk.free_ids(2), [0x7fff, 2], "and round again");
    }

    #[test]
    fn neither_commands_nor_letters_take_the_whole_window() {
        let begin = |talk: &mut Talk, commands: usize, letters: usize| {
            for id in talk.free_ids(commands) {
                talk.begin_command(id, 1, false);
            }
            (0..letters).for_each(|_| assert!(talk.begin_letter(1) > 0));
        };
        for window in 2..=u16::MAX {
            let (mut full, mut flooded) = (Talk::new(window), Talk::new(window));
            let room = full.room();
            begin(&mut full, room.commands, 0);
            assert!(full.room().letters > 0, "{window}: {room:?}");
            begin(&mut flooded, 0, room.letters);
            assert!(flooded.room().commands > 0, "{window}: {room:?}");
            let rest = full.room();
            assert!(rest.commands == 0 && rest.both <= usize::from(window));
            if window > 4_000 {
                assert_eq!((room.commands, room.letters), (MOST_COMMANDS, MOST_LETTERS), "as many as ever");
                break;
            }
        }
    }

    #[test]
    fn a_window_of_one_goes_back_and_forth() {
        let mut talk = Talk::new(1);
        for _ in 0..3 {
            let room = talk.room();
            assert_eq!(
                (room.commands, room.letters, room.both),
                (1, 1, 1),
                "the commands' turn; else a letter's"
            );
            talk.begin_command(2, 70, false);
            // However often it is asked meanwhile.
            for _ in 0..3 {
                assert_eq!(talk.room().both, 0);
            }
            talk.end(&[2]);
            let room = talk.room();
            assert_eq!((room.commands, room.letters, room.both), (0, 1, 1), "the letters' turn");
        }
    }
}
