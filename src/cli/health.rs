//! `iotflow health`: asks a running service whether it is ready; for containers, which may have no other client.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, ArgMatches, Command};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{EXIT_FAILED, EXIT_OK, runtime};

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn command() -> Command {
    Command::new("health").about("Ask a running service whether it is ready").arg(
        Arg::new("address")
            .default_value("127.0.0.1:8080")
            .help("Address and port of its HTTP listener"),
    )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let address = matches.get_one::<String>("address").context("it has a default")?;
    let answer = runtime()?
        .block_on(async {
            tokio::time::timeout(PATIENCE, ask(address, "/readyz"))
                .await
                .context("no answer in time")?
        })
        .with_context(|| format!("asking {address} failed"))?;
    let ready = answer.starts_with("HTTP/1.1 200") || answer.starts_with("HTTP/1.0 200");
    println!(
        "{}",
        answer.split_once("\r\n\r\n").map_or(answer.as_str(), |(_, body)| body).trim_end()
    );
    Ok(ExitCode::from(if ready { EXIT_OK } else { EXIT_FAILED }))
}

/// The whole answer, head and all.
pub(super) async fn ask(address: &str, page: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(format!("GET {page} HTTP/1.0\r\nHost: {address}\r\n\r\n").as_bytes())
        .await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
