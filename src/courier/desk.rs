//! One visit to the database a round: what the broker and the devices said is put down, and what is due next is brought back.

use std::time::Duration;

use deadpool_postgres::{Object, Pool, PoolError};
use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use crate::db::error::describe;
use crate::devices::commands::dispatch::{self, Dispatch, Lost, Taken};
use crate::devices::commands::{cancel, fleet};
use crate::devices::outbox::{self, Due, Message};
use crate::observe::metrics::CourierMetrics;
use crate::protocol::channels::Channel;
use crate::protocol::id::GroupId;
use crate::protocol::topic::TopicTree;

use super::discovery::Inbox;
use super::incoming::{self, Incoming};
use super::talk::News;

/// Why a visit came to nothing. All that it would have done is done by the next session, from what the database then says.
#[derive(Debug, thiserror::Error)]
pub(super) enum Trouble {
    #[error("the database: {}", describe(.0))]
    Database(#[from] Error),
    #[error("the database: {0}")]
    Pool(#[from] PoolError),
    #[error("the database did not answer within {0:?}")]
    Timeout(Duration),
}

/// What is wanted of a visit.
#[derive(Debug, Default)]
pub(super) struct Errand {
    pub(super) news: News,
    pub(super) incoming: Vec<Incoming>,
    /// Packet ids for commands that are due; none where none are wanted.
    pub(super) free: Vec<u16>,
    /// How many letters are wanted, beside those that are under way.
    pub(super) letters: usize,
    /// How many letters and commands together.
    pub(super) both: usize,
    pub(super) letters_under_way: Vec<i64>,
    /// What is due every second: what is past its time, and how far groups have come.
    pub(super) chores: bool,
}

impl Errand {
    /// Whether there is nothing to go for.
    pub(super) fn is_idle(&self) -> bool {
        self.news.is_empty()
            && self.news.free.is_empty()
            && self.incoming.is_empty()
            && self.free.is_empty()
            && self.letters == 0
            && !self.chores
    }

    /// How many letters there is room for beside so many commands.
    pub(super) fn letters_beside(&self, commands: usize) -> usize {
        self.letters.min(self.both.saturating_sub(commands))
    }
}

/// The longest wait for the groups of which there is news.
const BRIEFLY: &str = "SET LOCAL lock_timeout = '250ms'";

/// What was brought back.
#[derive(Debug, Default)]
pub(super) struct Brought {
    pub(super) commands: Vec<Dispatch>,
    pub(super) letters: Vec<Due>,
}

/// The courier's way to the database.
#[derive(Debug, Clone)]
pub(super) struct Desk {
    pub(super) pool: Pool,
    pub(super) tree: TopicTree,
    pub(super) metrics: CourierMetrics,
    pub(super) registrations: Inbox,
    /// The longest that a visit may take.
    pub(super) patience: Duration,
}

impl Desk {
    /// What has a packet at the broker, or may have.
    pub(super) async fn under_way(&self) -> Result<Taken, Trouble> {
        self.in_time(async { Ok(dispatch::under_way(&**self.pool.get().await?).await?) })
            .await
    }

    /// The session is gone, and its packets with it.
    pub(super) async fn forget_packets(&self) -> Result<u64, Trouble> {
        self.in_time(async { Ok(dispatch::forget_packets(&**self.pool.get().await?).await?) })
            .await
    }

    /// The packets that the database knows of.
    pub(super) async fn packet_ids(&self) -> Result<Vec<u16>, Trouble> {
        self.in_time(async {
            let client = self.pool.get().await?;
            let (turn, device) = dispatch::depth(&**client).await?;
            #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53")]
            {
                self.metrics.waiting_turn.set(turn as f64);
                self.metrics.waiting_device.set(device as f64);
            }
            Ok(dispatch::packet_ids(&**client).await?)
        })
        .await
    }

    /// Does the errand.
    pub(super) async fn visit(&self, errand: &mut Errand) -> Result<Brought, Trouble> {
        self.in_time(self.do_errand(errand)).await
    }

    async fn in_time<T>(&self, work: impl Future<Output = Result<T, Trouble>>) -> Result<T, Trouble> {
        tokio::time::timeout(self.patience, work)
            .await
            .unwrap_or(Err(Trouble::Timeout(self.patience)))
    }

    async fn do_errand(&self, errand: &mut Errand) -> Result<Brought, Trouble> {
        if !errand.incoming.is_empty() {
            incoming::store(&self.pool, &self.metrics, &mut errand.incoming).await?;
            errand
                .incoming
                .iter()
                .filter_map(Incoming::registration)
                .for_each(|registration| self.registrations.put(registration));
        }
        if !errand.news.is_empty() {
            self.put_down(&errand.news).await?;
        }
        if errand.chores {
            self.chores().await?;
        }
        let mut brought = Brought::default();
        let mut client = self.pool.get().await?;
        if !errand.free.is_empty() {
            dispatch::hold(&**client, errand.free.len()).await?;
            let Taken { dispatches, lost } = dispatch::take(&**client, &errand.free).await?;
            brought.commands = dispatches;
            let at_most_once = brought.commands.iter().filter(|command| command.packet_id.is_none()).count();
            self.metrics.came_into("sent", at_most_once as u64);
            self.note_groups_at_most_once(&mut client, &mut brought.commands).await?;
            self.give_up(&mut client, &lost).await?;
        }
        let letters = errand.letters_beside(brought.commands.len());
        if letters > 0 {
            brought.letters = outbox::due(&**client, &errand.letters_under_way, letters).await?;
        }
        Ok(brought)
    }

    /// To a group at QoS 0: sent, for its members as well, before it is published, since nobody will answer.
    async fn note_groups_at_most_once(&self, client: &mut Object, commands: &mut [Dispatch]) -> Result<(), Trouble> {
        let to_groups = |command: &&mut Dispatch| command.qos == 0 && command.packet_id.is_some();
        let rows: Vec<i64> = commands.iter_mut().filter(to_groups).map(|command| command.seq).collect();
        if rows.is_empty() {
            return Ok(());
        }
        let transaction = client.transaction().await?;
        dispatch::lock(&*transaction, &rows).await?;
        let sent = dispatch::sent(&*transaction, &rows).await?;
        dispatch::done(&*transaction, &rows).await?;
        transaction.commit().await?;
        commands.iter_mut().filter(to_groups).for_each(|command| command.packet_id = None);
        self.metrics.came_into("sent", sent);
        Ok(())
    }

    /// Ends what cannot be sent, which would be due for ever.
    async fn give_up(&self, client: &mut Object, lost: &[Lost]) -> Result<(), Trouble> {
        if lost.is_empty() {
            return Ok(());
        }
        let refusals: Vec<(i64, String)> = lost.iter().map(|lost| (lost.seq, lost.why.to_string())).collect();
        let rows: Vec<i64> = lost.iter().map(|lost| lost.seq).collect();
        let transaction = client.transaction().await?;
        dispatch::lock(&*transaction, &rows).await?;
        let failed = dispatch::refused(&*transaction, &refusals).await?;
        transaction.commit().await?;
        self.metrics.came_into("failed", failed);
        Ok(())
    }

    async fn put_down(&self, news: &News) -> Result<(), Trouble> {
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        let (mut sent, mut failed) = (0, 0);
        let noted: Vec<i64> = (news.sent.iter().map(|(seq, _)| *seq))
            .chain(news.refused.iter().map(|(seq, _)| *seq))
            .chain(news.done.iter().chain(&news.postponed).copied())
            .collect();
        if !noted.is_empty() {
            dispatch::lock(&*transaction, &noted).await?;
        }
        if !news.sent.is_empty() {
            let rows: Vec<i64> = news.sent.iter().map(|(seq, _)| *seq).collect();
            sent = dispatch::sent(&*transaction, &rows).await?;
        }
        if !news.refused.is_empty() {
            failed = dispatch::refused(&*transaction, &news.refused).await?;
        }
        if !news.done.is_empty() {
            dispatch::done(&*transaction, &news.done).await?;
        }
        if !news.postponed.is_empty() {
            dispatch::postpone(&*transaction, &news.postponed).await?;
        }
        if !news.gone.is_empty() {
            outbox::gone(&*transaction, &news.gone).await?;
        }
        transaction.commit().await?;
        self.metrics.came_into("sent", sent);
        self.metrics.came_into("failed", failed);
        self.metrics.letters_taken.increment(news.gone.len() as u64 - news.letters_refused);
        self.metrics.letters_refused.increment(news.letters_refused);
        Ok(())
    }

    async fn chores(&self) -> Result<(), Trouble> {
        let mut client = self.pool.get().await?;
        let expired = cancel::expire(&**client).await?;
        self.metrics.came_into("expired", expired);
        outbox::expire(&**client).await?;
        let transaction = client.transaction().await?;
        // Who changes a group may hold it for seconds, and nothing else that the courier does depends on it: told a second later then.
        transaction.batch_execute(BRIEFLY).await?;
        let news = match fleet::take_news(&*transaction).await {
            Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => return Ok(()),
            news => news?,
        };
        for aggregate in news {
            let Ok(group) = GroupId::parse(&aggregate.group) else { continue };
            let message = Message {
                topic: &Channel::FleetStatus.of_group(&self.tree, &group),
                payload: &serde_json::to_vec(&aggregate).expect("texts and numbers"),
                qos: 1,
                retain: true,
                expires_at: None,
            };
            outbox::put(&*transaction, &message).await?;
        }
        transaction.commit().await?;
        Ok(())
    }
}
