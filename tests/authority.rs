//! The certificate authority by itself: what is in its folder, who may read it, and what a crash leaves.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use iotflow::broker::certs::authority::{Authority, Existing, Old};
use iotflow::broker::certs::error::AuthorityError;
use iotflow::broker::certs::index::Which;
use iotflow::broker::certs::listing::State;
use iotflow::protocol::id::DeviceIdRef;
use iotflow::stack::account::Account;
use jiff::{SignedDuration, Timestamp};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(86_400);
const YEAR: Duration = Duration::from_secs(365 * 86_400);

fn id(text: &str) -> DeviceIdRef<'_> {
    DeviceIdRef::parse(text).expect("a good id")
}

fn device(text: &str) -> Which {
    Which::Device(DeviceIdRef::to_owned(id(text)))
}

/// An authority with a server and a device, in `certs` of a folder of its own.
fn authority() -> (TempDir, Authority) {
    let place = tempfile::tempdir().expect("the temporary folder can be written");
    let (mut authority, _) = Authority::create(&place.path().join("certs"), "Test CA", YEAR * 10, Existing::Keep).expect("it is new");
    let names = ["localhost", "127.0.0.1", "broker.example.org"].map(str::to_owned);
    authority.issue_server(&names, YEAR).expect("good names");
    authority.issue_device(id("pump-1"), YEAR).expect("it has none");
    (place, authority)
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder).expect("it is there") {
        let path = entry.expect("it is there").path();
        let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.insert(name, fs::read(&path).expect("it is ours"));
        }
    }
    found
}

fn put_back(folder: &Path, state: &BTreeMap<String, Vec<u8>>) {
    for name in files(folder).keys() {
        fs::remove_file(folder.join(name)).expect("it is ours");
    }
    for (name, bytes) in state {
        fs::write(folder.join(name), bytes).expect("it is ours");
    }
}

fn states(authority: &Authority) -> Vec<(String, State)> {
    let listing = authority.list(Timestamp::now(), DAY);
    listing
        .certificates
        .into_iter()
        .map(|entry| (entry.record.common_name, entry.state))
        .collect()
}

fn expected(states: &[(&str, State)]) -> Vec<(String, State)> {
    states.iter().map(|(name, state)| ((*name).to_owned(), *state)).collect()
}

/// What `openssl verify` says; `at` moves its clock.
fn openssl_verify(folder: &Path, file: &str, options: &[&str], at: Timestamp) -> (bool, String) {
    let output = Command::new("openssl")
        .args(["verify", "-crl_check", "-x509_strict", "-attime", &at.as_second().to_string()])
        .args(["-CAfile", "ca.pem", "-CRLfile", "crl.pem"])
        .args(options)
        .arg(file)
        .current_dir(folder)
        .output()
        .expect("openssl is not installed; on Debian or Ubuntu: apt-get install openssl");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said)
}

#[test]
fn keys_are_private_and_the_broker_gets_the_servers_alone() {
    let (place, mut authority) = authority();
    let broker = Account::for_servers().expect("there is one").lent();
    if let Some((uid, gid)) = broker {
        authority.give_server_key_to(uid, gid).expect("root may");
    }
    authority.renew(&Which::Server, YEAR, Old::Keep).expect("it is there");
    let us = nix::unistd::Uid::effective().as_raw();
    let owner = broker.map_or(us, |(uid, _)| uid);
    for (file, mode, uid) in [
        ("ca.key", 0o600, us),
        ("ca.pem", 0o644, us),
        ("crl.pem", 0o644, us),
        ("issued.json", 0o644, us),
        ("server.key", 0o600, owner),
        ("server.pem", 0o644, us),
        ("devices", 0o700, us),
        ("devices/pump-1.key", 0o600, us),
        ("devices/pump-1.pem", 0o644, us),
    ] {
        let metadata = fs::metadata(place.path().join("certs").join(file)).expect("it is there");
        assert_eq!((metadata.mode() & 0o777, metadata.uid()), (mode, uid), "{file}");
    }
    assert!(!files(place.path()).keys().any(|name| name.ends_with(".new")));
}

#[test]
fn an_authority_is_not_overwritten_unless_told_so() {
    let (place, first) = authority();
    drop(first);
    let folder = place.path().join("certs");
    let before = files(&folder);
    let error = Authority::create(&folder, "Another", YEAR, Existing::Keep).expect_err("there is one");
    let text = error.to_string();
    assert!(text.contains("\"Test CA\"") && text.contains("the 2 certificates"), "{text}");
    assert_eq!(files(&folder), before);

    let (second, _) = Authority::create(&folder, "Another", YEAR, Existing::Destroy).expect("told so");
    assert_eq!(states(&second), expected(&[("Another", State::Valid)]));
    assert_ne!(files(&folder)["ca.key"], before["ca.key"]);
    assert!(!folder.join("devices/pump-1.key").exists());
    assert_eq!(fs::read_dir(place.path()).expect("it is ours").count(), 1, "nothing lies beside it");

    let elsewhere = place.path().join("home");
    fs::create_dir(&elsewhere)
        .and_then(|()| fs::write(elsewhere.join("letter"), ""))
        .expect("it is ours");
    let refused = Authority::create(&elsewhere, "Another", YEAR, Existing::Destroy);
    assert!(matches!(refused, Err(AuthorityError::NotEmpty(_))), "{refused:?}");
    assert!(elsewhere.join("letter").exists());
}

#[test]
fn a_crash_leaves_a_deed_undone_or_done() {
    let (place, mut authority) = authority();
    let folder = place.path().join("certs");
    let before = files(&folder);
    let change = authority.renew(&device("pump-1"), YEAR, Old::Revoke).expect("it has one");
    drop(authority);
    let after = files(&folder);
    let written: Vec<String> = change
        .files
        .iter()
        .map(|path| path.strip_prefix(&folder).expect("it is below").to_string_lossy().into_owned())
        .collect();
    assert_eq!(written.len(), 3, "key, certificate, list: {written:?}");

    // Every moment between two renames: so many files staged, the index written or not, so many files promoted.
    for staged in 0..=written.len() {
        let mut state = before.clone();
        for name in &written[..staged] {
            state.insert(format!("{name}.new"), after[name].clone());
        }
        put_back(&folder, &state);
        drop(Authority::open(&folder).expect("it was before the deed"));
        assert_eq!(files(&folder), before, "{staged} files staged");
    }
    for promoted in 0..=written.len() {
        let mut state = before.clone();
        state.insert("issued.json".to_owned(), after["issued.json"].clone());
        for name in &written[..promoted] {
            state.insert(name.clone(), after[name].clone());
        }
        for name in &written[promoted..] {
            state.insert(format!("{name}.new"), after[name].clone());
        }
        put_back(&folder, &state);
        drop(Authority::open(&folder).expect("it was after the deed"));
        assert_eq!(files(&folder), after, "{promoted} files promoted");
    }
}

#[test]
fn processes_take_turns() {
    let (place, first) = authority();
    drop(first);
    let folder = place.path().join("certs");
    let issue = &|number: usize| {
        let mut authority = Authority::open(&folder).expect("its turn comes");
        authority.issue_device(id(&format!("pump-{number}")), YEAR).expect("it has none");
    };
    std::thread::scope(|scope| {
        for worker in 1..5 {
            scope.spawn(move || (0..5).for_each(|each| issue(10 * worker + each)));
        }
    });
    let authority = Authority::open(&folder).expect("nobody holds it");
    let mut names: Vec<String> = states(&authority).into_iter().map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 3 + 20);
    assert!(
        names
            .iter()
            .filter(|name| name.starts_with("pump"))
            .all(|name| folder.join(format!("devices/{name}.pem")).exists())
    );
}

#[test]
fn of_two_who_make_an_authority_at_once_one_does() {
    let place = tempfile::tempdir().expect("the temporary folder can be written");
    let folder = place.path().join("certs");
    let start = std::sync::Barrier::new(8);
    let create = &|worker: usize| {
        start.wait();
        Authority::create(&folder, &format!("CA {worker}"), YEAR, Existing::Keep).is_ok()
    };
    let made: Vec<bool> = std::thread::scope(|scope| {
        let workers = [0, 1, 2, 3, 4, 5, 6, 7].map(|worker| scope.spawn(move || create(worker)));
        workers.map(|worker| worker.join().expect("it does not panic")).to_vec()
    });
    let winner = made.iter().position(|made| *made).expect("one does");
    assert_eq!(made.iter().filter(|made| **made).count(), 1);
    let authority = Authority::open(&folder).expect("it is whole");
    assert_eq!(states(&authority), expected(&[(&format!("CA {winner}"), State::Valid)]));
    assert_eq!(
        fs::read_dir(place.path()).expect("it is ours").count(),
        1,
        "no key of another lies about"
    );
}

#[test]
fn the_list_says_how_each_stands() {
    let (place, mut authority) = authority();
    authority
        .issue_devices(&[id("pump-2"), id("aa:bb:cc")], DAY * 10)
        .expect("they have none");
    authority.renew(&device("pump-1"), YEAR, Old::Keep).expect("it has one");
    authority.revoke(&device("aa:bb:cc")).expect("it has one");
    let all = expected(&[
        ("Test CA", State::Valid),
        ("localhost", State::Valid),
        ("pump-1", State::Replaced),
        ("pump-2", State::Valid),
        ("aa:bb:cc", State::Revoked),
        ("pump-1", State::Valid),
    ]);
    assert_eq!(states(&authority), all);
    drop(authority);
    let authority = Authority::open(&place.path().join("certs")).expect("it is there");
    assert_eq!(states(&authority), all, "as it is on the disk");

    let what = |now, within| {
        authority
            .expires_soon(now, within)
            .into_iter()
            .map(|ending| ending.what)
            .collect::<Vec<_>>()
    };
    let now = Timestamp::now();
    assert_eq!(what(now, DAY), Vec::<String>::new());
    assert_eq!(what(now, DAY * 11), ["the certificate of device pump-2"]);
    let later = now + SignedDuration::from_hours(21 * 24);
    assert_eq!(what(later, DAY), ["the certificate of device pump-2", "the revocation list"]);
    assert_eq!(authority.list(later, DAY).certificates[3].state, State::Expired);
}

#[test]
fn what_must_not_be_done_is_refused() {
    let (_place, mut authority) = authority();
    let mut refused = |outcome: fn(&mut Authority) -> Result<iotflow::broker::certs::authority::Change, AuthorityError>| {
        outcome(&mut authority).expect_err("it must not be done").to_string()
    };
    assert!(refused(|ca| ca.issue_device(id("pump-1"), YEAR)).contains("renew it, or revoke it first"));
    assert!(refused(|ca| ca.issue_device(id("pump-2"), YEAR * 11)).contains("renew the authority first"));
    assert!(refused(|ca| ca.renew(&device("pump-2"), YEAR, Old::Keep)).contains("no certificate of device pump-2"));
    assert!(refused(|ca| ca.revoke(&device("pump-2"))).contains("no certificate of device pump-2"));
    assert!(refused(|ca| ca.revoke(&Which::Ca)).contains("cannot revoke itself"));
    assert!(refused(|ca| ca.renew(&Which::Ca, YEAR, Old::Revoke)).contains("cannot revoke itself"));
    assert!(refused(|ca| ca.issue_server(&["not a host".to_owned()], YEAR)).contains("neither an address nor a host name"));

    authority.revoke(&device("pump-1")).expect("it has one");
    assert!(matches!(
        authority.renew(&device("pump-1"), YEAR, Old::Keep),
        Err(AuthorityError::Revoked(_))
    ));
    assert!(matches!(
        authority.revoke(&device("pump-1")),
        Err(AuthorityError::NothingToRevoke(_))
    ));
    authority.issue_device(id("pump-1"), YEAR).expect("the old one is revoked");

    let other = tempfile::tempdir().expect("the temporary folder can be written");
    Authority::create(&other.path().join("certs"), "Other", YEAR, Existing::Keep).expect("it is new");
    fs::copy(other.path().join("certs/ca.key"), authority.folder().join("ca.key")).expect("it is ours");
    assert!(matches!(authority.refresh_crl(), Err(AuthorityError::WrongKey(_))));
}

#[test]
fn openssl_takes_what_is_good_and_nothing_else() {
    let (place, mut authority) = authority();
    let folder = place.path().join("certs");
    authority
        .issue_devices(&[id("pump-2"), id(".."), id("-v")], DAY * 10)
        .expect("they have none");
    authority.revoke(&device("pump-1")).expect("it has one");
    let now = Timestamp::now();
    let verify = |file: &str, options: &[&str], at: Timestamp| openssl_verify(&folder, file, options, at);
    let client = ["-purpose", "sslclient"];
    for file in ["devices/pump-2.pem", "devices/%2E..pem", "devices/%2Dv.pem"] {
        assert!(verify(file, &client, now).0, "{}", verify(file, &client, now).1);
    }
    for name in [
        ["-verify_hostname", "localhost"],
        ["-verify_hostname", "broker.example.org"],
        ["-verify_ip", "127.0.0.1"],
    ] {
        let options = [["-purpose", "sslserver"], name].concat();
        assert!(verify("server.pem", &options, now).0, "{}", verify("server.pem", &options, now).1);
    }
    let refused = |file: &str, options: &[&str], at: Timestamp, why: &str| {
        let (good, said) = verify(file, options, at);
        assert!(!good && said.contains(why), "{file}: {said}");
    };
    refused("devices/pump-1.pem", &client, now, "certificate revoked");
    refused("server.pem", &client, now, "nsuitable certificate purpose");
    refused(
        "devices/pump-2.pem",
        &["-purpose", "sslserver"],
        now,
        "nsuitable certificate purpose",
    );
    refused(
        "server.pem",
        &["-verify_hostname", "elsewhere.example.org"],
        now,
        "ostname mismatch",
    );

    // The edges in time, to the second, by OpenSSL's own clock.
    let listing = authority.list(now, DAY);
    let (second, ends) = (SignedDuration::from_secs(1), listing.certificates[3].record.not_after);
    assert!(verify("devices/pump-2.pem", &client, ends - second).0);
    refused("devices/pump-2.pem", &client, ends + second, "certificate has expired");
    let over = listing.crl.next_update;
    assert!(verify("server.pem", &[], over - second).0);
    refused("server.pem", &[], over + second, "CRL has expired");

    // A new list is good for longer, and still has the device on it.
    fs::write(folder.join("old-crl.pem"), fs::read(folder.join("crl.pem")).expect("it is there")).expect("it is ours");
    authority.refresh_crl().expect("the key is there");
    assert_eq!(authority.list(now, DAY).crl.number, listing.crl.number + 1);
    refused("devices/pump-1.pem", &client, now, "certificate revoked");

    // The authority renewed: what it issued before is good under the new certificate.
    authority.renew(&Which::Ca, YEAR * 20, Old::Keep).expect("it is there");
    assert!(verify("devices/pump-2.pem", &client, now).0);
    authority
        .issue_device(id("pump-3"), YEAR * 11)
        .expect("the authority lasts longer now");
    let late = now + SignedDuration::from_hours(24);
    assert!(verify("devices/pump-3.pem", &client, late).0);
}
