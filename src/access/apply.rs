//! One change: what the database says, put in place of what the broker reads, and proven; or taken back.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio_postgres::{Client, IsolationLevel};
use tracing::{error, info, warn};

use crate::broker::access_set::{AccessSet, AccessSetError, Canary};
use crate::broker::acl::Member;
use crate::broker::passwords::{BadHash, Hash};
use crate::broker::process::{Process, ProcessError};
use crate::broker::shelf::{Locked, Shelf};
use crate::db::error::describe;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::users::{self, Snapshot, User, UserError};
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::connection::Connection;
use crate::protocol::topic::TopicTree;

use super::prove::{Unproven, prove};

/// How long taking over one session may take.
const TAKEOVER_WITHIN: Duration = Duration::from_secs(2);

const APPLIED: &str = "UPDATE broker_access SET applied_version = $1, applied_at = now(), alarm = NULL, alarm_at = NULL";
const ALARM: &str = "UPDATE broker_access SET alarm = $1, alarm_at = coalesce(alarm_at, now())";
const BEHIND: &str = "SELECT version <> applied_version FROM broker_access";

/// Why a change is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The database cannot be read.
    #[error(transparent)]
    Users(#[from] UserError),
    /// A hash in the database is none.
    #[error("the password hash of {username} in broker_users: {source}")]
    Hash {
        /// Whose.
        username: String,
        /// What is wrong.
        #[source]
        source: BadHash,
    },
    /// The database cannot be told.
    #[error("{}", describe(.0))]
    Database(#[from] tokio_postgres::Error),
    /// The files could not be written; the old ones stand.
    #[error(transparent)]
    Files(#[from] AccessSetError),
    /// The broker could not be told; the old files are back.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The system has no randomness.
    #[error(transparent)]
    Random(#[from] getrandom::Error),
    /// The broker did not obey; the last good files are back in force.
    #[error("{0}; the last good files are back in force")]
    RolledBack(Unproven),
    /// The broker did not obey, and does not obey the last good files either.
    #[error("{new}; and with the last good files back: {last}")]
    Lost {
        /// What was wrong with the new files.
        new: Unproven,
        /// What is wrong now.
        last: Box<ApplyError>,
    },
    /// Nothing of what is in place could be proven.
    #[error(transparent)]
    Unproven(#[from] Unproven),
}

impl ApplyError {
    /// Whether the broker may now be letting people do what they must not, so that it had better not run.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match self {
            Self::Unproven(unproven) => unproven.is_open(),
            Self::Lost { new, last } => new.is_open() || last.is_open(),
            _ => false,
        }
    }
}

/// How a change ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The database's version that is in force, or will be when the broker is started.
    pub version: i64,
    /// Who may log in.
    pub members: usize,
    /// Whether a broker was there that proved it.
    pub proven: bool,
}

/// What it takes to change the files of one broker.
#[derive(Debug, Clone)]
pub struct Applier {
    /// The topic tree.
    pub tree: TopicTree,
    /// Where the files are.
    pub shelf: Shelf,
    /// The broker that reads them.
    pub process: Process,
    /// The listeners that the canary can reach; the first is the staff's.
    pub listeners: Vec<MqttConfig>,
}

impl Applier {
    /// Whether the database has changed since the last change that was applied.
    ///
    /// # Errors
    /// The database's.
    pub async fn is_behind(client: &Client) -> Result<bool, tokio_postgres::Error> {
        Ok(client.query_one(BEHIND, &[]).await?.get(0))
    }

    /// Brings what the database says into force. Says so in the database, or says there why it could not.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn apply(&self, client: &mut Client) -> Result<Applied, ApplyError> {
        let locked = self.lock().await?;
        let outcome = self.try_apply(client, &locked).await;
        match &outcome {
            Ok(applied) => {
                // Still locked: a slower writer would set it back.
                client.execute(APPLIED, &[&applied.version]).await?;
                info!(
                    version = applied.version,
                    users = applied.members,
                    proven = applied.proven,
                    "access applied"
                );
                if applied.proven {
                    self.settle_sessions(&locked).await?;
                }
            }
            Err(error) => {
                error!(%error, "who may do what could not be changed at the broker");
                // What is wrong with the broker matters more than that the database cannot be told.
                if let Err(unsaid) = raise_alarm(client, error).await {
                    error!(error = describe(&unsaid), "the alarm could not be raised in the database");
                }
            }
        }
        outcome
    }

    async fn try_apply(&self, client: &mut Client, locked: &Locked) -> Result<Applied, ApplyError> {
        // One moment's: the version and the users that it stands for.
        let moment = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let snapshot = users::snapshot(&moment).await?;
        moment.commit().await?;
        let version = snapshot.version;
        let set = self.set(snapshot)?;
        // Kept before the set is put in place: afterwards nobody would know who was there.
        let gone = self.shelf.members().into_iter().chain(self.shelf.owing());
        let mut gone: BTreeSet<String> = gone.filter(|name| !set.members.contains(name)).collect();
        // Who has a certificate only was never a member.
        gone.extend(set.shut_out().difference(&self.shelf.shut_out()).cloned());
        self.shelf.owe(locked, &gone)?;
        self.shelf.put(locked, &set)?;
        let running = match self.process.reload() {
            Ok(running) => running,
            Err(error) => {
                self.shelf.take_back(locked)?;
                return Err(error.into());
            }
        };
        if running {
            match prove(&self.listeners, &set.canary).await {
                Ok(()) => self.shelf.mark_proven(locked)?,
                Err(new) => return Err(self.roll_back(locked, new).await),
            }
        }
        Ok(Applied {
            version,
            members: set.members.len(),
            proven: running,
        })
    }

    /// Proves that what is in place is in force.
    ///
    /// # Errors
    /// [`ApplyError::Unproven`], or the file system's.
    pub async fn prove(&self) -> Result<(), ApplyError> {
        let locked = self.lock().await?;
        self.prove_in_place(&locked).await
    }

    /// Tells the broker to read its files again, such as certificates, and proves that it does as before. Returns whether
    /// there was a broker to tell.
    ///
    /// # Errors
    /// See [`ApplyError`].
    pub async fn reload(&self) -> Result<bool, ApplyError> {
        let locked = self.lock().await?;
        let running = self.process.reload()?;
        if running {
            self.prove_in_place(&locked).await?;
        }
        Ok(running)
    }

    async fn prove_in_place(&self, locked: &Locked) -> Result<(), ApplyError> {
        prove(&self.listeners, &self.shelf.canary()?).await?;
        Ok(self.shelf.mark_proven(locked)?)
    }

    async fn lock(&self) -> Result<Locked, ApplyError> {
        let shelf = self.shelf.clone();
        let locked = tokio::task::spawn_blocking(move || shelf.lock()).await;
        Ok(locked.expect("waiting for a lock does not panic")?)
    }

    fn set(&self, snapshot: Snapshot) -> Result<AccessSet, ApplyError> {
        let canary = Canary::new(&self.tree, users::CANARY)?;
        let hash = Hash::of_generated(&canary.password)?;
        let members = snapshot.users.into_iter().map(member).collect::<Result<Vec<_>, _>>()?;
        Ok(AccessSet::render(&self.tree, &members, &snapshot.shut_out, canary, &hash))
    }

    async fn roll_back(&self, locked: &Locked, new: Unproven) -> ApplyError {
        let back = async {
            self.shelf.take_back(locked)?;
            self.process.reload()?;
            self.prove_in_place(locked).await
        };
        match back.await {
            Ok(()) => ApplyError::RolledBack(new),
            Err(last) => ApplyError::Lost { new, last: Box::new(last) },
        }
    }

    /// Ends the sessions of those who may no longer log in. Who has a password was disconnected by the reload; who has a
    /// certificate was not, and what was queued for either is still there. A client that connects under the name takes the
    /// session over, and takes it along when it leaves: at the other listeners a user's name is its client id.
    ///
    /// Returns those whose session could not be ended.
    pub async fn end_sessions(&self, names: BTreeSet<String>) -> BTreeSet<String> {
        let (Some(staff), Ok(canary)) = (self.listeners.first(), self.shelf.canary()) else {
            return names;
        };
        let config = MqttConfig {
            connect_timeout: TAKEOVER_WITHIN,
            ..staff.errand(&canary.name, canary.password)
        };
        let mut left = names;
        while let Some(name) = left.first().cloned() {
            match Connection::open(&config, &name).await {
                Ok((connection, _)) => drop(connection.disconnect(true).await),
                Err(error) => {
                    warn!(user = name, %error, "the session of a user who may no longer log in could not be ended; it is tried again");
                    break;
                }
            }
            left.remove(&name);
        }
        left
    }

    async fn settle_sessions(&self, locked: &Locked) -> Result<(), ApplyError> {
        let owing = self.shelf.owing();
        if !owing.is_empty() {
            let left = self.end_sessions(owing).await;
            self.shelf.owe(locked, &left)?;
        }
        Ok(())
    }
}

async fn raise_alarm(client: &Client, error: &ApplyError) -> Result<(), tokio_postgres::Error> {
    client.execute(ALARM, &[&error.to_string()]).await?;
    if matches!(error, ApplyError::RolledBack(_) | ApplyError::Lost { .. }) {
        let actor = Actor::of_command_line();
        let act = Act::new(&actor, Action::BrokerRollback, "access", Outcome::Failed).with("why", error.to_string());
        audit::record(client, &act).await?;
    }
    Ok(())
}

fn member(user: User) -> Result<(Member, Option<Hash>), ApplyError> {
    let hash = match (&user.password_hash, user.disabled) {
        (Some(text), false) => Some(Hash::parse(text).map_err(|source| ApplyError::Hash {
            username: user.username.to_string(),
            source,
        })?),
        _ => None,
    };
    let member = Member {
        username: user.username,
        role: user.role,
        groups: user.groups,
        disabled: user.disabled,
    };
    Ok((member, hash))
}
