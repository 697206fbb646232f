//! What is not restored changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use iotflow::broker::backup::create::create;
use iotflow::broker::backup::manifest::Limits;
use iotflow::broker::backup::restore::restore;
use serde_json::{Value, json};

use crate::forge;
use crate::support::installation::{Place, read};
use crate::support::judge;
use crate::support::servers::{connect, folder, start_postgres};

/// So many places of the archive, evenly spread, have a byte flipped.
const FLIPS: usize = 40;
/// Behind the head of gzip, which holds a time and the like that nobody looks at.
const GZIP_HEAD: usize = 10;

/// Everything below a folder: its mode and owner, and the bytes of files; but for the lock, which says who looked last.
fn tree(folder: &Path) -> BTreeMap<PathBuf, (u32, u32, Option<Vec<u8>>)> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it is there").path();
        let metadata = fs::symlink_metadata(&path).expect("it is there");
        if metadata.is_dir() {
            found.extend(tree(&path));
        }
        let bytes = metadata.is_file().then(|| fs::read(&path).expect("it is ours"));
        if !path.ends_with("run.lock") {
            found.insert(path, (metadata.mode(), metadata.uid(), bytes));
        }
    }
    found
}

/// The archive with something changed in it, and a manifest that fits.
fn changed(place: &Place, archive: &str, change: impl FnOnce(&Path)) -> String {
    let (parts, file) = (folder(), format!("changed-{:08x}.tar.gz", fastrand::u32(..)));
    let parts = parts.path().join("parts");
    restore(&place.path(archive), &parts, &Limits::default()).expect("it is sound");
    change(&parts);
    let names: Vec<String> = fs::read_dir(&parts)
        .expect("it is there")
        .map(|entry| entry.expect("it is there").file_name().into_string().expect("UTF-8"))
        .collect();
    let paths: Vec<PathBuf> = names.iter().map(|name| parts.join(name)).collect();
    let sources: Vec<(&str, &Path)> = names.iter().map(String::as_str).zip(paths.iter().map(PathBuf::as_path)).collect();
    create(&sources, &place.path(&file)).expect("it is sound");
    file
}

fn edit(file: &Path, at: &str, value: Value) {
    let mut document: Value = serde_json::from_str(&read(file)).expect("JSON");
    *document.pointer_mut(at).expect("it is there") = value;
    fs::write(file, document.to_string()).expect("it is ours");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_was_tampered_with_changes_nothing() {
    let place = Place::new();
    place.set_up(&[]);
    place.done(&["generate-device", "pump-1"]);
    place.done(&["backup", "good"]);
    place.done(&["stop"]);

    let mut bad: Vec<(String, &str)> = Vec::new();
    let good = fs::read(place.path("good")).expect("it is there");
    for number in 0..FLIPS {
        let (mut bytes, name) = (good.clone(), format!("flipped-{number}"));
        bytes[GZIP_HEAD + number * (good.len() - GZIP_HEAD) / FLIPS] ^= 0xff;
        fs::write(place.path(&name), bytes).expect("it is ours");
        bad.push((name, ""));
    }
    let up = forge::archive(&[forge::listed("../up", b"x")], &[forge::regular("../up", b"x")]);
    fs::write(place.path("up.tar.gz"), up).expect("it is ours");
    bad.push(("up.tar.gz".to_owned(), "not one below the target"));
    let with =
        |file: &'static str, at: &'static str, value: Value| changed(&place, "good", move |parts| edit(&parts.join(file), at, value));
    bad.extend([
        (
            with("database.json", "/users/0/username", json!("x\ny:$7$101$MDEyMzQ1Njc4OWFi$AA==")),
            "a user name is",
        ),
        (with("database.json", "/users/0/role", json!("root")), "is no role"),
        (
            with("database.json", "/users/0/password_hash", json!("$7$101$a\nadmin:b$c")),
            "no password hash",
        ),
        (
            with("broker.json", "/listeners/0/address", json!("0.0.0.0\nallow_anonymous true")),
            "the listener's address",
        ),
        (with("broker.json", "/base_topic", json!("a\ntopic read #")), "a base topic is"),
        (
            changed(&place, "good", |parts| {
                fs::write(parts.join("secrets/postgres"), "a\nb").expect("it is ours");
            }),
            "one line is expected",
        ),
        (
            changed(&place, "good", |parts| fs::write(parts.join("env"), "X=1").expect("it is ours")),
            "in no backup of a broker",
        ),
        (
            changed(&place, "good", |parts| {
                fs::remove_dir_all(parts.join("secrets")).expect("it is ours")
            }),
            "secrets is missing",
        ),
        (
            changed(&place, "good", |parts| {
                fs::write(parts.join("certs/issued.json"), "{}").expect("it is ours")
            }),
            "no index of certificates",
        ),
    ]);
    let before = tree(&place.path(""));
    for (name, why) in &bad {
        for arguments in [
            vec!["restore", name.as_str(), "--replace"],
            vec!["restore", name.as_str(), "--data", "elsewhere"],
        ] {
            let refusal = place.refusal(&arguments);
            assert!(
                refusal.contains("nothing was changed") && refusal.contains(why),
                "{name}: {refusal}"
            );
            assert!(refusal.trim_end().lines().count() == 1, "{name}: {refusal:?}");
            assert!(tree(&place.path("")) == before, "{name}: something changed; {refusal}");
        }
    }
    // They were refused for what was changed in them, and not because nothing is ever restored.
    place.done(&["restore", "good", "--data", "elsewhere"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_in_a_database_of_its_own_are_replaced_on_demand_only() {
    let folder = folder();
    let (postgres, _) = start_postgres(folder.path()).await;
    let url = postgres.url().reveal().to_owned();
    let place = Place::with(&[("DATABASE_URL", &url)]);
    place.set_up(&[]);
    place.done(&["generate-device", "pump-1"]);
    place.done(&["backup", "good"]);
    place.done(&["generate-device", "pump-2"]);
    place.done(&["stop"]);
    let names = "SELECT username FROM broker_users ORDER BY 1";
    let sql = connect(&url).await;
    let row = "SELECT to_jsonb(u)::text FROM broker_users u WHERE username = 'pump-1'";
    let (all, pump) = (judge::texts(&sql, names).await, judge::texts(&sql, row).await);
    assert_eq!(all, ["iotflow", "pump-1", "pump-2"]);
    fs::remove_dir_all(place.data()).expect("it is ours");

    let refusal = place.refusal(&["restore", "good"]);
    assert!(refusal.contains("has 3 users") && refusal.contains("--replace"), "{refusal}");
    assert!(!place.data().exists(), "it was put back to nothing");
    assert_eq!(judge::texts(&sql, names).await, all);

    let answer = place.json(&["restore", "good", "--replace"]);
    assert_eq!(judge::texts(&sql, names).await, ["iotflow", "pump-1"]);
    assert_eq!(judge::texts(&sql, row).await, pump, "to the microsecond");
    let kept = Path::new(answer["kept"][0].as_str().expect("it says where")).join("database.json");
    assert!(read(&kept).contains("\"pump-2\""));
    place.done(&["start"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_database_is_taken_back() {
    let place = Place::new();
    place.set_up(&[]);
    place.done(&["backup", "good"]);
    place.done(&["generate-device", "pump-1"]);
    let sql = connect(&place.database_url()).await;
    sql.batch_execute("ALTER TABLE broker_users ADD CONSTRAINT refused CHECK (username = 'never') NOT VALID")
        .await
        .expect("it is ours");
    drop(sql);
    place.done(&["stop"]);
    let files = |place: &Place| -> BTreeMap<_, _> {
        let all = tree(&place.data());
        // The database's own files are the database's affair; its URL has another port, perhaps.
        let ours = |path: &Path| !["postgres", "pgpass"].iter().any(|part| path.starts_with(place.data().join(part)));
        all.into_iter()
            .filter(|(path, _)| ours(path) && !path.ends_with("database-url"))
            .collect()
    };
    let before = files(&place);
    let refusal = place.refusal(&["restore", "good", "--replace"]);
    assert!(refusal.contains("refused") && refusal.contains("as before"), "{refusal}");
    assert!(files(&place) == before, "something changed");
}
