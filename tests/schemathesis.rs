//! The service against programs that read its description: a validator, and schemathesis, which sends what fits the description and
//! what does not. Both are Python's; `./dev api` fetches them and runs this.

#[path = "api/trial.rs"]
#[allow(dead_code, reason = "the API's own tests use all of it")]
mod trial;

#[path = "support/mod.rs"]
mod support;

use std::process::Command;

use trial::Trial;

fn program(name: &str) -> Command {
    let folder =
        std::env::var("IOTFLOW_API_TOOLS").expect("IOTFLOW_API_TOOLS names the folder of st and openapi-spec-validator: run ./dev api");
    Command::new(std::path::Path::new(&folder).join(name))
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "fetches programs and takes minutes: ./dev api runs it"]
async fn a_validator_passes_the_description_and_schemathesis_finds_nothing() {
    let trial = Trial::with(&[("API_RATE", "0"), ("API_LOCKOUT_FAILURES", "0")]).await;
    let folder = trial.servers.path().join("document");
    std::fs::create_dir(&folder).expect("it is ours");
    let document = folder.join("openapi.json");
    std::fs::write(&document, trial.nobody.get("/api/v1/openapi.json").await.body).expect("it is ours");
    let valid = program("openapi-spec-validator").arg(&document).status().expect("it runs");
    assert!(valid.success(), "the description is not valid");

    let token = trial.admin.token.clone().expect("an admin has one");
    let examples = std::env::var("IOTFLOW_API_EXAMPLES").unwrap_or_else(|_| "25".to_owned());
    let seed = std::env::var("IOTFLOW_API_SEED").unwrap_or_else(|_| "1".to_owned());
    let tried = program("st")
        .args([
            "--config-file",
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/schemathesis.toml"),
        ])
        .args(["run", &format!("http://{}/api/v1/openapi.json", trial.service.address)])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        .args([
            "--checks",
            "all",
            "--max-examples",
            &examples,
            "--continue-on-failure",
            "--request-timeout",
            // Whoever waits for a device waits a minute at most, and no answer takes longer than API_TIMEOUT.
            "90",
        ])
        .args(["--seed", &seed])
        .current_dir(&folder)
        .status()
        .expect("it runs");
    let errors: Vec<_> = trial
        .service
        .log()
        .lines()
        .filter(|line| line.contains("\"ERROR\""))
        .map(str::to_owned)
        .collect();
    assert!(errors.is_empty(), "{errors:#?}");
    assert!(tried.success(), "schemathesis found something");
}
