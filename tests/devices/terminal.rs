//! `iotflow device` and `iotflow group`: the same acts from the terminal, by the real binary.

use std::process::Output;

use iotflow::identity::device_keys;
use serde_json::{Value, json};

use crate::support::judge::{number, texts};
use crate::trial::{Trial, assert_exit, errors, out};

fn done(output: &Output) -> &str {
    assert_exit(output, 0);
    out(output)
}

fn parsed(output: &Output) -> Value {
    serde_json::from_str(done(output)).expect("JSON")
}

#[tokio::test]
async fn a_device_is_managed_from_the_terminal() {
    let trial = Trial::start().await;
    let sql = trial.sql().await;
    let name = "Bob's \u{1b}sensor".replace('\u{1b}', "");
    let register = [
        "device",
        "register",
        "a",
        "--name",
        &name,
        "--type",
        "temp > 30",
        "--tag",
        "Ünit 7",
        "--group",
        "north",
        "--api-key",
    ];
    let made = trial.run(&register);
    let lines: Vec<&str> = done(&made).lines().collect();
    assert!(
        lines.len() == 3 && lines[0] == "username=a" && lines[1].starts_with("password="),
        "{lines:?}"
    );
    let key = lines[2].strip_prefix("api_key=").expect("a key");
    assert_eq!(device_keys::verify(&sql, key).await.expect("it is taken").id.as_str(), "a");
    assert!(!errors(&made).contains(key), "secrets stand on standard output alone");
    let twice = trial.run(&register);
    assert_exit(&twice, 1);
    assert!(
        out(&twice).is_empty() && errors(&twice).contains("there is a device a already"),
        "{twice:?}"
    );

    let shown = parsed(&trial.run(&["device", "show", "a", "--json"]));
    assert_eq!((&shown["name"], &shown["groups"]), (&json!("Bob's sensor"), &json!(["north"])));
    let shown = trial.run(&["device", "show", "a"]);
    assert!(done(&shown).contains("at the broker, and a key for HTTP") && out(&shown).contains("Bob's sensor"));
    let update = [
        "device",
        "update",
        "a",
        "--no-name",
        "--metadata",
        "{\"hall\": 3}",
        "--revision",
        "1",
    ];
    assert_eq!(done(&trial.run(&update)), "a is at revision 2");
    let late = trial.run(&update);
    assert_exit(&late, 1);
    assert!(errors(&late).contains("is at revision 2, and not at 1"));
    assert!(done(&trial.run(&["device", "list"])).contains("Ünit 7"));
    let listed = trial.run(&["device", "list", "--json", "--tag", "Ünit 7", "--unseen-for", "1h", "--enabled"]);
    assert_eq!(parsed(&listed)["device_id"], "a");
    assert_eq!(
        done(&trial.run(&["device", "list", "--status", "online"])),
        "there is no device that fits"
    );

    let rotated = parsed(&trial.run(&["device", "rotate", "a", "--both", "--json"]));
    let new = rotated["credentials"]["api_key"].as_str().expect("a key");
    assert!(device_keys::verify(&sql, key).await.is_err() && device_keys::verify(&sql, new).await.is_ok());
    assert_eq!(done(&trial.run(&["device", "disable", "a"])), "a is shut out");
    assert!(device_keys::verify(&sql, new).await.is_err());
    assert_eq!(done(&trial.run(&["device", "enable", "a"])), "a is let in");
    assert!(done(&trial.run(&["device", "revoke", "a"])).contains("its key is gone"));

    let set = trial.run_with(
        &["device", "config", "set", "a", "-", "--version", "0"],
        &[],
        "{\"interval\": 1.50}\n",
    );
    assert_eq!(done(&set), "the configuration of a is at version 1");
    assert!(done(&trial.run(&["device", "config", "get", "a"])).contains("{\"interval\": 1.50}"));
    assert_eq!(parsed(&trial.run(&["device", "config", "get", "a", "--json"]))["in_sync"], false);
    assert!(done(&trial.run(&["device", "config", "delete", "a"])).contains("from version 2 on"));

    assert!(done(&trial.run(&["device", "delete", "a"])).starts_with("deleted a"));
    assert_exit(&trial.run(&["device", "show", "a"]), 1);
    let account = nix::unistd::User::from_uid(nix::unistd::Uid::current());
    let account = account.expect("accounts can be read").expect("ours is one").name;
    let actors = texts(&sql, "SELECT DISTINCT actor FROM audit_log").await;
    assert_eq!(actors, [account]);
}

#[tokio::test]
async fn groups_are_managed_from_the_terminal() {
    let trial = Trial::start().await;
    for device in ["a", "b"] {
        done(&trial.run(&["device", "register", device, "--no-mqtt", "--tag", device]));
    }
    done(&trial.run(&["group", "create", "north", "--name", "Halle <3>"]));
    assert_eq!(done(&trial.run(&["group", "add", "north", "a", "b"])), "2 devices joined north");
    assert_eq!(done(&trial.run(&["group", "remove", "north", "a"])), "1 devices left north");
    assert_eq!(
        parsed(&trial.run(&["group", "show", "north", "--json"]))["member_ids"],
        json!(["b"])
    );
    let unknown = trial.run(&["group", "add", "north", "x"]);
    assert_exit(&unknown, 1);
    assert!(errors(&unknown).contains("there is no device x"));
    let dynamic = parsed(&trial.run(&["group", "create", "reds", "--match-tag", "a", "--json"]));
    assert_eq!((&dynamic["members"], &dynamic["dynamic"]), (&json!(1), &json!(true)));
    assert_exit(&trial.run(&["group", "add", "reds", "b"]), 1);
    assert!(done(&trial.run(&["group", "update", "reds", "--match-tag", "b", "--name", "Reds"])).contains("revision 2"));
    let listed = trial.run(&["group", "list"]);
    assert!(done(&listed).contains("with the tag b") && out(&listed).contains("Halle <3>"));
    assert_eq!(done(&trial.run(&["group", "delete", "north"])), "deleted north");
    assert_exit(&trial.run(&["group", "show", "north"]), 1);
}

#[tokio::test]
async fn a_fleet_is_brought_and_taken_at_the_terminal() {
    let trial = Trial::start().await;
    let sql = trial.sql().await;
    let file = trial.folder.path().join("fleet.csv");
    std::fs::write(&file, "device_id,name\na,\"Bob's, sensor\"\nb b,x\nc,\n").expect("the folder is ours");
    let file = file.to_str().expect("UTF-8");
    let dry = trial.run(&["device", "import", file, "--dry-run"]);
    assert_exit(&dry, 1);
    assert!(errors(&dry).contains("line 3: device_id \"b b\"") && errors(&dry).contains("nothing was changed: 2 created"));
    assert_eq!(number(&sql, "SELECT count(*) FROM devices").await, 0);
    let made = trial.run(&["device", "import", file, "--mqtt"]);
    assert_exit(&made, 1);
    let lines: Vec<&str> = out(&made).lines().collect();
    assert!(
        lines.len() == 3 && lines[0] == "device_id,username,password,api_key" && lines[1].starts_with("a,a,"),
        "{lines:?}"
    );
    let taken = trial.run(&["device", "export", "--format", "ndjson"]);
    assert_eq!(done(&taken).lines().count(), 2);
    let again = trial.run_with(&["device", "import", "-", "--format", "ndjson", "--json"], &[], out(&taken));
    assert_eq!(parsed(&again)["unchanged"], 2);
}

#[tokio::test]
async fn a_command_line_that_makes_no_sense_is_refused_before_anything_is_done() {
    let trial = Trial::start().await;
    let sql = trial.sql().await;
    for (arguments, reason) in [
        (&["device", "register", "a b"][..], "1 to 64 of the characters"),
        (&["device", "register", "a", "--name", "two\nlines"], "one line"),
        (&["device", "register", "a", "--metadata", "[]"], "a JSON object"),
        (&["device", "list", "--seen-within", "soon"], "a time span such as"),
        (&["device", "list", "--status", "asleep"], "online, offline, unknown"),
        (&["device", "update", "a", "--name", "x", "--no-name"], "cannot be used with"),
        (&["device", "import", "nothing.txt"], "say which with --format"),
        (&["device", "import", "nothing.csv"], "cannot be opened"),
        (&["group", "create", "a/b"], "a group id is"),
        (&["group", "add", "north"], "<DEVICE>"),
    ] {
        let output = trial.run(arguments);
        assert_exit(&output, 2);
        assert!(errors(&output).contains(reason), "{reason:?} is missing in {output:?}");
    }
    assert_eq!(number(&sql, "SELECT count(*) FROM audit_log").await, 0);
}

#[tokio::test]
async fn every_shell_gets_its_completions() {
    let trial = Trial::without_schema().await;
    for shell in ["bash", "zsh", "fish"] {
        let script = trial.run(&["completions", shell]);
        for word in ["device", "rotate", "group", "match-tag"] {
            assert!(done(&script).contains(word), "{shell}: {word}");
        }
    }
    let bash = trial.folder.path().join("iotflow.bash");
    std::fs::write(&bash, done(&trial.run(&["completions", "bash"]))).expect("the folder is ours");
    let complete = "source \"$0\"; COMP_WORDS=(iotflow dev); COMP_CWORD=1; _iotflow iotflow dev iotflow; echo \"${COMPREPLY[@]}\"";
    let completed = std::process::Command::new("bash")
        .args(["-c", complete])
        .arg(&bash)
        .output()
        .expect("bash is there");
    assert_eq!(out(&completed), "device");
}
