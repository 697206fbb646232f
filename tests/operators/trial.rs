//! A PostgreSQL, and the binary that is run on it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use iotflow::db::config::Config;
use iotflow::db::migrate::migrate;
use iotflow::identity::audit::Actor;
use iotflow::identity::principal::Role;
use iotflow::identity::tokens::{self, NewToken, TokenName};
use iotflow::stack::postgres::Postgres;
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::support::servers::{connect, folder, start_postgres};

/// A database with the schema, and the binary's place to run in.
pub struct Trial {
    pub postgres: Postgres,
    pub folder: TempDir,
}

impl Trial {
    pub async fn start() -> Self {
        let trial = Self::without_schema().await;
        let config = Config {
            url: trial.postgres.url(),
            ..Config::default()
        };
        migrate(&config).await.expect("it migrates");
        trial
    }

    pub async fn without_schema() -> Self {
        let folder = folder();
        let (postgres, _) = start_postgres(folder.path()).await;
        Self { postgres, folder }
    }

    pub async fn sql(&self) -> Client {
        connect(self.postgres.url().reveal()).await
    }

    pub fn log(&self) -> PathBuf {
        self.folder.path().join("iotflow.log")
    }

    /// Runs `iotflow` with these arguments, variables and standard input.
    pub fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Output {
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_iotflow")])
            .args(arguments)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", self.postgres.url().reveal())
            .env("LOG_LEVEL", "trace")
            .env("LOG_FILE", self.log())
            .envs(variables.iter().copied())
            .current_dir(self.folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("setpriv (util-linux) can be started");
        // A command that wants no input may have ended before it got any.
        drop(child.stdin.take().expect("it is piped").write_all(input.as_bytes()));
        child.wait_with_output().expect("it is our child")
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, &[], "")
    }
}

pub fn out(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).expect("UTF-8").trim_end()
}

pub fn errors(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).expect("UTF-8")
}

pub fn assert_exit(output: &Output, code: i32) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
}

pub fn new_token(name: &str, role: Role) -> NewToken {
    NewToken {
        name: TokenName::parse(name).expect("a good name"),
        role,
        expiry: Some(tokens::DEFAULT_EXPIRY),
    }
}

pub fn ada() -> Actor {
    Actor::new("ada", "192.0.2.7")
}
