//! `backup`: one archive of all that makes this broker this broker, while it runs or not.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Arg, Command};
use jiff::Timestamp;
use serde_json::json;

use crate::broker::access_set;
use crate::broker::backup::create::create;
use crate::broker::certs::authority::Authority;
use crate::broker::certs::error::AuthorityError;
use crate::broker::persistence;
use crate::cli::broker::Asked;
use crate::cli::installation::folder::{Installation, Settings};
use crate::cli::{EXIT_OK, runtime};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::stack::account::write_private;

use super::document::Registered;
use super::reach::Reached;
use super::stage::{ACCESS, CERTS, DATABASE, SECRETS, SESSIONS, SETTINGS, Scratch};

pub(in crate::cli::broker) fn command() -> Command {
    Command::new("backup")
        .about("Put users, access, certificates, retained messages and sessions into one archive")
        .long_about("Puts into one archive what makes this broker this broker: its users, groups and their members, its settings and secrets, its certificates with the authority's key, retained messages, sessions and what is queued for them. The broker may run. Telemetry is not in it; pg_dump is for that.\n\nWhoever has the archive can be every device and the authority: only you can read the file; keep it as you keep keys.")
        .arg(Arg::new("file").value_name("FILE").help("The archive [default: iotflow-broker-YYYYMMDDTHHMMSSZ.tar.gz]"))
}

pub(in crate::cli::broker) fn run(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let file = asked.matches.get_one::<String>("file").map_or_else(usual_name, PathBuf::from);
    let installation = Installation::open(&asked.data)?;
    let settings = installation.settings()?.context("it is there")?;
    if fs::symlink_metadata(&file).is_ok() {
        bail!("{}: the file is there already; another name is expected", file.display());
    }
    let runtime = runtime()?;
    let mut reached = runtime.block_on(Reached::open(asked, &installation, &settings))?;
    let registered = runtime.block_on(Registered::read(&mut reached.client))?;
    write(&installation, &settings, &registered, reached.runs, &file)?;
    let recorded = runtime.block_on(record(&reached, &registered, &file));
    if recorded.is_err() {
        // An archive with every credential that nobody knows of is worse than none.
        fs::remove_file(&file)?;
    }
    recorded.context("the backup cannot be put on record, and was removed")?;
    reached.close()?;
    say(asked, &registered, &file)?;
    Ok(ExitCode::from(EXIT_OK))
}

fn usual_name() -> PathBuf {
    PathBuf::from(Timestamp::now().strftime("iotflow-broker-%Y%m%dT%H%M%SZ.tar.gz").to_string())
}

fn write(installation: &Installation, settings: &Settings, registered: &Registered, runs: bool, file: &Path) -> anyhow::Result<()> {
    let (paths, applier) = (installation.broker(), installation.applier(settings)?);
    // On the same disk as the sessions, so that they can be in it without being copied.
    let scratch = Scratch::new(&installation.servers)?;
    let mut sources = vec![
        (SETTINGS, installation.data.join(SETTINGS)),
        (SECRETS, installation.data.join(SECRETS)),
        (DATABASE, scratch.path(DATABASE)),
    ];
    write_private(&scratch.path(DATABASE), &registered.to_json())?;
    if runs {
        persistence::save(&applier.process, &paths)?;
    }
    if paths.persistence().exists() {
        // The broker replaces the file and never writes into it: under this name it stays as it is now.
        fs::hard_link(paths.persistence(), scratch.path(SESSIONS)).context("the sessions cannot be held")?;
        sources.push((SESSIONS, scratch.path(SESSIONS)));
    }
    if paths.access().exists() {
        let locked = applier.shelf.lock()?;
        fs::create_dir(scratch.path(ACCESS))?;
        for name in access_set::FILES {
            fs::copy(paths.access().join(name), scratch.path(ACCESS).join(name)).with_context(|| format!("{ACCESS}/{name}"))?;
        }
        drop(locked);
        sources.push((ACCESS, scratch.path(ACCESS)));
    }
    // Nobody issues or revokes until the archive is there.
    let authority = match Authority::open(&paths.certs()) {
        Err(AuthorityError::None(_)) => None,
        opened => Some(opened?),
    };
    if paths.certs().exists() {
        sources.push((CERTS, paths.certs()));
    }
    let sources: Vec<(&str, &Path)> = sources.iter().map(|(name, path)| (*name, path.as_path())).collect();
    create(&sources, file)?;
    drop(authority);
    Ok(())
}

async fn record(reached: &Reached, registered: &Registered, file: &Path) -> anyhow::Result<()> {
    let (actor, object) = (Actor::of_command_line(), std::path::absolute(file)?.display().to_string());
    let act = Act::new(&actor, Action::BackupCreate, &object, Outcome::Done)
        .with("users", registered.users.len())
        .with("groups", registered.groups.len());
    Ok(audit::record(&reached.client, &act).await?)
}

fn say(asked: &Asked<'_>, registered: &Registered, file: &Path) -> anyhow::Result<()> {
    let bytes = fs::metadata(file)?.len();
    let (users, groups, devices) = (registered.users.len(), registered.groups.len(), registered.devices.len());
    asked.answer(
        &format!(
            "Backed up the broker to {} ({bytes} bytes): {users} users, {groups} groups, {devices} devices, certificates, retained messages and sessions\n  whoever has the file can be every device, and the authority: keep it as you keep keys\n  telemetry is not in it: pg_dump is for that\n  bring it back: ./mqtt_manage.sh restore {}",
            file.display(),
            file.display()
        ),
        &json!({
            "status": "success", "file": file, "bytes": bytes, "users": users, "groups": groups, "devices": devices, "telemetry": false,
        }),
    );
    Ok(())
}
