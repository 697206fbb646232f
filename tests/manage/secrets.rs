//! Where secrets must not be: in logs, on command lines, in files that others can read.

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::place::Place;

/// Every file below `folder`, with its mode.
fn files(folder: &Path, see: &mut impl FnMut(&Path, u32)) {
    for entry in std::fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it is there").path();
        // PostgreSQL removes files of its own meanwhile.
        let Ok(metadata) = std::fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            files(&path, see);
        } else if metadata.is_file() {
            see(&path, metadata.mode());
        }
    }
}

#[test]
fn a_secret_is_in_no_log_on_no_command_line_and_in_no_file_of_others() {
    let place = Place::set_up();
    std::fs::write(place.path("password"), "the-password-of-ann\n").expect("it is ours");
    place.does(&["create-user", "ann", "--role", "admin", "--password-file", "password"]);
    std::fs::remove_file(place.path("password")).expect("it is ours");
    let password = |answer: serde_json::Value| answer["password"].as_str().expect("it was made").to_owned();
    let mut secrets = vec![
        "the-password-of-ann".to_owned(),
        password(place.tells(&["setup-admin"])),
        password(place.tells(&["generate-device", "pump-1"])),
        password(place.tells(&["create-user", "pump-2"])),
    ];
    place.does(&["restart"]);
    for entry in std::fs::read_dir(place.path(".iotflow/secrets")).expect("it is there") {
        secrets.push(
            std::fs::read_to_string(entry.expect("it is there").path())
                .expect("text")
                .trim()
                .to_owned(),
        );
    }
    assert!(
        secrets.len() >= 7 && secrets.iter().all(|secret| secret.len() > 8),
        "{}",
        secrets.len()
    );
    let holds = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        secrets.iter().any(|secret| text.contains(secret))
    };

    for log in [".iotflow/run.log", ".iotflow/broker/mosquitto.log"] {
        assert!(!place.read(log).is_empty() && !holds(place.read(log).as_bytes()), "{log}");
    }
    for process in std::fs::read_dir("/proc").expect("it is there").flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        assert!(!holds(&command), "{:?}", String::from_utf8_lossy(&command));
    }
    let mut with_secrets = 0;
    files(place.folder.path(), &mut |path, mode| {
        if holds(&std::fs::read(path).unwrap_or_default()) {
            with_secrets += 1;
            assert_eq!(mode & 0o077, 0, "{} is for others too", path.display());
        }
    });
    assert!(with_secrets >= 6, "the search finds what is there: {with_secrets}");
}
