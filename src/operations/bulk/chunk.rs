//! The lines of one transaction: devices, the lists they are on, and credentials for those that have none.

use std::collections::HashMap;

use tokio_postgres::{Error, GenericClient};

use crate::broker::passwords::{self, Hash};
use crate::devices::bulk::{self as rows, Known};
use crate::devices::groups;
use crate::devices::registry::{self, Description};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::device_keys::{self, NewKey};
use crate::identity::users;
use crate::observe::secret::Secret;
use crate::operations::credentials::{Issued, Login, Wanted};
use crate::protocol::id::{DeviceId, GroupId, Username};

use super::{ImportError, Line, Listen, Made, Options, Report};

/// Brings these lines in, all of them or none, but for those that make no sense.
pub(super) async fn import(
    client: &mut impl GenericClient,
    actor: &Actor,
    mut chunk: Vec<(u64, Line)>,
    options: Options,
    report: &mut Report,
    listener: &mut impl Listen,
) -> Result<(), ImportError> {
    let transaction = client.transaction().await?;
    rows::take_turn(&transaction).await?;
    // Those that are there first, so that none is made for a line that is refused.
    let dynamic = groups::hold(&transaction, &lists(&chunk)).await?;
    refuse_dynamic(&mut chunk, &dynamic, report);
    let dynamic = groups::open(&transaction, &lists(&chunk)).await?;
    refuse_dynamic(&mut chunk, &dynamic, report);
    let ids: Vec<&str> = chunk.iter().map(|(_, line)| line.id.as_str()).collect();
    let known = rows::lock(&transaction, &ids).await?;

    let mut tally = Tally::default();
    let mut wanted: Vec<(&Line, Description)> = Vec::with_capacity(chunk.len());
    let mut line_of: HashMap<&str, u64> = HashMap::with_capacity(chunk.len());
    for (number, line) in &chunk {
        match line.applied_to(known.get(&line.id)) {
            Ok(description) => {
                wanted.push((line, description));
                line_of.insert(line.id.as_str(), *number);
            }
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
    let made: Vec<Made> = issued
        .into_iter()
        .map(|(id, issued)| Made {
            line: line_of[id.as_str()],
            id,
            issued,
        })
        .collect();
    if !options.dry_run {
        let names: Vec<&str> = changed.iter().map(|(id, _)| id.as_str()).collect();
        let act = Act::new(actor, Action::DeviceImport, "devices", Outcome::Done)
            .with("created", tally.created)
            .with("updated", tally.updated)
            .with("unchanged", tally.unchanged)
            .with("credentials", made.len())
            .with("devices", names);
        audit::record(&transaction, &act).await?;
    }
    // Last before the commit: what is told and then not made is to be rare.
    listener.tell(made).await?;
    if options.dry_run {
        transaction.rollback().await?;
    } else {
        transaction.commit().await.map_err(uncommitted)?;
    }
    report.created += tally.created;
    report.updated += tally.updated;
    report.unchanged += tally.unchanged;
    Ok(())
}

/// A refusal is sure. A connection that broke, or a server that was stopped, may have taken it before.
fn uncommitted(error: Error) -> ImportError {
    match error.as_db_error().map(|refusal| refusal.code().code()) {
        Some(code) if !code.starts_with("08") && !code.starts_with("57") => error.into(),
        _ => ImportError::Unsure(error),
    }
}

fn lists(chunk: &[(u64, Line)]) -> Vec<&str> {
    let groups = chunk.iter().flat_map(|(_, line)| line.groups.iter().flatten());
    groups.map(GroupId::as_str).collect()
}

fn refuse_dynamic(chunk: &mut Vec<(u64, Line)>, dynamic: &[GroupId], report: &mut Report) {
    chunk.retain(|(number, line)| {
        let chosen = line.groups.iter().flatten().find(|group| dynamic.contains(group));
        if let Some(group) = chosen {
            report.fault(
                *number,
                format!("the members of {group} follow from its tag or type; leave the group out"),
            );
        }
        chosen.is_none()
    });
}

#[derive(Default)]
struct Tally {
    created: u64,
    updated: u64,
    unchanged: u64,
}

pub(super) fn differs(description: &Description, known: &Known) -> bool {
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
    // Who is given any is let in, unless it is disabled.
    let given: Vec<i32> = issued.keys().filter_map(|id| numbers.get(*id).copied()).collect();
    registry::readmit(client, &given).await?;
    Ok(ids
        .iter()
        .filter_map(|id| issued.remove(id.as_str()).map(|issued| (id.clone(), issued)))
        .collect())
}

/// A password each, on a thread that may be kept busy: a thousand hashes take a good part of a second.
pub(in crate::operations) async fn passwords_for(usernames: Vec<Username>) -> Result<Vec<(Login, String)>, getrandom::Error> {
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
