//! What one connection of the courier lives through: round after round, each with one visit to the database at most.
//!
//! ```text
//! packets in ─► one visit to the database ─► PUBRELs, acks, PUBLISHes out
//! ```

use std::time::{Duration, Instant};

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, SubAck, SubscribeReasonCode};
use tokio::sync::mpsc;
use tokio::time::sleep_until;
use tracing::error;

use crate::devices::commands::dispatch::{Dispatch, Taken};
use crate::devices::outbox::Due;
use crate::ingest::rate::Rates;
use crate::mqtt::connection::Connection;
use crate::mqtt::publish::Limits;
use crate::protocol::id::DeviceIdRef;

use super::desk::Errand;
use super::incoming::Incoming;
use super::session::{Broken, Courier, End};
use super::talk::{News, Talk};
use super::wire;

/// The most commands that one visit takes: a few milliseconds of the database's time.
const BATCH: usize = 500;
/// The most of what devices say that one visit stores.
const MOST_INCOMING: usize = 500;
/// So many rounds of other work, and then the database's word is listened to: looking in each would make each dearer.
const MOST_UNLOOKED: u32 = 4;
/// How often is looked by itself, and chores are done.
const TICK: Duration = Duration::from_secs(1);
/// How many ticks lie between two looks at whether the database knows of packets that nobody here does.
const STRAYS_EVERY: u32 = 5;
/// The longest wait for a SUBACK.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What one connection lives through.
pub(super) struct Round<'a> {
    courier: &'a Courier,
    rates: Option<&'a mut Rates>,
    talk: Talk,
    max_qos: u8,
    news: News,
    incoming: Vec<Incoming>,
    subscribed: Option<Instant>,
    /// There may be something to send.
    look: bool,
    /// Rounds since it was last looked whether there is.
    unlooked: u32,
    /// There was no room for more commands, or for more letters, when it was last looked.
    cramped: bool,
    chores: bool,
    ticks: u32,
}

impl<'a> Round<'a> {
    /// Over a connection to a broker with these limits.
    pub(super) fn new(courier: &'a Courier, limits: &Limits, rates: Option<&'a mut Rates>) -> Self {
        Self {
            courier,
            rates,
            talk: Talk::new(limits.receive_maximum),
            max_qos: limits.max_qos,
            news: News::default(),
            incoming: Vec::new(),
            subscribed: None,
            look: true,
            unlooked: 0,
            cramped: false,
            chores: true,
            ticks: 0,
        }
    }

    /// Goes on with each packet where it stands, in order.
    pub(super) fn resume(&mut self, connection: &mut Connection, under_way: &Taken) {
        for lost in &under_way.lost {
            let Some(packet_id) = lost.packet_id else { continue };
            // What it was cannot be said again; what the broker has of it is ended.
            self.talk.begin_command(packet_id, lost.seq, true);
            connection.release(packet_id);
            self.news.refused.push((lost.seq, lost.why.to_string()));
        }
        for dispatch in &under_way.dispatches {
            let Some(packet_id) = dispatch.packet_id else { continue };
            self.talk.begin_command(packet_id, dispatch.seq, true);
            if dispatch.sent {
                connection.release(packet_id);
            } else {
                self.publish(connection, dispatch, packet_id, true);
            }
        }
    }

    pub(super) async fn serve(&mut self, mut connection: Connection, words: &mut mpsc::Receiver<()>) -> Result<End, Broken> {
        let begun = Instant::now();
        let mut tick = begun;
        let stop = &self.courier.stop;
        loop {
            let more = self.hear_all(&mut connection)?;
            // Where devices never fall silent, the wait below never comes.
            self.unlooked += 1;
            self.look |= self.unlooked > MOST_UNLOOKED && words.try_recv().is_ok();
            if tick <= Instant::now() {
                tick = Instant::now() + TICK;
                self.tick(begun).await?;
            }
            let stopping = stop.is_cancelled();
            let errand = self.errand(stopping);
            let busy = more || !errand.is_idle();
            if !errand.is_idle() {
                self.go(&mut connection, errand).await?;
                self.pass(false);
            }
            if stopping {
                connection.disconnect(false).await?;
                return Ok(End::Stopped);
            }
            tokio::select! {
                biased;
                // What was read is heard before more is.
                turned = connection.turn(!more) => turned?,
                // However much there is to send, what the broker says is heard in between.
                () = std::future::ready(()), if busy => {}
                Some(()) = words.recv() => self.look = true,
                () = sleep_until(tick.into()) => {}
                () = stop.cancelled() => {}
            }
            self.pass(!more);
        }
    }

    /// What is due every second.
    async fn tick(&mut self, begun: Instant) -> Result<(), Broken> {
        (self.look, self.chores) = (true, true);
        self.ticks += 1;
        if self.subscribed.is_none() && begun.elapsed() > ANSWER_WITHIN {
            return Err(Broken::NoAnswer);
        }
        if self.ticks.is_multiple_of(STRAYS_EVERY) {
            self.look_for_strays().await?;
        }
        Ok(())
    }

    fn pass(&mut self, reading: bool) {
        if let Some(rates) = &mut self.rates {
            rates.pass(Instant::now(), reading);
        }
    }

    /// Takes apart what was read, up to what one visit stores. Returns whether there may be more.
    fn hear_all(&mut self, connection: &mut Connection) -> Result<bool, Broken> {
        let now = Instant::now();
        while self.incoming.len() < MOST_INCOMING {
            let Some(packet) = connection.next_packet()? else {
                return Ok(false);
            };
            self.hear(packet, now)?;
        }
        Ok(true)
    }

    fn hear(&mut self, packet: Packet, now: Instant) -> Result<(), Broken> {
        match packet {
            Packet::Publish(publish) => {
                let rates = &mut self.rates;
                let too_much = |device: DeviceIdRef<'_>| rates.as_mut().is_some_and(|rates| rates.is_exceeded_by_device(device, now));
                self.incoming.push(Incoming::new(&self.courier.desk.tree, publish, too_much));
            }
            Packet::SubAck(ack) => self.note_subscribed(&ack)?,
            packet => drop(self.talk.hear(&packet, &mut self.news)),
        }
        Ok(())
    }

    fn note_subscribed(&mut self, ack: &SubAck) -> Result<(), Broken> {
        let refused = |code: &&SubscribeReasonCode| !matches!(code, SubscribeReasonCode::Success(_));
        if let Some(code) = ack.return_codes.iter().find(refused) {
            return Err(Broken::Refused(*code));
        }
        self.subscribed = Some(Instant::now());
        self.courier.metrics.connected.set(1.0);
        self.courier.latch.ready("subscribed");
        Ok(())
    }

    /// What the next visit to the database is for. Nothing new is begun while the lease may be another's.
    fn errand(&mut self, stopping: bool) -> Errand {
        let mut errand = Errand {
            news: std::mem::take(&mut self.news),
            incoming: std::mem::take(&mut self.incoming),
            ..Errand::default()
        };
        let certain = self.courier.lease.borrow().is_certain();
        if stopping || !certain {
            return errand;
        }
        errand.chores = std::mem::take(&mut self.chores);
        if self.look {
            self.unlooked = 0;
            let room = self.talk.room();
            (self.look, self.cramped) = (false, room.commands == 0 || room.letters == 0);
            errand.free = self.talk.free_ids(room.commands.min(BATCH));
            (errand.letters, errand.both) = (room.letters, room.both);
            errand.letters_under_way = self.talk.letters();
        }
        // A letter that chores put in, or what waits for the room that there will be after this visit.
        self.look |= errand.chores || (self.cramped && !errand.news.free.is_empty());
        errand
    }

    /// One visit to the database, while the connection is kept alive, and then the packets that follow from it.
    async fn go(&mut self, connection: &mut Connection, mut errand: Errand) -> Result<(), Broken> {
        let desk = self.courier.desk.clone();
        let brought = {
            let visit = desk.visit(&mut errand);
            tokio::pin!(visit);
            loop {
                tokio::select! {
                    biased;
                    brought = &mut visit => break brought?,
                    turned = connection.turn(false) => turned?,
                }
            }
        };
        for packet_id in errand.news.sent.iter().filter_map(|(_, packet_id)| *packet_id) {
            connection.release(packet_id);
        }
        self.talk.end(&errand.news.free);
        for &packet_id in &errand.news.foreign {
            self.talk.leave_to_others(packet_id);
            connection.release(packet_id);
        }
        for incoming in errand.incoming.iter().filter(|incoming| incoming.packet_id > 0) {
            connection.ack(incoming.packet_id);
        }
        // As many as were asked for: there may be more.
        self.look |= !errand.free.is_empty() && brought.commands.len() == errand.free.len();
        self.look |= errand.letters > 0 && brought.letters.len() == errand.letters_beside(brought.commands.len());
        // It was the letters' turn, and there was none.
        self.look |= self.talk.takes_turns() && errand.letters > 0 && errand.free.is_empty() && brought.letters.is_empty();
        for dispatch in &brought.commands {
            if let Some(packet_id) = dispatch.packet_id {
                self.talk.begin_command(packet_id, dispatch.seq, false);
            }
            self.publish(connection, dispatch, dispatch.packet_id.unwrap_or(0), false);
        }
        for due in &brought.letters {
            self.post(connection, due);
        }
        Ok(())
    }

    fn publish(&mut self, connection: &mut Connection, dispatch: &Dispatch, packet_id: u16, again: bool) {
        let message = wire::command(&self.courier.desk.tree, dispatch, self.max_qos);
        let at_most_once = message.qos == QoS::AtMostOnce;
        let wire_id = if at_most_once { 0 } else { packet_id };
        let published = connection.publish_as(&message, wire_id, again && !at_most_once);
        match published {
            Err(error) => {
                self.news.refused.push((dispatch.seq, error.to_string()));
                self.news.free.push(packet_id);
            }
            // A broker that takes no higher QoS answers nothing.
            Ok(()) if at_most_once && packet_id > 0 => {
                self.news.sent.push((dispatch.seq, None));
                self.news.done.push(dispatch.seq);
                self.news.free.push(packet_id);
            }
            Ok(()) => {}
        }
    }

    fn post(&mut self, connection: &mut Connection, due: &Due) {
        let message = wire::letter(due, self.max_qos);
        let packet_id = self.talk.begin_letter(due.id);
        let at_most_once = message.qos == QoS::AtMostOnce;
        let published = connection.publish_as(&message, if at_most_once { 0 } else { packet_id }, false);
        if let Err(error) = &published {
            error!(%error, letter = due.id, "a publish of the outbox cannot be sent; it is given up");
            self.news.letters_refused += 1;
        }
        if at_most_once || published.is_err() {
            self.news.gone.push(due.id);
            self.news.free.push(packet_id);
        }
    }

    /// A packet that the database knows of and nobody here does was begun by one who was frozen and came back: only a new session
    /// can go on with it.
    async fn look_for_strays(&self) -> Result<(), Broken> {
        let known = self.courier.desk.packet_ids().await?;
        match known.into_iter().find(|id| !self.talk.knows(*id)) {
            Some(stray) => Err(Broken::Stray(stray)),
            None => Ok(()),
        }
    }
}
