//! `iotflow broker certs`, as it is typed.

use std::process::Command;

#[test]
fn the_command_line_does_all_of_it() {
    let place = tempfile::tempdir().expect("the temporary folder can be written");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_iotflow"))
            .args(["broker", "certs", "--folder", "authority"])
            .args(arguments)
            .current_dir(place.path())
            .output()
            .expect("it is built");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), said, String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let done = |arguments: &[&str]| {
        let (code, said, error) = run(arguments);
        assert_eq!(code, Some(0), "{arguments:?}: {error}");
        said
    };
    let (code, _, error) = run(&["list"]);
    assert!(code == Some(2) && error.contains("iotflow broker certs ca"), "{error}");
    done(&["ca"]);
    let (code, _, error) = run(&["ca"]);
    assert!(code == Some(2) && error.contains("--replace"), "{error}");
    let said = done(&["server", "--name", "localhost", "--name", "127.0.0.1", "--days", "30"]);
    assert!(said.contains("server.key") && said.contains("SIGHUP"), "{said}");
    let said = done(&["device", "pump-1", "pump-2", "--json"]);
    let change: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(change["concerns_broker"], false);
    let serial = change["issued"][1]["serial"].as_str().expect("it has one").to_uppercase();
    done(&["renew", "--device", "pump-1", "--revoke-old"]);
    done(&["revoke", "--serial", &serial]);
    done(&["renew", "--crl"]);
    done(&["renew", "--ca"]);
    let listing: serde_json::Value = serde_json::from_str(&done(&["list", "--json", "--soon", "31"])).expect("JSON");
    let states: Vec<&str> = listing["certificates"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["state"].as_str().expect("it has one"))
        .collect();
    assert_eq!(states, ["replaced", "expiring", "revoked", "revoked", "valid", "valid"]);
    let table = done(&["list"]);
    assert!(
        table.contains("pump-1") && table.contains("devices/pump-1.pem") && table.contains("revoked"),
        "{table}"
    );
    println!("{table}");
}
