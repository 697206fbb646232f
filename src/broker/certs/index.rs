//! `issued.json`: every certificate there ever was, the one truth that all other files follow.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::protocol::id::DeviceId;

use super::serial::Serial;

/// The form of the index that this version writes and reads.
pub(super) const FORMAT: u32 = 1;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The authority itself.
    Ca,
    /// What the broker shows its clients.
    Server,
    /// What a client shows the broker: its common name becomes the user's name there.
    Device,
}

impl Kind {
    /// As it stands in the index.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ca => "ca",
            Self::Server => "server",
            Self::Device => "device",
        }
    }
}

/// Which certificates are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The authority's own.
    Ca,
    /// The broker's.
    Server,
    /// All of a device.
    Device(DeviceId),
    /// The one with this number.
    Serial(Serial),
}

impl std::fmt::Display for Which {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ca => f.write_str("the authority"),
            Self::Server => f.write_str("the server"),
            Self::Device(id) => write!(f, "device {}", id.as_str()),
            Self::Serial(serial) => write!(f, "serial {serial}"),
        }
    }
}

/// A certificate, as the index knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its number.
    pub serial: Serial,
    /// What it is for.
    pub kind: Kind,
    /// Whom it names.
    pub common_name: String,
    /// The host names and addresses it is good for; a server's alone has any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<String>,
    /// From when on it is good.
    pub not_before: Timestamp,
    /// Until when it is good.
    pub not_after: Timestamp,
    /// The SHA-256 of its DER form.
    pub fingerprint: String,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_at: Option<Timestamp>,
    /// The file that holds it, from the authority's folder; none where a newer one took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

impl Record {
    /// Whether `which` means this one.
    #[must_use]
    pub fn is(&self, which: &Which) -> bool {
        match which {
            Which::Ca => self.kind == Kind::Ca,
            Which::Server => self.kind == Kind::Server,
            Which::Device(id) => self.kind == Kind::Device && self.common_name == id.as_str(),
            Which::Serial(serial) => self.serial == *serial,
        }
    }

    /// Whether a client that looks at `now` would take it.
    #[must_use]
    pub fn is_good(&self, now: Timestamp) -> bool {
        self.revoked_at.is_none() && now <= self.not_after
    }
}

/// The revocation list that was written last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crl {
    /// It grows with each list.
    pub number: u64,
    /// When a broker that still has it refuses everybody.
    pub next_update: Timestamp,
}

/// A file that the last commit put into place, or was about to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Written {
    pub(super) file: String,
    pub(super) sha256: String,
}

/// The whole of `issued.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Index {
    pub(super) format: u32,
    /// The SHA-256 of the authority's public key: `ca.key` must be this one.
    pub(super) key: String,
    pub(super) crl: Crl,
    pub(super) certificates: Vec<Record>,
    pub(super) last_commit: Vec<Written>,
}

impl Index {
    /// The certificate that is in a file now.
    pub(super) fn current(&self, which: &Which) -> Option<&Record> {
        self.certificates
            .iter()
            .rev()
            .find(|record| record.file.is_some() && record.is(which))
    }

    /// The authority's own certificate.
    pub(super) fn authority(&self) -> Option<&Record> {
        self.current(&Which::Ca)
    }

    /// Takes a certificate up, in the place of the one that was in its file.
    pub(super) fn add(&mut self, record: Record) {
        for old in self.certificates.iter_mut().filter(|old| old.file == record.file) {
            old.file = None;
        }
        self.certificates.push(record);
    }
}
