//! The simulator's command line, as people meet it.

use std::process::Command;

#[test]
fn a_scenario_that_cannot_be_played_is_refused_with_the_reason() {
    let output = Command::new(env!("CARGO_BIN_EXE_iotflow-load"))
        .args(["run", "--qos", "3"])
        .output()
        .expect("it can be started");
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("qos is 3; 0, 1 or 2 is expected"), "{text}");
}
