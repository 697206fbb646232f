//! Archives by hand, with what no honest program writes.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use iotflow::broker::backup::manifest::{Entry, Manifest};
use iotflow::broker::digest::sha256;
use tar::{EntryType, Header};

/// A block of tar's, its name exactly these bytes, whatever they are.
pub(crate) fn block(name: &[u8], kind: EntryType, link: &str, size: u64, data: &[u8]) -> Vec<u8> {
    let mut header = Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(size);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

pub(crate) fn regular(name: &str, data: &[u8]) -> Vec<u8> {
    block(name.as_bytes(), EntryType::Regular, "", data.len() as u64, data)
}

pub(crate) fn folder(name: &str) -> Vec<u8> {
    block(name.as_bytes(), EntryType::Directory, "", 0, &[])
}

pub(crate) fn listed(name: &str, data: &[u8]) -> Entry {
    Entry::File {
        name: name.to_owned(),
        mode: 0o600,
        bytes: data.len() as u64,
        sha256: sha256(data),
    }
}

pub(crate) fn listed_folder(name: &str) -> Entry {
    Entry::Folder {
        name: name.to_owned(),
        mode: 0o755,
    }
}

pub(crate) fn manifest(entries: &[Entry]) -> Vec<u8> {
    let manifest = Manifest {
        format: 1,
        created_at: jiff::Timestamp::UNIX_EPOCH,
        version: "0".to_owned(),
        entries: entries.to_vec(),
    };
    regular("manifest.json", &serde_json::to_vec(&manifest).expect("it is sound"))
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).expect("it is memory");
    encoder.finish().expect("it is memory")
}

/// An archive whose manifest lists `entries`, and that then holds `blocks`.
pub(crate) fn archive(entries: &[Entry], blocks: &[Vec<u8>]) -> Vec<u8> {
    gzip(&[manifest(entries), blocks.concat(), vec![0; 1024]].concat())
}
