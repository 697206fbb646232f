//! What goes in comes out.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use iotflow::broker::backup::create::{CreateError, create};
use iotflow::broker::backup::manifest::Limits;
use iotflow::broker::backup::restore::restore;
use iotflow::broker::certs::authority::{Authority, Existing};
use iotflow::broker::certs::error::AuthorityError;
use iotflow::protocol::id::DeviceIdRef;

use crate::place::{Place, sample, tree};

#[test]
fn what_goes_in_comes_out() {
    let place = Place::new();
    let made = sample(&place);
    assert_eq!(fs::metadata(&made).expect("it is there").permissions().mode() & 0o777, 0o600);
    let restored = restore(&made, &place.target(), &Limits::default()).expect("it is sound");
    let after = tree(&place.target());
    let expected: BTreeMap<_, _> = tree(&place.path("source"))
        .into_iter()
        .map(|(path, what)| (Path::new("certs").join(path), what))
        .collect();
    for (path, what) in &expected {
        assert_eq!(after.get(path), Some(what), "{}", path.display());
    }
    assert_eq!(after[Path::new("database")].1.as_deref(), Some(b"rows".as_slice()));
    assert_eq!(after.len(), expected.len() + 2, "and nothing else");
    let previous = restored.previous.expect("there was something");
    assert_eq!(fs::read_to_string(previous.join("here before")).expect("it is kept"), "as it was");
    assert_eq!(restored.manifest.version, env!("CARGO_PKG_VERSION"));

    let elsewhere = place.path("new/target");
    let restored = restore(&made, &elsewhere, &Limits::default()).expect("it is sound");
    assert_eq!((tree(&elsewhere), restored.previous), (after, None));
}

#[test]
fn tar_reads_it_as_well() {
    let place = Place::new();
    let output = std::process::Command::new("tar")
        .arg("-tzf")
        .arg(sample(&place))
        .output()
        .expect("tar is there");
    let names = String::from_utf8(output.stdout).expect("UTF-8");
    let expected = [
        "manifest.json",
        "certs/",
        "certs/ca.key",
        "certs/devices/",
        "certs/devices/%2E.pem",
        "certs/devices/empty/",
        "database",
    ];
    assert_eq!(names.lines().collect::<Vec<_>>(), expected);
}

#[test]
fn only_files_and_folders_are_backed_up_and_nothing_is_overwritten() {
    let place = Place::new();
    symlink("/etc/passwd", place.target().join("link")).expect("it is ours");
    let outcome = create(&[("a", &place.target())], &place.path("backup"));
    assert!(matches!(outcome, Err(CreateError::Special(_, "symbolic link"))), "{outcome:?}");
    for name in ["", "..", "a/b", "manifest.json"] {
        assert!(
            create(&[(name, &place.path("outside"))], &place.path("backup")).is_err(),
            "{name:?}"
        );
    }
    let twice = create(
        &[("a", &place.path("outside")), ("a", &place.path("outside"))],
        &place.path("backup"),
    );
    assert!(matches!(twice, Err(CreateError::Manifest(_))), "{twice:?}");
    let there = create(&[("a", &place.path("outside"))], &place.path("outside"));
    assert!(matches!(there, Err(CreateError::Exists(_))), "{there:?}");
    let names: Vec<_> = tree(place.folder.path()).into_keys().collect();
    assert_eq!(
        names,
        ["outside", "target", "target/here before", "target/link"].map(PathBuf::from),
        "nothing lies about"
    );
}

#[test]
fn a_restored_authority_goes_on_where_it_was() {
    let place = Place::new();
    let (folder, day) = (place.path("certs"), Duration::from_secs(86_400));
    let device = |id| DeviceIdRef::parse(id).expect("a good id");
    let (mut authority, _) = Authority::create(&folder, "Test CA", day * 2, Existing::Keep).expect("it is new");
    authority.issue_device(device("pump-1"), day).expect("it has none");
    // Open, and so locked, until the archive is there.
    create(&[("certs", &folder)], &place.path("backup")).expect("nobody writes to it");
    authority.issue_device(device("pump-2"), day).expect("it has none");
    drop(authority);
    restore(&place.path("backup"), &place.target(), &Limits::default()).expect("it is sound");
    let mut authority = Authority::open(&place.target().join("certs")).expect("it is whole");
    let has_one = authority.issue_device(device("pump-1"), day);
    assert!(matches!(has_one, Err(AuthorityError::HasOne { .. })), "{has_one:?}");
    authority.issue_device(device("pump-2"), day).expect("it had none then");
}
