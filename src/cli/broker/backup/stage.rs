//! An archive taken apart beside where it belongs, and every part looked at: from here on it is no stranger's.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow, bail, ensure};

use crate::broker::access_set;
use crate::broker::backup::manifest::{Entry, Limits, Manifest};
use crate::broker::backup::restore::restore;
use crate::broker::certs::authority::Authority;
use crate::broker::certs::error::AuthorityError;
use crate::broker::conf::Kind;
use crate::broker::disk;
use crate::cli::installation::folder::Settings;
use crate::cli::terminal::printable;
use crate::protocol::topic::TopicTree;

use super::document::Registered;

/// The parts of an archive. Those of the first three are in every one; an installation that was never started has no others.
pub(super) const SETTINGS: &str = "broker.json";
pub(super) const SECRETS: &str = "secrets";
pub(super) const DATABASE: &str = "database.json";
pub(super) const CERTS: &str = "certs";
pub(super) const ACCESS: &str = "access";
pub(super) const SESSIONS: &str = "mosquitto.db";

/// A secret is a line: a password, a name, a URL.
const SECRET_BYTES: u64 = 4096;
/// Two hundred bytes a user, for a million of them.
const DOCUMENT_BYTES: u64 = 256 * 1024 * 1024;

/// A folder that only we can enter, and that goes with this.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// In `folder`, or beside it where it is not there.
    pub(super) fn new(folder: &Path) -> anyhow::Result<Self> {
        let beside = if folder.is_dir() {
            folder.join("backup")
        } else {
            folder.to_owned()
        };
        let path = disk::beside(&beside, "staged")?;
        disk::create_folder(&path, 0o700)?;
        Ok(Self(path))
    }

    /// What is in it under this name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nobody is left to hear of an error, and nothing counts on what is in here.
        drop(fs::remove_dir_all(&self.0));
    }
}

/// An archive, taken apart.
pub(super) struct Stage {
    scratch: Scratch,
    pub(super) manifest: Manifest,
}

/// What an archive says that is more than files.
pub(super) struct Contents {
    pub(super) settings: Settings,
    pub(super) registered: Registered,
}

impl Stage {
    /// Takes the archive apart, if all of it is what its manifest says, in `folder` or beside it.
    pub(super) fn unpack(archive: &Path, folder: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(disk::parent(folder)).with_context(|| folder.display().to_string())?;
        let scratch = Scratch::new(folder)?;
        let restored = restore(archive, &scratch.path("archive"), &Limits::default())
            .with_context(|| format!("{} cannot be restored, and nothing was changed", archive.display()))?;
        Ok(Self {
            scratch,
            manifest: restored.manifest,
        })
    }

    /// What the archive has under this name.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.scratch.path("archive").join(name)
    }

    /// A place of this name beside what the archive has.
    pub(super) fn beside(&self, name: &str) -> PathBuf {
        self.scratch.path(name)
    }

    /// Whether it has it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.manifest.entries.iter().any(|entry| entry.name() == name)
    }

    /// Looks at every part.
    pub(super) fn check(&self) -> anyhow::Result<Contents> {
        self.manifest.entries.iter().try_for_each(expected)?;
        for name in [SETTINGS, SECRETS, DATABASE] {
            ensure!(self.has(name), "{name} is missing");
        }
        let settings = settings(&self.read(SETTINGS)?).context(SETTINGS)?;
        let registered = Registered::parse(&self.read(DATABASE)?).context(DATABASE)?;
        for entry in fs::read_dir(self.path(SECRETS))? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let line = fs::metadata(&path)?.len() <= SECRET_BYTES
                && fs::read_to_string(&path).is_ok_and(|text| !text.trim().is_empty() && !text.trim().contains(char::is_control));
            ensure!(line, "{SECRETS}/{}: one line is expected", name.display());
        }
        if self.has(CERTS) {
            match Authority::open(&self.path(CERTS)) {
                // Somebody else's certificates, put there by hand.
                Ok(_) | Err(AuthorityError::None(_)) => {}
                Err(error) => return Err(error).context(CERTS),
            }
        }
        Ok(Contents { settings, registered })
    }

    fn read(&self, name: &str) -> anyhow::Result<Vec<u8>> {
        let path = self.path(name);
        ensure!(fs::metadata(&path)?.len() <= DOCUMENT_BYTES, "{name} is larger than any could be");
        fs::read(&path).with_context(|| name.to_owned())
    }
}

/// Whether the entry is one that a backup has.
fn expected(entry: &Entry) -> anyhow::Result<()> {
    let (part, below) = entry
        .name()
        .split_once('/')
        .map_or((entry.name(), None), |(part, below)| (part, Some(below)));
    let is_file = matches!(entry, Entry::File { .. });
    let known = match (part, below) {
        (SETTINGS | DATABASE | SESSIONS, None) => is_file,
        (SECRETS | CERTS | ACCESS, None) => !is_file,
        (SECRETS, Some(name)) => is_file && !name.contains('/'),
        (ACCESS, Some(name)) => is_file && access_set::FILES.contains(&name),
        (CERTS, Some(_)) => true,
        _ => false,
    };
    ensure!(known, "{:?} is in the archive, and in no backup of a broker", entry.name());
    Ok(())
}

/// Settings become lines of mosquitto.conf.
fn settings(text: &[u8]) -> anyhow::Result<Settings> {
    let settings: Settings = serde_json::from_slice(text).map_err(|error| anyhow!("{}", printable(&error.to_string())))?;
    TopicTree::new(&settings.base_topic)?;
    for listener in &settings.listeners {
        let address: Result<IpAddr, _> = listener.address.parse();
        ensure!(address.is_ok(), "the listener's address {:?} is none", listener.address);
    }
    if let Some(name) = settings
        .names
        .iter()
        .find(|name| name.contains(|c: char| c.is_control() || c.is_whitespace()))
    {
        bail!("{name:?} is no name of a host");
    }
    ensure!(settings.port(Kind::Staff).is_some(), "there is no listener for the staff");
    Ok(settings)
}
