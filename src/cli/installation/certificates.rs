//! An installation's certificates: made where they are wanted, renewed before they end.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use crate::broker::certs::authority::{Authority, CA_CERTIFICATE, CRL, Existing, Old, SERVER_CERTIFICATE, SERVER_KEY};
use crate::broker::certs::error::AuthorityError;
use crate::broker::certs::index::{Kind, Which};
use crate::broker::certs::listing::{Entry, State};
use crate::identity::users::CANARY;
use crate::mqtt::config::TlsConfig;
use crate::protocol::id::DeviceIdRef;
use crate::stack::account::Account;

const DAY: Duration = Duration::from_secs(86_400);
/// Days that an authority is good, unless people ask for others.
pub(in crate::cli) const CA_DAYS: u64 = 3650;
/// Days that what it issues is good, unless people ask for others.
pub(in crate::cli) const LEAF_DAYS: u64 = 397;
/// What an authority is good for; devices outlive plans, and a new one means a visit to each.
const CA_VALIDITY: Duration = Duration::from_secs(CA_DAYS * DAY.as_secs());
/// A little more than a year.
pub(in crate::cli) const LEAF_VALIDITY: Duration = Duration::from_secs(LEAF_DAYS * DAY.as_secs());
/// Renewed by itself when it has less left.
const RENEW_BEFORE: Duration = Duration::from_secs(30 * DAY.as_secs());

/// Keeps a folder of certificates.
#[derive(Debug, Clone)]
pub(in crate::cli) struct Certificates {
    /// The folder.
    pub(in crate::cli) folder: PathBuf,
    /// The names by which clients reach the broker.
    pub(in crate::cli) names: Vec<String>,
}

impl Certificates {
    /// Whether all is there that the broker reads.
    pub(in crate::cli) fn is_complete(&self) -> bool {
        [CA_CERTIFICATE, CRL, SERVER_CERTIFICATE, SERVER_KEY]
            .iter()
            .all(|file| self.folder.join(file).exists())
    }

    /// Makes what is missing, and renews what ends soon: the authority (made once, renewed by people alone, for everybody must
    /// be told), the server's certificate, the canary's, the revocation list. Returns whether the broker has something to read
    /// again. Blocks.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub(in crate::cli) fn keep(&self) -> anyhow::Result<bool> {
        let mut concerns_broker = false;
        let mut authority = match Authority::open(&self.folder) {
            Err(AuthorityError::None(_)) => {
                let (authority, change) = Authority::create(&self.folder, "IoTFlow broker CA", CA_VALIDITY, Existing::Keep)?;
                concerns_broker |= change.concerns_broker;
                authority
            }
            opened => opened?,
        };
        if let Some((user, group)) = Account::for_servers()?.lent() {
            authority.give_server_key_to(user, group)?;
        }
        let canary = DeviceIdRef::parse(CANARY)?;
        let listing = authority.list(Timestamp::now(), RENEW_BEFORE);
        let current = |kind, name: Option<&str>| {
            let mut all = listing.certificates.iter().rev();
            all.find(|entry| entry.record.kind == kind && name.is_none_or(|name| entry.record.common_name == name) && is_in_use(entry))
        };
        let mut changes = Vec::new();
        match current(Kind::Server, None) {
            Some(entry) if entry.record.names != self.names => changes.push(authority.issue_server(&self.names, LEAF_VALIDITY)?),
            Some(entry) if entry.state == State::Expiring => changes.push(authority.renew(&Which::Server, LEAF_VALIDITY, Old::Keep)?),
            Some(_) => {}
            None => changes.push(authority.issue_server(&self.names, LEAF_VALIDITY)?),
        }
        match current(Kind::Device, Some(CANARY)) {
            Some(entry) if entry.state == State::Expiring => {
                changes.push(authority.renew(&Which::Device(canary.to_owned()), LEAF_VALIDITY, Old::Keep)?);
            }
            Some(_) => {}
            None => changes.push(authority.issue_device(canary, LEAF_VALIDITY)?),
        }
        if listing.crl.due {
            changes.push(authority.refresh_crl()?);
        }
        Ok(concerns_broker || changes.iter().any(|change| change.concerns_broker))
    }

    /// How the canary speaks TLS, with its certificate or without.
    pub(in crate::cli) fn canary(&self, with_certificate: bool) -> TlsConfig {
        let file = |ending: &str| self.folder.join("devices").join(format!("{CANARY}.{ending}"));
        TlsConfig {
            ca_cert: self.folder.join(CA_CERTIFICATE),
            client: with_certificate.then(|| (file("pem"), file("key"))),
        }
    }
}

fn is_in_use(entry: &Entry) -> bool {
    matches!(entry.state, State::Valid | State::Expiring)
}
