//! Whoever waits for the end of a command waits here: however many they are, one look at the database is for all of them.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_postgres::Pool;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::db::error::describe;
use crate::devices::commands::read;
use crate::protocol::command::CommandId;

/// How often it is looked: any replica may have the courier, so it is the database that knows.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Those who come in between two looks; who finds no place waits for one within their time.
const INBOX: usize = 1_024;

#[derive(Debug)]
struct Wish {
    command_id: String,
    told: oneshot::Sender<()>,
}

/// The way to the one who looks. Clones share them.
#[derive(Debug, Clone)]
pub struct Waiting(mpsc::Sender<Wish>);

impl Waiting {
    /// Waits until every device of a command has come to an end, for `patience` at most, or until the service stops. No connection to
    /// the database is kept meanwhile.
    pub async fn until_ended(&self, command_id: &CommandId, patience: Duration) {
        let command_id = command_id.as_str().to_owned();
        let (told, heard) = oneshot::channel();
        let ended = async {
            if self.0.send(Wish { command_id, told }).await.is_ok() {
                // Dropped unsaid, there is nobody any more who would say it.
                drop(heard.await);
            }
        };
        drop(timeout(patience, ended).await);
    }
}

/// Who looks for all.
#[derive(Debug)]
pub struct Watch {
    pool: Pool,
    inbox: mpsc::Receiver<Wish>,
    waiting: HashMap<String, Vec<oneshot::Sender<()>>>,
}

impl Watch {
    /// One who looks by `pool`, and the way to them.
    #[must_use]
    pub fn new(pool: Pool) -> (Self, Waiting) {
        let (wishes, inbox) = mpsc::channel(INBOX);
        let watch = Self {
            pool,
            inbox,
            waiting: HashMap::new(),
        };
        (watch, Waiting(wishes))
    }

    /// Looks until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut tick = interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                wish = self.inbox.recv() => match wish {
                    Some(Wish { command_id, told }) => self.waiting.entry(command_id).or_default().push(told),
                    None => return,
                },
                _ = tick.tick(), if !self.waiting.is_empty() => {
                    let looked = tokio::select! { () = stop.cancelled() => return, looked = self.look() => looked };
                    if let Err(error) = looked {
                        // Each is answered when their time is over, and told then what ails the database.
                        debug!(error, "commands that are waited for could not be looked at");
                    }
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), String> {
        // Those who have gone, or whose time is over, are waited for no longer.
        self.waiting.retain(|_, all| {
            all.retain(|told| !told.is_closed());
            !all.is_empty()
        });
        if self.waiting.is_empty() {
            return Ok(());
        }
        let commands: Vec<&str> = self.waiting.keys().map(String::as_str).collect();
        let client = self.pool.get().await.map_err(|error| error.to_string())?;
        let ended = read::ended(&**client, &commands).await.map_err(|error| describe(&error))?;
        for command_id in &ended {
            for told in self.waiting.remove(command_id).unwrap_or_default() {
                // Who has gone meanwhile is not told.
                told.send(()).unwrap_or(());
            }
        }
        Ok(())
    }
}
