//! Archives that were made to do harm, each refused with the target as it was.

use std::io::{Read as _, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use iotflow::broker::backup::manifest::{Entry, Limits};
use iotflow::broker::backup::restore::RestoreError;
use tar::EntryType;

use crate::forge::{archive, block, folder, gzip, listed, listed_folder, manifest, regular};
use crate::place::Place;

#[test]
fn names_that_lead_elsewhere_are_refused() {
    let place = Place::new();
    let escape = place.path("outside");
    let escape = escape.to_str().expect("UTF-8");
    for name in [escape, "../outside", "a/../../outside", "a/..", "..", ".", "", "a//b", "./a"] {
        // In the archive alone,
        let error = place.refusal(&archive(&[], &[regular(name, b"harm")]), &Limits::default());
        assert!(
            matches!(&error, RestoreError::Unlisted(found) if found == name),
            "{name:?}: {error}"
        );
        // and in the manifest as well.
        let both = archive(
            &[listed_folder("a"), listed(name, b"harm")],
            &[folder("a/"), regular(name, b"harm")],
        );
        let error = place.refusal(&both, &Limits::default());
        assert!(matches!(error, RestoreError::Manifest(_)), "{name:?}: {error}");
    }
    let latin = block(b"\xE9", EntryType::Regular, "", 4, b"harm");
    let error = place.refusal(&archive(&[listed("\u{E9}", b"harm")], &[latin]), &Limits::default());
    assert!(matches!(error, RestoreError::Unlisted(_)), "{error}");
}

#[test]
fn links_and_devices_are_refused() {
    let place = Place::new();
    let outside = place.path("outside");
    let outside = outside.to_str().expect("UTF-8");
    for (kind, found) in [
        (EntryType::Symlink, "a symbolic link"),
        (EntryType::Link, "a hard link"),
        (EntryType::Char, "a device"),
        (EntryType::Block, "a device"),
        (EntryType::Fifo, "a pipe"),
        (EntryType::Continuous, "an entry of kind '7'"),
        (EntryType::GNUSparse, "an entry of kind 'S'"),
        (EntryType::Directory, "a folder"),
    ] {
        let bad = archive(&[listed("a", b"")], &[block(b"a", kind, outside, 0, b"")]);
        let error = place.refusal(&bad, &Limits::default()).to_string();
        assert!(error.contains("\"a\"") && error.contains(found), "{error}");
    }
    // A link that poses as the folder through which the next entry is written.
    let through = [block(b"a", EntryType::Symlink, "..", 0, b""), regular("a/outside", b"harm")];
    let error = place.refusal(
        &archive(&[listed_folder("a"), listed("a/outside", b"harm")], &through),
        &Limits::default(),
    );
    assert!(matches!(error, RestoreError::Kind { .. }), "{error}");
    // Names in entries of their own are a second truth about the next one: GNU's, and POSIX's.
    for kind in [EntryType::GNULongName, EntryType::XHeader, EntryType::XGlobalHeader] {
        let long = block(b"././@LongLink", kind, "", 10, b"../outside");
        let error = place.refusal(
            &archive(&[listed("a", b"harm")], &[long, regular("a", b"harm")]),
            &Limits::default(),
        );
        assert!(matches!(error, RestoreError::Unlisted(_)), "{error}");
    }
}

#[test]
fn what_differs_from_the_manifest_is_refused() {
    let place = Place::new();
    let refusal = |entries: &[Entry], blocks: &[Vec<u8>]| place.refusal(&archive(entries, blocks), &Limits::default()).to_string();
    let (a, b) = (listed("a", b"one"), listed("b", b"two"));
    let (alone, both) = (std::slice::from_ref(&a), [a.clone(), b]);
    let says = |error: String, what: &str| assert!(error.contains(what), "{error}");
    says(refusal(alone, &[regular("a", b"0ne")]), "\"a\" is not what it was");
    says(refusal(alone, &[regular("a", b"more")]), "\"a\" has 4 bytes in the archive and 3");
    says(
        refusal(&both, &[regular("a", b"one")]),
        "\"b\" is in the manifest and not in the archive",
    );
    says(
        refusal(alone, &[regular("a", b"one"), regular("b", b"two")]),
        "\"b\" is in the archive and not",
    );
    says(
        refusal(alone, &[regular("a", b"one"), regular("a", b"one")]),
        "\"a\" is in the archive twice",
    );
    says(
        refusal(&[a.clone(), a.clone()], &[regular("a", b"one")]),
        "\"a\": the name stands there twice",
    );
    says(
        refusal(&[listed("c/a", b"one")], &[regular("c/a", b"one")]),
        "\"c/a\": the folder that holds it",
    );
    says(
        refusal(&[a.clone(), listed("a/b", b"")], &[regular("a", b"one")]),
        "\"a/b\": the folder that holds it",
    );
    let Entry::File { name, bytes, sha256, .. } = a.clone() else {
        unreachable!("it is a file")
    };
    let setuid = Entry::File {
        name,
        bytes,
        sha256,
        mode: 0o4755,
    };
    says(
        refusal(&[setuid], &[regular("a", b"one")]),
        "the mode 4755 is more than permissions",
    );
    says(
        place.refusal(&gzip(&regular("a", b"one")), &Limits::default()).to_string(),
        "does not begin with manifest.json",
    );
    says(
        place.refusal(&gzip(&[0; 1024]), &Limits::default()).to_string(),
        "does not begin with manifest.json",
    );
    says(place.refusal(b"not gzip at all", &Limits::default()).to_string(), "cannot be read");
    let whole = archive(&both, &[regular("a", b"one"), regular("b", b"two")]);
    says(
        place
            .refusal(&[whole.clone(), gzip(b"more")].concat(), &Limits::default())
            .to_string(),
        "behind the end",
    );
    let more = [manifest(&[]), vec![0; 1024], regular("a", b"one")].concat();
    says(place.refusal(&gzip(&more), &Limits::default()).to_string(), "behind the end");
    place
        .restore(&whole, &Limits::default())
        .expect("the same without a fault is taken");
}

#[test]
fn what_would_fill_the_disk_is_refused_before_it_does() {
    let place = Place::new();
    let limits = Limits { entries: 2, bytes: 1000 };
    let refusal = |archive: &[u8]| place.refusal(archive, &limits).to_string();
    let says = |error: String, what: &str| assert!(error.contains(what), "{error}");
    let large = [0; 1001];
    says(
        refusal(&archive(&[listed("a", &large)], &[regular("a", &large)])),
        "more than 1000 bytes",
    );
    let half = [0; 501];
    let halves = [regular("a", &half), regular("b", &half)];
    says(
        refusal(&archive(&[listed("a", &half), listed("b", &half)], &halves)),
        "more than 1000 bytes",
    );
    let many = ["a", "b", "c"].map(|name| listed(name, b""));
    says(refusal(&archive(&many, &[])), "3 entries, and 2 are the most");
    // Lengths whose sum is small again once it has run over.
    let huge = ["a", "b"].map(|name| Entry::File {
        name: name.to_owned(),
        mode: 0o600,
        bytes: u64::MAX / 2 + 1,
        sha256: String::new(),
    });
    says(refusal(&archive(&huge, &[])), "more than 1000 bytes");
    // The manifest is bounded by what its header says, before it is read.
    says(
        refusal(&gzip(&block(b"manifest.json", EntryType::Regular, "", 1 << 40, b""))),
        "bytes, and",
    );
    // A bomb: a gigabyte of zeros behind the end, from a megabyte.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::best());
    bomb.write_all(&manifest(&[])).expect("it is memory");
    std::io::copy(&mut std::io::repeat(0).take(1 << 30), &mut bomb).expect("it is memory");
    says(refusal(&bomb.finish().expect("it is memory")), "behind the end");
}
