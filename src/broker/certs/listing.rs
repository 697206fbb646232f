//! What there is and when it ends, for people and for whoever watches.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::authority::Authority;
use super::index::{Kind, Record};

const SECONDS_PER_DAY: i64 = 86_400;

/// How a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// In use, and good for long enough.
    Valid,
    /// In use, and about to end.
    Expiring,
    /// It ended.
    Expired,
    /// Still good, but a newer one took its place.
    Replaced,
    /// Revoked.
    Revoked,
}

impl State {
    /// As people read it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Expiring => "expiring",
            Self::Expired => "expired",
            Self::Replaced => "replaced",
            Self::Revoked => "revoked",
        }
    }
}

/// A certificate and how it stands.
#[derive(Debug, Clone, Serialize)]
pub struct Entry {
    /// The certificate.
    #[serde(flatten)]
    pub record: Record,
    /// Whole days until it ends, negative where it did.
    pub days_left: i64,
    /// How it stands.
    pub state: State,
}

/// The revocation list and how it stands.
#[derive(Debug, Clone, Serialize)]
pub struct CrlEntry {
    /// Its number.
    pub number: u64,
    /// When a broker that still has it refuses everybody.
    pub next_update: Timestamp,
    /// Whole days until then.
    pub days_left: i64,
    /// Whether it should be made anew.
    pub due: bool,
}

/// All certificates, in the order of their making, and the revocation list.
#[derive(Debug, Clone, Serialize)]
pub struct Listing {
    /// The certificates.
    pub certificates: Vec<Entry>,
    /// The revocation list.
    pub crl: CrlEntry,
}

/// Something that ends soon, or has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ending {
    /// What, as a sentence has it.
    pub what: String,
    /// When.
    pub at: Timestamp,
    /// Whether nobody can connect from then on, and not one device alone.
    pub for_all: bool,
}

impl Authority {
    /// All certificates and the revocation list, as they stand at `now`; what has less than `soon` left is expiring.
    #[must_use]
    pub fn list(&self, now: Timestamp, soon: Duration) -> Listing {
        let index = self.index();
        let entry = |record: &Record| Entry {
            days_left: days(now, record.not_after),
            state: state(record, now, soon),
            record: record.clone(),
        };
        Listing {
            certificates: index.certificates.iter().map(entry).collect(),
            crl: CrlEntry {
                number: index.crl.number,
                next_update: index.crl.next_update,
                days_left: days(now, index.crl.next_update),
                due: index.crl.is_due(now),
            },
        }
    }

    /// What is in use and ends within `within` of `now`, or has ended, and the revocation list where it is due.
    #[must_use]
    pub fn expires_soon(&self, now: Timestamp, within: Duration) -> Vec<Ending> {
        let Listing { certificates, crl } = self.list(now, within);
        let used = |entry: &Entry| entry.record.file.is_some() && matches!(entry.state, State::Expiring | State::Expired);
        let mut endings: Vec<Ending> = certificates
            .into_iter()
            .filter(used)
            .map(|Entry { record, .. }| Ending {
                what: match record.kind {
                    Kind::Ca => "the authority's certificate".to_owned(),
                    Kind::Server => "the server's certificate".to_owned(),
                    Kind::Device => format!("the certificate of device {}", record.common_name),
                },
                at: record.not_after,
                for_all: record.kind != Kind::Device,
            })
            .collect();
        if crl.due {
            endings.push(Ending {
                what: "the revocation list".to_owned(),
                at: crl.next_update,
                for_all: true,
            });
        }
        endings
    }
}

fn state(record: &Record, now: Timestamp, soon: Duration) -> State {
    let left = record.not_after.duration_since(now);
    if record.revoked_at.is_some() {
        State::Revoked
    } else if left.is_negative() {
        State::Expired
    } else if record.file.is_none() {
        State::Replaced
    } else if left < SignedDuration::try_from(soon).unwrap_or(SignedDuration::MAX) {
        State::Expiring
    } else {
        State::Valid
    }
}

fn days(now: Timestamp, until: Timestamp) -> i64 {
    until.duration_since(now).as_secs().div_euclid(SECONDS_PER_DAY)
}
