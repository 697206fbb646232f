//! Where a backup is restored to, and what must not change there.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use iotflow::broker::backup::create::create;
use iotflow::broker::backup::manifest::Limits;
use iotflow::broker::backup::restore::{RestoreError, Restored, restore};
use tempfile::TempDir;

/// A place with a target that holds something, an outside that must stay as it is, and an archive.
pub(crate) struct Place {
    pub(crate) folder: TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("the temporary folder can be written");
        let place = Self { folder };
        fs::create_dir(place.target()).expect("it is ours");
        fs::write(place.target().join("here before"), "as it was").expect("it is ours");
        fs::write(place.path("outside"), "as it was").expect("it is ours");
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn target(&self) -> PathBuf {
        self.path("target")
    }

    pub(crate) fn restore(&self, archive: &[u8], limits: &Limits) -> Result<Restored, RestoreError> {
        fs::write(self.path("archive"), archive).expect("it is ours");
        restore(&self.path("archive"), &self.target(), limits)
    }

    /// Why `archive` is refused; nothing was changed then, and nothing lies about.
    pub(crate) fn refusal(&self, archive: &[u8], limits: &Limits) -> RestoreError {
        fs::write(self.path("archive"), archive).expect("it is ours");
        let before = tree(self.folder.path());
        let error = self.restore(archive, limits).expect_err("it must be refused");
        assert_eq!(tree(self.folder.path()), before, "{error}");
        error
    }
}

/// Everything below a folder: its mode, and the bytes of files.
pub(crate) fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it is there").path();
        let metadata = fs::symlink_metadata(&path).expect("it is there");
        let name = PathBuf::from(path.file_name().expect("it has one"));
        if metadata.is_dir() {
            found.extend(tree(&path).into_iter().map(|(below, what)| (name.join(below), what)));
        }
        let bytes = metadata.is_file().then(|| fs::read(&path).expect("it is ours"));
        found.insert(name, (metadata.permissions().mode(), bytes));
    }
    found
}

/// A folder with all that a backup has, and the archive of it.
pub(crate) fn sample(place: &Place) -> PathBuf {
    let source = place.path("source");
    fs::create_dir_all(source.join("devices/empty")).expect("it is ours");
    fs::write(source.join("ca.key"), "secret").expect("it is ours");
    fs::write(source.join("devices/%2E.pem"), vec![7; 100_000]).expect("it is ours");
    for (path, mode) in [
        ("ca.key", 0o600),
        ("devices", 0o700),
        ("devices/empty", 0o550),
        ("devices/%2E.pem", 0o644),
    ] {
        fs::set_permissions(source.join(path), fs::Permissions::from_mode(mode)).expect("it is ours");
    }
    fs::write(place.path("dump"), "rows").expect("it is ours");
    let archive = place.path("backup");
    create(&[("certs", &source), ("database", &place.path("dump"))], &archive).expect("it is sound");
    archive
}
