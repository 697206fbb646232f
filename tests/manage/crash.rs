//! Whoever writes the broker's files is killed in the middle, or finds no room: what the broker reads is one whole set all the
//! same, who was let in is let in, and the next change goes through.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use iotflow::broker::passwords::Hash;
use iotflow::identity::users;
use iotflow::observe::secret::Secret;
use iotflow::protocol::id::Username;
use iotflow::protocol::rights::Role;
use tokio_postgres::Client;

use crate::containers::Containers;
use crate::place::{LISTENERS, Place};
use crate::support::servers::start_postgres;
use crate::support::{eventually, pause, size};

const PASSWORD: &str = "good-before-and-after";
/// More than the smallest set has, and less than the files of some dozens of users take.
const TOO_FEW_BYTES: u64 = 4096;
const MANY: usize = 60;

/// Reads `access/` as the broker would, and more strictly: every file is of the same set.
fn assert_whole(access: &Path) {
    let read = |name: &str| std::fs::read_to_string(access.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let canary = read("canary");
    let [name, password, allowed, _] = canary.lines().collect::<Vec<_>>()[..] else {
        panic!("four lines are expected: {canary}")
    };
    let logins = |file: &str| -> Vec<(String, Hash)> {
        let text = read(file);
        assert!(text.ends_with('\n'), "{file} ends in the middle");
        let line = |line: &str| {
            let (name, hash) = line.split_once(':').unwrap_or_else(|| panic!("{file}: {line}"));
            (
                name.to_owned(),
                Hash::parse(hash).unwrap_or_else(|error| panic!("{file}: {line}: {error}")),
            )
        };
        text.lines().map(line).collect()
    };
    for file in ["passwords", "staff"] {
        let (_, hash) = logins(file)
            .into_iter()
            .find(|(login, _)| login == name)
            .expect("the canary may log in");
        assert!(hash.is_of(&Secret::new(password)), "{file} is of another set");
    }
    for file in ["acl", "acl.devices"] {
        let text = read(file);
        assert!(
            text.ends_with('\n') && text.contains(&format!("topic write {allowed}\n")),
            "{file} is of another set"
        );
    }
    let members: BTreeSet<String> = read("members").lines().map(str::to_owned).collect();
    let known: BTreeSet<String> = logins("passwords")
        .into_iter()
        .map(|(login, _)| login)
        .filter(|login| login != name)
        .collect();
    assert_eq!(members, known, "members is of another set");
}

async fn create(sql: &Client, name: &str) {
    let hash = Hash::of_generated(&Secret::new(PASSWORD)).expect("randomness");
    users::create(sql, &Username::parse(name).expect("a name"), Role::Device, Some(hash.as_str()))
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
}

fn random_moment(within: Duration) -> Duration {
    within.mul_f64(fastrand::f64())
}

#[tokio::test]
async fn an_agent_that_is_killed_at_any_moment_leaves_one_whole_set() {
    let mut containers = Containers::start().await;
    create(&containers.sql, "first").await;
    containers.until_in_force().await;
    for round in 0..size(15, 300) {
        let name = format!("of-round-{round}");
        // In turn: while it waits for more changes and then writes, and while it begins and finds itself behind.
        if round % 2 == 0 {
            create(&containers.sql, &name).await;
            pause(random_moment(Duration::from_millis(500))).await;
            containers.kill_agent();
        } else {
            containers.kill_agent();
            create(&containers.sql, &name).await;
            containers.start_agent(None);
            pause(random_moment(Duration::from_millis(300))).await;
            containers.kill_agent();
        }
        assert_whole(&containers.access());
        assert!(containers.lets_in("first", PASSWORD).await, "round {round}");
        containers.start_agent(None);
        containers.until_in_force().await;
        assert_whole(&containers.access());
        assert!(containers.lets_in(&name, PASSWORD).await, "round {round}");
    }
}

#[tokio::test]
async fn an_agent_without_room_for_the_files_leaves_the_old_ones() {
    let mut containers = Containers::start().await;
    create(&containers.sql, "first").await;
    containers.until_in_force().await;
    containers.kill_agent();
    for number in 0..MANY {
        create(&containers.sql, &format!("later-{number}")).await;
    }
    let before = std::fs::read(containers.access().join("passwords")).expect("it is there");
    containers.start_agent(Some(TOO_FEW_BYTES));
    eventually("it has tried and failed", async || {
        (containers.agent_has_ended() || containers.has_alarm().await).then_some(())
    })
    .await;
    assert_whole(&containers.access());
    assert_eq!(std::fs::read(containers.access().join("passwords")).expect("it is there"), before);
    assert!(containers.lets_in("first", PASSWORD).await && !containers.lets_in("later-0", PASSWORD).await);
    containers.kill_agent();
    containers.start_agent(None);
    containers.until_in_force().await;
    assert_whole(&containers.access());
    assert!(containers.lets_in("first", PASSWORD).await && containers.lets_in("later-0", PASSWORD).await);
}

#[tokio::test]
async fn a_command_that_is_killed_or_finds_no_room_leaves_one_whole_set() {
    let mut place = Place::new();
    let (postgres, _) = start_postgres(place.folder.path()).await;
    place.environment.push(("DATABASE_URL".into(), postgres.url().reveal().into()));
    place.does(&[&["setup", "--no-start"], LISTENERS].concat());
    // Nothing keeps the files while the broker is stopped, so each command writes them itself.
    let begun = Instant::now();
    place.does(&["create-user", "first", PASSWORD]);
    let whole = begun.elapsed();
    let access = place.path(".iotflow/broker/access");
    for round in 0..size(15, 300) {
        let name = format!("of-round-{round}");
        let mut child = place
            .command(&["create-user", &name])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the script can be started");
        pause(random_moment(whole)).await;
        child.kill().expect("it is our child");
        child.wait().expect("it is our child");
        assert_whole(&access);
    }
    let sql = place.sql().await;
    for number in 0..MANY {
        create(&sql, &format!("later-{number}")).await;
    }
    assert_whole(&access);
    let before = std::fs::read(access.join("passwords")).expect("it is there");
    let script = place.command(&["create-user", "too-much", PASSWORD]);
    let mut limited = std::process::Command::new("prlimit");
    limited
        .arg(format!("--fsize={TOO_FEW_BYTES}"))
        .arg("--")
        .arg(script.get_program())
        .args(script.get_args());
    for (name, value) in script.get_envs() {
        limited.env(name, value.expect("it is set"));
    }
    let status = limited
        .current_dir(place.folder.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .expect("prlimit (util-linux) can be started");
    assert!(!status.success());
    assert_whole(&access);
    assert_eq!(std::fs::read(access.join("passwords")).expect("it is there"), before);

    place.does(&["create-user", "last", PASSWORD]);
    assert_whole(&access);
    place.does(&["start"]);
    for name in ["first", "last", "later-0", "too-much"] {
        place.does(&["test", name, PASSWORD]);
    }
}
