//! The parts of an archive, put where they belong. What was there is kept beside them, and put back where the rest fails.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use jiff::Timestamp;

use crate::broker::certs::authority::SERVER_KEY;
use crate::broker::conf::Paths;
use crate::broker::disk::{self, PRIVATE};
use crate::cli::installation::folder::{Installation, Settings};
use crate::stack::account::{Account, write_private};

use super::stage::{ACCESS, CERTS, SECRETS, SESSIONS, SETTINGS, Stage};

/// The secret of the private PostgreSQL.
const POSTGRES_SECRET: &str = "postgres";

/// What was put, and what was there.
#[derive(Debug)]
pub(super) struct Placed {
    name: String,
    /// Each with where it is now that was there.
    moved: Vec<(PathBuf, Option<PathBuf>)>,
    /// The folders with what was there.
    pub(super) kept: Vec<PathBuf>,
}

impl Placed {
    /// Puts settings, secrets and the broker's folder in place; all of it or nothing. `of_broker` is the same archive, taken
    /// apart where the servers have their files.
    pub(super) fn put(installation: &Installation, stage: &Stage, of_broker: &Stage, settings: &Settings) -> anyhow::Result<Self> {
        let broker = assemble_broker(of_broker).context("the broker's folder cannot be made")?;
        secure_secrets(installation, &stage.path(SECRETS)).context("the secrets cannot be made ready")?;
        write_private(&stage.path(SETTINGS), &serde_json::to_string_pretty(settings)?)?;
        let mut placed = Self {
            name: format!("before-restore-{}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ")),
            moved: Vec::new(),
            kept: Vec::new(),
        };
        // The settings come last: before that there is no installation here, as far as anybody can see.
        let parts = [
            (broker, installation.broker().folder),
            (stage.path(SECRETS), installation.data.join(SECRETS)),
            (stage.path(SETTINGS), installation.data.join(SETTINGS)),
        ];
        for (new, target) in parts {
            if let Err(error) = placed.swap(&new, &target) {
                placed.take_back()?;
                return Err(error);
            }
        }
        Ok(placed)
    }

    /// Keeps a text with what was there.
    pub(super) fn keep(&mut self, folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.keeping(folder)?.join(name);
        write_private(&path, text).with_context(|| path.display().to_string())
    }

    /// Puts back what was there.
    pub(super) fn take_back(self) -> anyhow::Result<()> {
        for (number, (target, old)) in self.moved.iter().enumerate().rev() {
            match old {
                Some(old) => disk::swap_in(old, target, &old.with_extension(format!("undone-{number}"))).map(drop)?,
                None => remove(target).with_context(|| target.display().to_string())?,
            }
        }
        self.kept.iter().try_for_each(|folder| Ok(fs::remove_dir_all(folder)?))
    }

    fn swap(&mut self, new: &Path, target: &Path) -> anyhow::Result<()> {
        let old = if target.exists() {
            let name = target.file_name().context("it has a name")?;
            Some(self.keeping(disk::parent(target))?.join(name))
        } else {
            None
        };
        // Where nothing is kept this is not looked at.
        let kept = old.clone().unwrap_or_else(|| target.to_owned());
        disk::swap_in(new, target, &kept)?;
        self.moved.push((target.to_owned(), old));
        Ok(())
    }

    fn keeping(&mut self, folder: &Path) -> anyhow::Result<PathBuf> {
        let path = folder.join(&self.name);
        if !self.kept.contains(&path) {
            disk::create_folder(&path, 0o700)?;
            self.kept.push(path.clone());
        }
        Ok(path)
    }
}

/// The broker's folder with what the archive has of it, each part given to whom it belongs. What is missing, such as
/// mosquitto.conf, is written at every start.
fn assemble_broker(stage: &Stage) -> io::Result<PathBuf> {
    let account = Account::for_servers()?;
    let paths = Paths::of(&stage.beside("broker"));
    account.create_passage(&paths.folder)?;
    account.create_folder(&paths.data())?;
    if stage.has(SESSIONS) {
        fs::rename(stage.path(SESSIONS), paths.persistence())?;
        fs::set_permissions(paths.persistence(), Permissions::from_mode(PRIVATE))?;
        account.own(&paths.persistence())?;
    }
    if stage.has(ACCESS) {
        // It tells who was there; another set is made of the database before a broker reads any.
        fs::rename(stage.path(ACCESS), paths.access())?;
        fs::set_permissions(paths.access(), Permissions::from_mode(0o700))?;
        for entry in fs::read_dir(paths.access())? {
            fs::set_permissions(entry?.path(), Permissions::from_mode(PRIVATE))?;
        }
    }
    if stage.has(CERTS) {
        // All of it stays ours but the server's key: a broker that was broken into must not be able to undo a revocation.
        fs::rename(stage.path(CERTS), paths.certs())?;
        let key = paths.certs().join(SERVER_KEY);
        if key.exists() {
            account.own(&key)?;
        }
    }
    Ok(paths.folder)
}

fn secure_secrets(installation: &Installation, secrets: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(secrets)? {
        fs::set_permissions(entry?.path(), Permissions::from_mode(PRIVATE))?;
    }
    fs::set_permissions(secrets, Permissions::from_mode(0o700))?;
    // A cluster that is there stays, with its telemetry, and knows the password it was made with.
    let cluster = installation.servers.join("postgres").join("data");
    if cluster.exists()
        && let Some(password) = installation.known_secret(POSTGRES_SECRET)?
    {
        write_private(&secrets.join(POSTGRES_SECRET), password.reveal())?;
    }
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}
