//! The file of keys, read again when it changes, so that an issuer's rotation needs no restart.

use std::fs::{File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::keys::{Keys, KeysError};

/// The longest file that is read.
pub const MAX_FILE_BYTES: u64 = 256 * 1024;
/// How often the file is looked at, at most: a look is a system call, and requests come by the thousand.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What tells a file from what was there before: `None` where there is none.
type Stamp = Option<(u64, u64, u64, (i64, i64), (i64, i64))>;

/// A file of keys, and those that it held when it last made sense.
///
/// Whoever changes it writes another file and renames it, so that nobody reads half of it. A file that cannot be used is
/// reported once, and what was there before stays in force: a mistake in a rotation must not lock everybody out.
#[derive(Debug)]
pub struct KeyFile {
    path: PathBuf,
    keys: RwLock<Arc<Keys>>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    stamp: Stamp,
    looked: Instant,
}

/// What a look at the file brought.
#[derive(Debug)]
pub enum Look {
    /// It is as it was.
    Unchanged,
    /// It holds other keys, which are in force.
    Swapped,
    /// It cannot be used; the keys from before stay in force.
    Kept(KeysError),
}

impl KeyFile {
    /// Reads the file.
    ///
    /// # Errors
    /// [`KeysError`]: a service does not begin with keys that it cannot use.
    pub fn open(path: &Path) -> Result<Self, KeysError> {
        let (stamp, keys) = read(path);
        Ok(Self {
            path: path.to_owned(),
            keys: RwLock::new(Arc::new(keys?)),
            seen: Mutex::new(Seen {
                stamp,
                looked: Instant::now(),
            }),
        })
    }

    /// The keys in force, after a look at the file if the last one was a second ago.
    #[must_use]
    pub fn keys(&self) -> Arc<Keys> {
        self.keys_at(Instant::now())
    }

    fn keys_at(&self, now: Instant) -> Arc<Keys> {
        // While one looks, the others go on with what there is.
        if let Ok(mut seen) = self.seen.try_lock()
            && now.saturating_duration_since(seen.looked) >= LOOK_EVERY
        {
            seen.looked = now;
            self.look_again(&mut seen);
        }
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the file now.
    pub fn look(&self) -> Look {
        self.look_again(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn look_again(&self, seen: &mut Seen) -> Look {
        // A file that went away is told from one that was never looked at, and is reported once too.
        if std::fs::metadata(&self.path).ok().and_then(|metadata| stamp(&metadata)) == seen.stamp {
            return Look::Unchanged;
        }
        let (stamp, keys) = read(&self.path);
        seen.stamp = stamp;
        let path = self.path.display();
        match keys {
            Ok(keys) => {
                info!(%path, keys = keys.count(), "the keys of JWTs were read again");
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                Look::Swapped
            }
            Err(error) => {
                warn!(%path, %error, "the file of JWT keys cannot be used; the keys from before stay in force");
                Look::Kept(error)
            }
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "a stamp is none where there is no file")]
fn stamp(metadata: &Metadata) -> Stamp {
    Some((
        metadata.dev(),
        metadata.ino(),
        metadata.size(),
        (metadata.mtime(), metadata.mtime_nsec()),
        // The time of modification can be set back, this one cannot.
        (metadata.ctime(), metadata.ctime_nsec()),
    ))
}

/// The keys, and the stamp from before they were read: what is written meanwhile is another file by the next look.
fn read(path: &Path) -> (Stamp, Result<Keys, KeysError>) {
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => return (None, Err(error.into())),
    };
    let stamp = stamp(&metadata);
    // Whoever opened a pipe would wait for somebody to write into it.
    if !metadata.is_file() {
        return (stamp, Err(KeysError::NotAFile));
    }
    let mut bytes = Vec::new();
    let length = File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    let keys = match length {
        Err(error) => Err(error.into()),
        Ok(_) if bytes.len() as u64 > MAX_FILE_BYTES => Err(KeysError::TooLong),
        Ok(_) => Keys::parse(&bytes),
    };
    (stamp, keys)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::jwt::keys::Algorithm;
    use crate::identity::jwt::testing::{Signer, jwks};

    /// A file beside it, renamed: as an administrator should.
    fn put(path: &Path, text: &[u8]) {
        let new = path.with_extension("new");
        std::fs::write(&new, text).expect("the folder is ours");
        std::fs::rename(&new, path).expect("the folder is ours");
    }

    fn is_signed_by(keys: &Keys, signer: &Signer) -> bool {
        let signature = signer.signature(b"message");
        keys.verify(Algorithm::EdDsa, None, b"message", &signature).is_ok()
    }

    #[test]
    fn keys_change_with_the_file_and_a_file_that_makes_no_sense_changes_nothing() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("jwks.json");
        let [first, second] = [Signer::ed25519(), Signer::ed25519()];
        put(&path, jwks(&[("1", &first)]).as_bytes());
        let file = KeyFile::open(&path).expect("sound keys");
        assert!(is_signed_by(&file.keys(), &first) && !is_signed_by(&file.keys(), &second));
        assert!(matches!(file.look(), Look::Unchanged));

        for broken in [&b""[..], b"{", b"{\"keys\": []}", &[b' '; 300_000]] {
            put(&path, broken);
            assert!(matches!(file.look(), Look::Kept(_)));
            assert!(matches!(file.look(), Look::Unchanged), "it is reported once");
            assert!(is_signed_by(&file.keys(), &first));
        }
        std::fs::remove_file(&path).expect("it is there");
        assert!(matches!(file.look(), Look::Kept(KeysError::File(_))));
        assert!(matches!(file.look(), Look::Unchanged), "it is reported once");
        std::fs::create_dir(&path).expect("the folder is ours");
        assert!(matches!(file.look(), Look::Kept(KeysError::NotAFile)));
        assert!(is_signed_by(&file.keys(), &first));
        std::fs::remove_dir(&path).expect("it is there");

        put(&path, jwks(&[("2", &second)]).as_bytes());
        assert!(matches!(file.look(), Look::Swapped));
        assert!(!is_signed_by(&file.keys(), &first) && is_signed_by(&file.keys(), &second));
    }

    #[test]
    fn the_file_is_looked_at_once_a_second_at_most() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("jwks.json");
        let [first, second] = [Signer::ed25519(), Signer::ed25519()];
        put(&path, jwks(&[("1", &first)]).as_bytes());
        let file = KeyFile::open(&path).expect("sound keys");
        let opened = file.seen.lock().expect("nobody panicked").looked;
        put(&path, jwks(&[("2", &second)]).as_bytes());
        assert!(is_signed_by(&file.keys_at(opened + LOOK_EVERY / 2), &first));
        assert!(is_signed_by(&file.keys_at(opened + LOOK_EVERY), &second));
    }

    #[test]
    fn a_service_does_not_begin_with_keys_that_it_cannot_use() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("jwks.json");
        assert!(matches!(KeyFile::open(&path), Err(KeysError::File(_))));
        put(&path, b"{}");
        assert!(matches!(KeyFile::open(&path), Err(KeysError::Json(_))));
    }
}
