//! Many devices are announced from a file: CSV, a device a line.

use anyhow::Context as _;
use serde::Deserialize;
use tokio_postgres::Client;

use crate::cli::terminal::printable;
use crate::identity::audit::Actor;
use crate::operations::discovery::{self, DecideError};
use crate::protocol::id::DeviceIdRef;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    device_id: String,
    expected_key: Option<String>,
}

/// Announces the devices of a file, each line by itself; says which lines make no sense, and returns whether all did.
pub(super) async fn announce(client: &mut Client, actor: &Actor, file: &str) -> anyhow::Result<bool> {
    let mut reader = csv::Reader::from_path(file).with_context(|| format!("{file:?} cannot be read"))?;
    let (mut announced, mut failed) = (0_u64, 0_u64);
    // The first line has the names.
    for (number, line) in (2_u64..).zip(reader.deserialize()) {
        match one(client, actor, line).await? {
            Ok(()) => announced += 1,
            Err(fault) => {
                failed += 1;
                eprintln!("iotflow: line {number}: {}", printable(&fault));
            }
        }
    }
    println!("{announced} devices are expected");
    Ok(failed == 0)
}

/// A line's fault is its own; one of the database's ends it all.
async fn one(client: &mut Client, actor: &Actor, line: Result<Line, csv::Error>) -> anyhow::Result<Result<(), String>> {
    let line = match line {
        Ok(line) => line,
        Err(error) => return Ok(Err(error.to_string())),
    };
    let device = match DeviceIdRef::parse(&line.device_id) {
        Ok(device) => device,
        Err(error) => return Ok(Err(format!("{}: {error}", line.device_id))),
    };
    let key = match line.expected_key.as_deref().map(discovery::public_key).transpose() {
        Ok(key) => key,
        Err(error) => return Ok(Err(error.to_string())),
    };
    match discovery::expect(client, actor, device, key.as_deref()).await {
        Ok(true) => Ok(Ok(())),
        Ok(false) => Ok(Err(format!("there is a registration of {device} already"))),
        Err(DecideError::Database(error)) => Err(error.into()),
        Err(refused) => Ok(Err(refused.to_string())),
    }
}
