//! The authority: makes itself, issues, renews, revokes. Each deed is one commit to the folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use rcgen::{Issuer, KeyPair};
use serde::Serialize;

use crate::broker::disk::{self, FileError};
use crate::protocol::id::DeviceIdRef;

use super::crl;
use super::error::AuthorityError;
use super::index::{Crl, FORMAT, Index, Kind, Record, Which};
use super::store::{Store, Write, device_file};
use super::x509::{self, Made, Wanted};

/// The authority's certificate, which clients and broker trust.
pub const CA_CERTIFICATE: &str = "ca.pem";
/// The authority's key. It never goes to the broker.
pub const CA_KEY: &str = "ca.key";
/// The list of what is revoked, for the broker.
pub const CRL: &str = "crl.pem";
/// What the broker shows its clients.
pub const SERVER_CERTIFICATE: &str = "server.pem";
/// Its key, which is given to the broker's account.
pub const SERVER_KEY: &str = "server.key";

/// What happens to an authority that is there when another is to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new one is not made.
    Keep,
    /// It goes, with its key and all it issued.
    Destroy,
}

/// What happens to the certificate that a renewed one replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Old {
    /// It is good until it ends. This is the usual way: a device fetches its new certificate over a connection that the old
    /// one opens, and what is renewed in time ends soon.
    Keep,
    /// It is revoked at once: the device needs the new one for its next connection.
    Revoke,
}

/// What a deed changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Certificates that were made.
    pub issued: Vec<Record>,
    /// Certificates that were revoked.
    pub revoked: Vec<Record>,
    /// Files that were written.
    pub files: Vec<PathBuf>,
    /// Whether the broker serves, or trusts, something else from its next SIGHUP on.
    pub concerns_broker: bool,
}

/// The authority of a folder, which is locked as long as this lives: open, do, drop.
pub struct Authority {
    store: Store,
    index: Index,
    broker: Option<(u32, u32)>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority")
            .field("folder", &self.store.folder())
            .finish_non_exhaustive()
    }
}

impl Authority {
    /// Makes an authority in `folder`, with an empty revocation list.
    ///
    /// # Errors
    /// [`AuthorityError::Exists`] says what replacing it would cost; see there for the others.
    pub fn create(folder: &Path, common_name: &str, validity: Duration, existing: Existing) -> Result<(Self, Change), AuthorityError> {
        x509::check_common_name(common_name)?;
        let now = x509::whole_seconds(Timestamp::now())?;
        let issuer = x509::issuer(common_name, x509::new_key()?);
        let made = own_certificate(&issuer, common_name, x509::end(now, validity)?, now)?;
        let mut index = Index {
            format: FORMAT,
            key: x509::key_digest(issuer.key()),
            crl: Crl {
                number: 0,
                next_update: now,
            },
            certificates: vec![made.record.clone()],
            last_commit: Vec::new(),
        };
        let list = crl::sign(&mut index, &issuer, now)?;
        let writes = vec![
            Write::private(CA_KEY, x509::key_pem(issuer.key()).reveal().to_owned(), None),
            Write::public(CA_CERTIFICATE, made.pem),
            Write::public(CRL, list),
        ];
        let files = writes.iter().map(|write| folder.join(&write.file)).collect();
        Store::create(folder, writes, index, existing == Existing::Destroy)?;
        let change = Change {
            issued: vec![made.record],
            revoked: Vec::new(),
            files,
            concerns_broker: true,
        };
        Ok((Self::open(folder)?, change))
    }

    /// Opens the authority of `folder`, and first finishes what a crash left half done.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        let (store, index) = Store::open(folder)?;
        Ok(Self {
            store,
            index,
            broker: None,
        })
    }

    /// Gives the server's key to the broker's account, by its user and group id: the one that is there, which a restored
    /// backup left with somebody else, and those to come. All else that a broker reads is no secret and readable for all; it
    /// stays ours, so that a broker that was broken into cannot take a revocation back.
    ///
    /// # Errors
    /// The system's.
    pub fn give_server_key_to(&mut self, uid: u32, gid: u32) -> Result<(), AuthorityError> {
        self.broker = Some((uid, gid));
        let key = self.store.path(SERVER_KEY);
        if key.exists() {
            std::os::unix::fs::chown(&key, Some(uid), Some(gid)).map_err(FileError::at(&key))?;
        }
        Ok(())
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.store.folder()
    }

    /// Refuses names that a server's certificate cannot have, before there is one.
    ///
    /// # Errors
    /// [`AuthorityError::ServerName`], [`AuthorityError::NoServerName`].
    pub fn check_server_names(names: &[String]) -> Result<(), AuthorityError> {
        x509::check_server_names(names)
    }

    /// Issues what the broker shows its clients, good for these host names and addresses. One that was there is replaced, and
    /// stays good until it ends: no client asks the list about a server.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn issue_server(&mut self, names: &[String], validity: Duration) -> Result<Change, AuthorityError> {
        x509::check_server_names(names)?;
        let mut deed = self.begin()?;
        deed.issue(Kind::Server, &names[0], names, validity)?;
        self.carry_out(deed)
    }

    /// Issues a certificate for each of these devices, in one commit: the index is written once for all of them.
    ///
    /// # Errors
    /// [`AuthorityError::HasOne`], so that a device's key is not overwritten by mistake; see there for the others.
    pub fn issue_devices(&mut self, devices: &[DeviceIdRef<'_>], validity: Duration) -> Result<Change, AuthorityError> {
        let mut deed = self.begin()?;
        for device in devices {
            let good = |record: &&Record| record.is_good(deed.now);
            if let Some(record) = deed.index.current(&Which::Device(DeviceIdRef::to_owned(*device))).filter(good) {
                return Err(AuthorityError::HasOne {
                    device: record.common_name.clone(),
                    until: record.not_after,
                });
            }
            deed.issue(Kind::Device, device.as_str(), &[], validity)?;
        }
        self.carry_out(deed)
    }

    /// Issues a certificate for a device.
    ///
    /// # Errors
    /// As [`Authority::issue_devices`].
    pub fn issue_device(&mut self, device: DeviceIdRef<'_>, validity: Duration) -> Result<Change, AuthorityError> {
        self.issue_devices(&[device], validity)
    }

    /// Issues a new certificate, with a new key, in the place of one that ends. The authority keeps its key, so that all it
    /// issued stays good; who trusts the old certificate needs the new one before the old one ends.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn renew(&mut self, which: &Which, validity: Duration, old: Old) -> Result<Change, AuthorityError> {
        let mut deed = self.begin()?;
        let current = deed
            .index
            .current(which)
            .cloned()
            .ok_or_else(|| AuthorityError::Unknown(which.clone()))?;
        if current.revoked_at.is_some() {
            return Err(AuthorityError::Revoked(which.clone()));
        }
        match (current.kind, old) {
            (Kind::Ca, Old::Revoke) => return Err(AuthorityError::RevokesItself),
            (Kind::Ca, Old::Keep) => deed.renew_authority(&current.common_name, validity)?,
            (Kind::Server | Kind::Device, _) => deed.issue(current.kind, &current.common_name, &current.names, validity)?,
        }
        if old == Old::Revoke {
            deed.revoke(|record| record.serial == current.serial);
        }
        self.carry_out(deed)
    }

    /// Revokes: a device with all its certificates, the server likewise, or one certificate by its number. The broker refuses
    /// them from its next SIGHUP on. A connection that is open stays open, for Mosquitto looks at certificates in the handshake
    /// alone: it ends when somebody else takes the client id over.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn revoke(&mut self, which: &Which) -> Result<Change, AuthorityError> {
        let mut deed = self.begin()?;
        let meant: Vec<&Record> = deed.index.certificates.iter().filter(|record| record.is(which)).collect();
        if meant.is_empty() {
            return Err(AuthorityError::Unknown(which.clone()));
        }
        if meant.iter().any(|record| record.kind == Kind::Ca) {
            return Err(AuthorityError::RevokesItself);
        }
        deed.revoke(|record| record.is(which));
        if deed.revoked.is_empty() {
            return Err(AuthorityError::NothingToRevoke(which.clone()));
        }
        self.carry_out(deed)
    }

    /// Makes the revocation list anew, before it is over.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn refresh_crl(&mut self) -> Result<Change, AuthorityError> {
        let mut deed = self.begin()?;
        deed.renews_list = true;
        self.carry_out(deed)
    }

    pub(super) fn index(&self) -> &Index {
        &self.index
    }

    /// Reads the authority's key, which is in memory as long as the deed.
    fn begin(&self) -> Result<Deed, AuthorityError> {
        let headless = || AuthorityError::Headless(self.store.folder().to_owned());
        let own = self.index.authority().ok_or_else(headless)?;
        let wrong_key = || AuthorityError::WrongKey(self.store.path(CA_KEY));
        let key = KeyPair::from_pem(&self.store.read(CA_KEY)?).map_err(|_| wrong_key())?;
        if x509::key_digest(&key) != self.index.key {
            return Err(wrong_key());
        }
        Ok(Deed {
            now: x509::whole_seconds(Timestamp::now())?,
            issuer: x509::issuer(&own.common_name, key),
            index: self.index.clone(),
            broker: self.broker,
            writes: Vec::new(),
            issued: Vec::new(),
            revoked: Vec::new(),
            renews_list: false,
        })
    }

    fn carry_out(&mut self, mut deed: Deed) -> Result<Change, AuthorityError> {
        if deed.renews_list || !deed.revoked.is_empty() {
            let list = crl::sign(&mut deed.index, &deed.issuer, deed.now)?;
            deed.writes.push(Write::public(CRL, list));
        }
        let concerns_broker = deed
            .writes
            .iter()
            .any(|write| disk::parent(Path::new(&write.file)) == Path::new("."));
        let files = self.store.commit(&mut deed.index, &deed.writes)?;
        self.index = deed.index;
        Ok(Change {
            issued: deed.issued,
            revoked: deed.revoked,
            files,
            concerns_broker,
        })
    }
}

/// What is about to be done: an index as it is to be, and the files that go with it.
struct Deed {
    now: Timestamp,
    issuer: Issuer<'static, KeyPair>,
    index: Index,
    broker: Option<(u32, u32)>,
    writes: Vec<Write>,
    issued: Vec<Record>,
    revoked: Vec<Record>,
    renews_list: bool,
}

impl Deed {
    fn issue(&mut self, kind: Kind, common_name: &str, names: &[String], validity: Duration) -> Result<(), AuthorityError> {
        let not_after = x509::end(self.now, validity)?;
        if let Some(own) = self.index.authority().filter(|own| own.not_after < not_after) {
            return Err(AuthorityError::Outlives {
                wanted: not_after,
                authority: own.not_after,
            });
        }
        let (file, key_file, owner) = match kind {
            Kind::Device => (device_file(common_name, "pem"), device_file(common_name, "key"), None),
            _ => (SERVER_CERTIFICATE.to_owned(), SERVER_KEY.to_owned(), self.broker),
        };
        let key = x509::new_key()?;
        let wanted = Wanted {
            kind,
            common_name,
            names,
            not_after,
            file: file.clone(),
        };
        let made = wanted.signed_by(&self.issuer, &key, self.now)?;
        // The certificate goes last: what is there then has its key.
        self.writes
            .push(Write::private(&key_file, x509::key_pem(&key).reveal().to_owned(), owner));
        self.writes.push(Write::public(&file, made.pem));
        self.take(made.record);
        Ok(())
    }

    fn renew_authority(&mut self, common_name: &str, validity: Duration) -> Result<(), AuthorityError> {
        let made = own_certificate(&self.issuer, common_name, x509::end(self.now, validity)?, self.now)?;
        self.writes.push(Write::public(CA_CERTIFICATE, made.pem));
        self.take(made.record);
        Ok(())
    }

    fn take(&mut self, record: Record) {
        self.index.add(record.clone());
        self.issued.push(record);
    }

    fn revoke(&mut self, meant: impl Fn(&Record) -> bool) {
        let now = self.now;
        for record in self
            .index
            .certificates
            .iter_mut()
            .filter(|record| meant(record) && record.is_good(now))
        {
            record.revoked_at = Some(now);
            self.revoked.push(record.clone());
        }
    }
}

fn own_certificate(issuer: &Issuer<'_, KeyPair>, common_name: &str, not_after: Timestamp, now: Timestamp) -> Result<Made, AuthorityError> {
    let wanted = Wanted {
        kind: Kind::Ca,
        common_name,
        names: &[],
        not_after,
        file: CA_CERTIFICATE.to_owned(),
    };
    wanted.signed_by(issuer, issuer.key(), now)
}
