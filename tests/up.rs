//! `iotflow up`, as a newcomer meets it.

mod support;

use std::path::Path;
use std::process::{Command, Output};

use support::servers::folder;

fn up(data: &Path, arguments: &[&str]) -> Output {
    assert!(
        Path::new(env!("CARGO_BIN_EXE_iotflow")).with_file_name("iotflow-load").exists(),
        "iotflow-load is not built: run `cargo build --workspace`, or ./dev test"
    );
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_iotflow"), "up", "--data"])
        .arg(data)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(data)
        .output()
        .expect("setpriv (util-linux) can be started")
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn it_ends_by_itself_with_an_account_that_balances_and_a_second_run_keeps_the_data() {
    let folder = folder();
    for round in 1..=2 {
        let output = up(folder.path(), &["--for", "4s", "--rate", "500"]);
        let text = text(&output);
        assert!(output.status.success(), "round {round}: {}\n{text}", output.status);
        for expected in [
            "published ",
            " = committed ",
            "lost 0, doubled 0, unexpected 0",
            "none is lost",
            "mosquitto_pub -t iotflow/devices/my-sensor/",
            "psql -h 127.0.0.1",
            "/metrics/qos",
        ] {
            assert!(text.contains(expected), "round {round}: {expected:?} is missing in\n{text}");
        }
    }
    assert!(folder.path().join("postgres/data/PG_VERSION").exists());
    let log = std::fs::read_to_string(folder.path().join("iotflow.log")).expect("it is written");
    assert_eq!(
        log.matches("migrated").count(),
        1,
        "the second run found the schema as it was:\n{log}"
    );
    assert_eq!(
        log.matches("resumed=true").count(),
        3,
        "the second run resumed all sessions that last, the courier's too:\n{log}"
    );
}

#[test]
fn a_command_line_that_makes_no_sense_is_refused() {
    let folder = folder();
    let output = up(folder.path(), &["--for", "soon"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(
        text(&output).contains("a time span such as 20s or 5m is expected"),
        "{}",
        text(&output)
    );
}
