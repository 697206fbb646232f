//! Whole fleets at once: lines become devices, and devices lines that can be brought again.
//!
//! ```text
//! bytes ──► read (a line, or what is wrong with it) ──► import (1,000 lines a transaction) ──► devices, groups, credentials
//! devices ──► export (a page at a time) ──► write (lines)
//! ```
//!
//! A line that makes no sense is told with its number and what would be right, and the others are taken; a dry run judges all of them
//! and changes nothing. What a line does not say stays as it is.

use std::collections::HashMap;

use serde::Serialize;
use tokio_postgres::{Error, GenericClient};
use utoipa::ToSchema;

use crate::broker::passwords::{self, Hash};
use crate::devices::bulk::{self as rows, Known};
use crate::devices::list::MAX_PAGE;
use crate::devices::registry::Description;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::device_keys::{self, NewKey};
use crate::identity::users::{self, UserError};
use crate::observe::secret::Secret;
use crate::protocol::id::{DeviceId, Username};

use super::credentials::{Issued, Login, Wanted};

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
    /// What was made, by device. It cannot be shown again.
    pub issued: Vec<(DeviceId, Issued)>,
}

/// Why an import ended early. What was done until then stays, and the same file can be brought again.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Not even a first line.
    #[error(transparent)]
    File(#[from] BadFile),
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
/// See [`ImportError`].
pub async fn import(
    client: &mut impl GenericClient,
    actor: &Actor,
    format: Format,
    data: &[u8],
    options: Options,
) -> Result<Report, ImportError> {
    let mut report = Report::default();
    let mut first_lines: HashMap<DeviceId, u64> = HashMap::new();
    let mut chunk = Vec::with_capacity(CHUNK);
    let mut lines = Lines::new(format, data)?;
    while let Some((number, line)) = lines.next_line() {
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
        if chunk.len() == CHUNK {
            import_chunk(client, actor, std::mem::take(&mut chunk), options, &mut report).await?;
        }
    }
    if !chunk.is_empty() {
        import_chunk(client, actor, chunk, options, &mut report).await?;
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

async fn import_chunk(
    client: &mut impl GenericClient,
    actor: &Actor,
    mut chunk: Vec<(u64, Line)>,
    options: Options,
    report: &mut Report,
) -> Result<(), ImportError> {
    let transaction = client.transaction().await?;
    let groups: Vec<&str> = chunk
        .iter()
        .flat_map(|(_, line)| line.groups.iter().flatten())
        .map(|group| group.as_str())
        .collect();
    let dynamic = rows::dynamic(&transaction, &groups).await?;
    chunk.retain(|(number, line)| {
        let chosen = line
            .groups
            .iter()
            .flatten()
            .find(|group| dynamic.iter().any(|id| id == group.as_str()));
        if let Some(group) = chosen {
            report.fault(
                *number,
                format!("the members of {group} follow from its tag or type; leave the group out"),
            );
        }
        chosen.is_none()
    });
    let ids: Vec<&str> = chunk.iter().map(|(_, line)| line.id.as_str()).collect();
    let known = rows::lock(&transaction, &ids).await?;

    let mut tally = Tally::default();
    let mut wanted: Vec<(&Line, Description)> = Vec::with_capacity(chunk.len());
    for (number, line) in &chunk {
        match line.applied_to(known.get(&line.id)) {
            Ok(description) => wanted.push((line, description)),
            Err(reason) => report.fault(*number, reason.to_string()),
        }
    }
    let mut changed: Vec<(&DeviceId, &Description)> = Vec::new();
    for (line, description) in &wanted {
        match known.get(&line.id) {
            None => tally.created += 1,
            Some(known) if line.moves(known) || differs(description, known) => tally.updated += 1,
            Some(_) => tally.unchanged += 1,
        }
        if known.get(&line.id).is_none_or(|known| differs(description, known)) {
            changed.push((&line.id, description));
        }
    }
    let mut numbers: HashMap<String, i32> = if changed.is_empty() {
        HashMap::new()
    } else {
        rows::put(&transaction, &changed).await?
    };
    numbers.extend(known.values().map(|known| (known.id.as_str().to_owned(), known.number)));
    let moved: Vec<_> = wanted
        .iter()
        .filter(|(line, _)| known.get(&line.id).map_or(line.groups.is_some(), |known| line.moves(known)))
        .filter_map(|(line, _)| Some((*numbers.get(line.id.as_str())?, line.groups.as_deref()?)))
        .collect();
    rows::set_lists(&transaction, &moved).await?;

    let ids: Vec<DeviceId> = wanted.iter().map(|(line, _)| line.id.clone()).collect();
    let issued = if options.dry_run {
        Vec::new()
    } else {
        issue(&transaction, &ids, &numbers, options.credentials).await?
    };
    if options.dry_run {
        transaction.rollback().await?;
    } else {
        let names: Vec<&str> = changed.iter().map(|(id, _)| id.as_str()).collect();
        let act = Act::new(actor, Action::DeviceImport, "devices", Outcome::Done)
            .with("created", tally.created)
            .with("updated", tally.updated)
            .with("unchanged", tally.unchanged)
            .with("credentials", issued.len())
            .with("devices", names);
        audit::record(&transaction, &act).await?;
        transaction.commit().await?;
    }
    report.created += tally.created;
    report.updated += tally.updated;
    report.unchanged += tally.unchanged;
    report.issued.extend(issued);
    Ok(())
}

#[derive(Default)]
struct Tally {
    created: u64,
    updated: u64,
    unchanged: u64,
}

fn differs(description: &Description, known: &Known) -> bool {
    description.name.as_ref().map(|name| name.as_str()) != known.name.as_deref()
        || description.device_type.as_ref().map(|kind| kind.as_str()) != known.device_type.as_deref()
        || !description
            .tags
            .iter()
            .map(|tag| tag.as_str())
            .eq(known.tags.iter().map(String::as_str))
        || description.metadata.to_value() != known.metadata
}

/// Makes credentials for those that have none, as a part of the transaction.
async fn issue(
    client: &impl GenericClient,
    ids: &[DeviceId],
    numbers: &HashMap<String, i32>,
    wanted: Wanted,
) -> Result<Vec<(DeviceId, Issued)>, ImportError> {
    let mut issued: HashMap<&str, Issued> = HashMap::new();
    if wanted.mqtt {
        let names: Vec<&str> = ids.iter().map(DeviceId::as_str).collect();
        let taken = users::taken(client, &names).await?;
        let new: Vec<Username> = names
            .iter()
            .filter(|name| !taken.iter().any(|taken| taken == *name))
            .filter_map(|name| Username::with_password(name).ok())
            .collect();
        let mut made = passwords_for(new).await?;
        let hashes: Vec<(Username, String)> = made
            .iter_mut()
            .map(|(login, hash)| (login.username.clone(), std::mem::take(hash)))
            .collect();
        let created = users::create_devices(client, &hashes).await?;
        for (login, _) in made {
            // One that somebody else made in between has his password.
            if let Some(id) = created
                .iter()
                .find(|name| *name == login.username.as_str())
                .and(ids.iter().find(|id| id.as_str() == login.username.as_str()))
            {
                issued.entry(id.as_str()).or_default().mqtt = Some(login);
            }
        }
    }
    if wanted.api_key {
        let of: Vec<(&DeviceId, i32)> = ids.iter().filter_map(|id| Some((id, *numbers.get(id.as_str())?))).collect();
        let having = device_keys::having(client, &of.iter().map(|(_, number)| *number).collect::<Vec<_>>()).await?;
        let of: Vec<(&DeviceId, i32)> = of.into_iter().filter(|(_, number)| !having.contains(number)).collect();
        let keys = of.iter().map(|_| NewKey::generate()).collect::<Result<Vec<_>, _>>()?;
        device_keys::put_many(client, &of.iter().map(|(_, number)| *number).collect::<Vec<_>>(), &keys).await?;
        for ((id, _), key) in of.into_iter().zip(keys) {
            issued.entry(id.as_str()).or_default().api_key = Some(key.secret);
        }
    }
    Ok(ids
        .iter()
        .filter_map(|id| issued.remove(id.as_str()).map(|issued| (id.clone(), issued)))
        .collect())
}

/// A password each, on a thread that may be kept busy: a thousand hashes take a good part of a second.
pub(super) async fn passwords_for(usernames: Vec<Username>) -> Result<Vec<(Login, String)>, getrandom::Error> {
    let make = move || {
        let one = |username: Username| {
            let password: Secret = passwords::generate()?;
            let hash = Hash::of_generated(&password)?.as_str().to_owned();
            Ok((Login { username, password }, hash))
        };
        usernames.into_iter().map(one).collect()
    };
    tokio::task::spawn_blocking(make)
        .await
        .expect("nothing in it panics, and nobody aborts it")
}

/// A page of the export, and after which id the next one begins. The first page, after nothing, has the header that CSV wants.
///
/// # Errors
/// The database's.
pub async fn export(client: &impl GenericClient, format: Format, after: Option<&str>) -> Result<(Vec<u8>, Option<String>), Error> {
    let page = rows::page(client, after, MAX_PAGE).await?;
    Ok((write::lines(format, &page.items, after.is_none()), page.next))
}
