//! `restore`: what an archive holds in the place of what is there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::{Arg, ArgAction, Command};
use serde_json::json;

use crate::cli::broker::Asked;
use crate::cli::installation::folder::Installation;
use crate::cli::{EXIT_OK, Sources, runtime};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};

use super::document::Registered;
use super::place::Placed;
use super::reach::Reached;
use super::stage::{Contents, DATABASE, SECRETS, SETTINGS, Stage};

pub(in crate::cli::broker) fn command() -> Command {
    Command::new("restore")
        .about("Bring back what `backup` put into an archive")
        .long_about("Brings back what `backup` put into an archive, as it was then: who was shut out since is let in again, and a certificate that was revoked since is good again. The broker must be stopped. Nothing is changed unless all of the archive is sound. The users go into the private PostgreSQL, or into the database that DATABASE_URL or the archive's own settings name; telemetry in it stays as it is.")
        .arg(Arg::new("file").required(true).value_name("FILE").help("The archive"))
        .arg(
            Arg::new("replace")
                .long("replace")
                .action(ArgAction::SetTrue)
                .help("Do it even if there is a broker already, in the folder or in the database; what was there is kept beside it"),
        )
}

/// What is asked for, and what it takes.
struct Restore {
    archive: PathBuf,
    replace: bool,
    sources: Sources,
    installation: Installation,
    stage: Stage,
    contents: Contents,
}

pub(in crate::cli::broker) fn run(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let (archive, replace) = (PathBuf::from(asked.text("file")), asked.matches.get_flag("replace"));
    let sources = Sources::new(asked.matches)?;
    sources.config()?;
    let is_new = !asked.data.exists();
    if !is_new {
        refuse_what_is_there(&asked.data, replace)?;
    }
    let stage = Stage::unpack(&archive, &asked.data)?;
    let mut contents = stage
        .check()
        .with_context(|| format!("{} cannot be restored, and nothing was changed", archive.display()))?;
    contents.settings.own_database &= !sources.is_set("DATABASE_URL");
    let restore = Restore {
        archive,
        replace,
        sources,
        installation: Installation::create(&asked.data)?,
        stage,
        contents,
    };
    match restore.carry_out() {
        Ok(kept) => restore.say(asked, &kept),
        Err(error) => {
            if is_new {
                fs::remove_dir_all(&asked.data)?;
            }
            return Err(error.context("nothing was restored; what was there is as before"));
        }
    }
    Ok(ExitCode::from(EXIT_OK))
}

fn refuse_what_is_there(data: &Path, replace: bool) -> anyhow::Result<()> {
    let installation = Installation::create(data)?;
    if let Some((pid, _)) = installation.runner()? {
        bail!("the broker runs (process {pid}); stop it first: ./mqtt_manage.sh stop");
    }
    let parts = [
        installation.data.join(SETTINGS),
        installation.data.join(SECRETS),
        installation.broker().folder,
    ];
    if let Some(part) = parts.iter().find(|part| part.exists()).filter(|_| !replace) {
        bail!(
            "there is a broker already in {} ({}); --replace puts the archive's in its place, and keeps it beside it",
            installation.data.display(),
            part.display()
        );
    }
    Ok(())
}

impl Restore {
    /// Returns where that is which was there before.
    fn carry_out(&self) -> anyhow::Result<Vec<PathBuf>> {
        let Self { installation, stage, .. } = self;
        let _taken = installation.take()?;
        let runtime = runtime()?;
        // A folder can be put in place in one step from the same disk only.
        let elsewhere = (installation.servers != installation.data)
            .then(|| Stage::unpack(&self.archive, &installation.servers))
            .transpose()?;
        let cluster = installation.servers.join("postgres");
        let makes_cluster = !cluster.exists();
        let mut placed = Placed::put(installation, stage, elsewhere.as_ref().unwrap_or(stage), &self.contents.settings)?;
        match runtime.block_on(self.bring_into_database(&mut placed)) {
            Ok(reached) => {
                // It is done; every start does both of these again.
                if let Err(error) = installation.announce(&self.contents.settings).and_then(|()| reached.close()) {
                    eprintln!("iotflow: {error:#}");
                }
                Ok(placed.kept)
            }
            Err(error) => {
                placed.take_back().with_context(|| format!("after an error ({error:#})"))?;
                if makes_cluster && cluster.exists() {
                    // Its password went with the secrets.
                    fs::remove_dir_all(&cluster)?;
                }
                Err(error)
            }
        }
    }

    async fn bring_into_database(&self, placed: &mut Placed) -> anyhow::Result<Reached> {
        let (installation, contents) = (&self.installation, &self.contents);
        let mut reached = Reached::start(&self.sources, installation, &contents.settings).await?;
        let transaction = reached.client.transaction().await?;
        let before = Registered::read_in(&transaction).await?;
        if !before.users.is_empty() {
            ensure!(
                self.replace,
                "the database has {} users of a broker already; --replace puts the archive's in their place, and keeps a list of them",
                before.users.len()
            );
            placed.keep(&installation.data, DATABASE, &before.to_json())?;
        }
        contents.registered.write_in(&transaction).await?;
        let (actor, object) = (Actor::of_command_line(), std::path::absolute(&self.archive)?.display().to_string());
        let act = Act::new(&actor, Action::BackupRestore, &object, Outcome::Done)
            .with("made_at", self.stage.manifest.created_at.to_string())
            .with("users", contents.registered.users.len())
            .with("groups", contents.registered.groups.len());
        audit::record(&transaction, &act).await?;
        transaction.commit().await?;
        Ok(reached)
    }

    fn say(&self, asked: &Asked<'_>, kept: &[PathBuf]) {
        let Registered { users, devices, groups } = &self.contents.registered;
        let (made_at, folder) = (self.stage.manifest.created_at, &self.installation.data);
        let kept_line: String = kept
            .iter()
            .map(|path| format!("  what was there before is in {}\n", path.display()))
            .collect();
        asked.answer(
            &format!(
                "Restored the broker as it was at {} in {}: {} users, {} groups, {} devices, certificates, retained messages and sessions\n{kept_line}  who was shut out, and what was revoked, since then is good again: look at list-users and certs list\n  telemetry is not in a backup: pg_dump and pg_restore are for that\nStart it: ./mqtt_manage.sh start",
                made_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
                folder.display(),
                users.len(),
                groups.len(),
                devices.len()
            ),
            &json!({
                "status": "success", "folder": folder, "made_at": made_at.to_string(), "users": users.len(), "groups": groups.len(),
                "devices": devices.len(), "kept": kept, "telemetry": false,
            }),
        );
    }
}
