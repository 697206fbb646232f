//! Makes an archive: everything is listed and hashed first, then written, and found unchanged on the way.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use tar::{Builder, EntryType, Header};

use crate::broker::digest::{Hashed, copy_sha256};
use crate::broker::disk::{self, FileError, PRIVATE};

use super::manifest::{Entry, FORMAT, Limits, Manifest, ManifestError, NAME, is_below};

type Archive = Builder<GzEncoder<BufWriter<File>>>;

/// Why there is no archive.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// An archive would be overwritten.
    #[error("{path}: the file is there already; another name is expected", path = .0.display())]
    Exists(PathBuf),
    /// A source's name would lead elsewhere.
    #[error("{0:?} cannot name a source; a plain name is expected")]
    SourceName(String),
    /// No file and no folder.
    #[error("{path}: this is a {1}; an archive takes regular files and folders", path = .0.display())]
    Special(PathBuf, &'static str),
    /// A name that the archive cannot hold.
    #[error("{path}: the name cannot stand in an archive: {1}", path = .0.display())]
    EntryName(PathBuf, String),
    /// A file is being written to.
    #[error("{path}: the file changed while it was read; nothing may write to what is backed up", path = .0.display())]
    Changed(PathBuf),
    /// It is more than a restore would take.
    #[error("what is to be backed up cannot be restored: {0}")]
    Manifest(#[from] ManifestError),
}

/// Puts each of `sources`, a file or a folder, under its name into a new archive at `target`. Whoever calls this sees to it
/// that nobody writes to them meanwhile; an [`Authority`](crate::broker::certs::authority::Authority) that is open is enough
/// for its folder.
///
/// # Errors
/// See [`CreateError`]; then there is no archive.
pub fn create(sources: &[(&str, &Path)], target: &Path) -> Result<Manifest, CreateError> {
    if fs::symlink_metadata(target).is_ok() {
        return Err(CreateError::Exists(target.to_owned()));
    }
    let mut found = Vec::new();
    for (name, path) in sources {
        if name.contains('/') || !is_below(name) {
            return Err(CreateError::SourceName((*name).to_owned()));
        }
        collect(name, path, &mut found)?;
    }
    let manifest = Manifest {
        format: FORMAT,
        created_at: Timestamp::now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        entries: found.iter().map(|(entry, _)| entry.clone()).collect(),
    };
    manifest.check(&Limits::default())?;

    let new = disk::beside(target, "new")?;
    let written = write(&new, &manifest, &found).and_then(|()| {
        fs::rename(&new, target).map_err(FileError::at(target))?;
        Ok(disk::sync_folder(disk::parent(target))?)
    });
    if written.is_err() {
        // The error that led here matters more than one of this.
        drop(fs::remove_file(&new));
    }
    written.map(|()| manifest)
}

fn collect(name: &str, path: &Path, found: &mut Vec<(Entry, PathBuf)>) -> Result<(), CreateError> {
    let at = || FileError::at(path);
    let metadata = fs::symlink_metadata(path).map_err(at())?;
    let mode = metadata.permissions().mode() & 0o777;
    let kind = metadata.file_type();
    if kind.is_file() {
        let (bytes, sha256) = copy_sha256(open(path).map_err(at())?, &mut io::sink()).map_err(at())?;
        let name = name.to_owned();
        found.push((Entry::File { name, mode, bytes, sha256 }, path.to_owned()));
        return Ok(());
    }
    if !kind.is_dir() {
        let what = match kind {
            kind if kind.is_symlink() => "symbolic link",
            kind if kind.is_socket() => "socket",
            kind if kind.is_fifo() => "pipe",
            _ => "device",
        };
        return Err(CreateError::Special(path.to_owned(), what));
    }
    found.push((
        Entry::Folder {
            name: name.to_owned(),
            mode,
        },
        path.to_owned(),
    ));
    let mut children = fs::read_dir(path)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.file_name()))
                .collect::<Result<Vec<_>, _>>()
        })
        .map_err(at())?;
    // The same folder makes the same archive.
    children.sort();
    for child in children {
        let text = child
            .to_str()
            .ok_or_else(|| CreateError::EntryName(path.join(&child), "it is no UTF-8".to_owned()))?;
        collect(&format!("{name}/{text}"), &path.join(&child), found)?;
    }
    Ok(())
}

/// A link that took the file's place meanwhile is not followed.
fn open(path: &Path) -> io::Result<BufReader<File>> {
    let no_follow = nix::fcntl::OFlag::O_NOFOLLOW.bits();
    OpenOptions::new().read(true).custom_flags(no_follow).open(path).map(BufReader::new)
}

fn write(new: &Path, manifest: &Manifest, found: &[(Entry, PathBuf)]) -> Result<(), CreateError> {
    let at = || FileError::at(new);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(new)
        .map_err(at())?;
    let mut archive = Builder::new(GzEncoder::new(BufWriter::new(file), Compression::default()));
    let list = serde_json::to_vec_pretty(manifest).expect("names are strings, and nothing else can fail");
    let length = u64::try_from(list.len()).expect("usize has at most 64 bits");
    let list_header = header(NAME, EntryType::Regular, PRIVATE, length).map_err(at())?;
    archive.append(&list_header, list.as_slice()).map_err(at())?;
    for (entry, path) in found {
        append(&mut archive, entry, path, new)?;
    }
    let finish = || {
        let mut buffer = archive.into_inner()?.finish()?;
        buffer.flush()?;
        buffer.get_ref().sync_all()
    };
    Ok(finish().map_err(at())?)
}

fn append(archive: &mut Archive, entry: &Entry, path: &Path, new: &Path) -> Result<(), CreateError> {
    let too_long = |error: io::Error| CreateError::EntryName(path.to_owned(), error.to_string());
    let (name, mode, bytes, expected) = match entry {
        Entry::Folder { name, mode } => {
            let header = header(&format!("{name}/"), EntryType::Directory, *mode, 0).map_err(too_long)?;
            return Ok(archive.append(&header, io::empty()).map_err(FileError::at(new))?);
        }
        Entry::File { name, mode, bytes, sha256 } => (name, *mode, *bytes, sha256),
    };
    let header = header(name, EntryType::Regular, mode, bytes).map_err(too_long)?;
    // The archive says how long an entry is before the entry comes, and the manifest has its digest: so the file is read a
    // second time, up to one byte more than there was, to know that it is still the same.
    let mut source = Hashed::new(open(path).map_err(FileError::at(path))?.take(bytes.saturating_add(1)));
    archive.append(&header, &mut source).map_err(FileError::at(new))?;
    if source.finish() == (bytes, expected.clone()) {
        Ok(())
    } else {
        Err(CreateError::Changed(path.to_owned()))
    }
}

fn header(name: &str, kind: EntryType, mode: u32, bytes: u64) -> io::Result<Header> {
    // The plain form alone: names in entries of their own, as GNU and POSIX have them, could say another thing than these.
    let mut header = Header::new_ustar();
    header.set_path(name)?;
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(bytes);
    header.set_cksum();
    Ok(header)
}
