//! Whole fleets at once: lines become devices, and devices lines that can be brought again.
//!
//! ```text
//! bytes ──► read (a line, or what is wrong with it) ──► import (1,000 lines a transaction: chunk) ──► devices, groups, credentials
//! devices ──► export (a page at a time) ──► write (lines)
//! ```
//!
//! A line that makes no sense is told with its number and what would be right, and the others are taken; a dry run judges all of them
//! and changes nothing. What a line does not say stays as it is.
//!
//! Credentials are told before the transaction that makes them is committed, and not made where nobody listens: so whatever happens, none
//! is there that nobody was told. An import that ends early says where.

use std::collections::HashMap;

use serde::Serialize;
use tokio_postgres::{Error, GenericClient};
use utoipa::ToSchema;

use crate::devices::bulk as rows;
use crate::devices::list::MAX_PAGE;
use crate::identity::audit::Actor;
use crate::identity::users::{self, UserError};
use crate::protocol::id::{DeviceId, Username};

use super::credentials::{Issued, Wanted};

pub(super) mod chunk;
mod read;
mod write;

pub use read::{BadFile, Format, Line, MAX_LINES};

use read::Lines;

/// Lines of one transaction.
const CHUNK: usize = 1_000;
/// The most faults that are told one by one.
pub const MAX_FAULTS: usize = 1_000;

/// How an import is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// Judge, and change nothing.
    pub dry_run: bool,
    /// The credentials that devices get which have none.
    pub credentials: Wanted,
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = ImportFault)]
pub struct Fault {
    /// Its number, from 1.
    pub line: u64,
    /// What is wrong, and what would be right.
    pub reason: String,
}

/// What became of an import.
#[derive(Debug, Default)]
pub struct Report {
    /// Devices that there were none of.
    pub created: u64,
    /// Devices that are another now.
    pub updated: u64,
    /// Devices that were so already.
    pub unchanged: u64,
    /// Lines that make no sense.
    pub failed: u64,
    /// The first [`MAX_FAULTS`] of them.
    pub faults: Vec<Fault>,
    /// Where it ended, if not at the end of the file.
    pub ended: Option<Ended>,
}

/// That an import ended early. What was done until then stays, and the same file can be brought again.
#[derive(Debug)]
pub struct Ended {
    /// From this line on nothing was taken, and no credentials that were told for these lines are good; unless it is
    /// [unsure](Self::is_unsure).
    pub line: u64,
    /// How many lines these are.
    pub lines: u64,
    /// Why.
    pub error: ImportError,
}

impl Ended {
    /// Whether the next lines, and the credentials that were told for them, may have been taken after all. Brought again, those for
    /// which none are told have these.
    #[must_use]
    pub fn is_unsure(&self) -> bool {
        matches!(self.error, ImportError::Unsure(_))
    }
}

/// Credentials that are about to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// Of which line.
    pub line: u64,
    /// For which device.
    pub id: DeviceId,
    /// What it logs in with. It cannot be shown again.
    pub issued: Issued,
}

/// Whoever asked for an import, and takes the credentials that it makes.
pub trait Listen: Send {
    /// Hears of each transaction before it is committed, with the credentials that it makes; an error takes that back, and ends the import.
    fn tell(&mut self, made: Vec<Made>) -> impl Future<Output = Result<(), Gone>> + Send;
}

/// Nobody listens any more to what is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Gone {
    /// Whoever asked for it has left, or takes too long.
    #[error("nobody takes the credentials that are made, so no more are")]
    Left,
    /// There is time to say so, and no more.
    #[error("the service is stopping")]
    Stopping,
}

/// Why an import ended early.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Nobody listens.
    #[error(transparent)]
    Gone(#[from] Gone),
    /// The connection broke when the last lines were committed.
    #[error("the database did not say whether it has taken the next lines, {CHUNK} at most: {}", crate::db::error::describe(.0))]
    Unsure(#[source] Error),
    /// The operating system has no randomness.
    #[error("no randomness from the operating system: {0}")]
    Randomness(#[from] getrandom::Error),
    /// The broker's users.
    #[error(transparent)]
    User(#[from] UserError),
    /// The database said no.
    #[error("{}", crate::db::error::describe(.0))]
    Database(#[from] Error),
}

impl Report {
    fn fault(&mut self, line: u64, reason: impl Into<String>) {
        self.failed += 1;
        if self.faults.len() < MAX_FAULTS {
            let reason = reason.into();
            self.faults.push(Fault { line, reason });
        }
    }
}

/// Brings the devices of `data` in, each transaction with its entry in the audit.
///
/// # Errors
/// Not even a first line. Whatever ends it later is in the report.
pub async fn import(
    client: &mut impl GenericClient,
    actor: &Actor,
    format: Format,
    data: &[u8],
    options: Options,
    listener: &mut impl Listen,
) -> Result<Report, BadFile> {
    let mut report = Report::default();
    let mut first_lines: HashMap<DeviceId, u64> = HashMap::new();
    let mut lines = Lines::new(format, data)?;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK);
        while chunk.len() < CHUNK
            && let Some((number, line)) = lines.next_line()
        {
            let judged = line.and_then(|line| {
                if let Some(first) = first_lines.insert(line.id.clone(), number) {
                    first_lines.insert(line.id.clone(), first);
                    return Err(format!("{} is on line {first} already; a device has one line", line.id.as_str()));
                }
                judge_credentials(&line.id, options.credentials).map(|()| line)
            });
            match judged {
                Ok(line) => chunk.push((number, line)),
                Err(reason) => report.fault(number, reason),
            }
        }
        let Some(first) = chunk.first().map(|(number, _)| *number) else {
            break;
        };
        let count = chunk.len();
        if let Err(error) = chunk::import(client, actor, chunk, options, &mut report, listener).await {
            let rest = std::iter::from_fn(|| lines.next_line()).count();
            report.ended = Some(Ended {
                line: first,
                lines: u64::try_from(count + rest).unwrap_or(u64::MAX),
                error,
            });
            break;
        }
    }
    report.faults.sort_by_key(|fault| fault.line);
    Ok(report)
}

fn judge_credentials(id: &DeviceId, wanted: Wanted) -> Result<(), String> {
    if !wanted.mqtt {
        return Ok(());
    }
    let username = Username::with_password(id.as_str()).map_err(|error| error.to_string())?;
    if users::is_reserved(&username) {
        return Err(UserError::Reserved(username).to_string());
    }
    Ok(())
}

/// A page of the export, and after which id the next one begins. The first page, after nothing, has the header that CSV wants.
///
/// # Errors
/// The database's.
pub async fn export(client: &impl GenericClient, format: Format, after: Option<&str>) -> Result<(Vec<u8>, Option<String>), Error> {
    let page = rows::page(client, after, MAX_PAGE).await?;
    Ok((write::lines(format, &page.items, after.is_none()), page.next))
}
