//! Whole fleets from a file and to standard output.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::cli::terminal::{self, printable};
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::identity::audit::Actor;
use crate::operations::bulk::{self as operations, Format, MAX_FAULTS, Report};

use super::ask::ToImport;
use super::manage::issued;

/// The largest file: some hundred times what the most lines there may be take.
const MAX_FILE_BYTES: u64 = 1024 * 1024 * 1024;

/// What is in a file, or comes on standard input for `-`.
pub(super) fn read(file: &str) -> anyhow::Result<Vec<u8>> {
    let mut data = Vec::new();
    if file == "-" {
        std::io::stdin().take(MAX_FILE_BYTES + 1).read_to_end(&mut data)?;
    } else {
        let file_there = std::fs::File::open(file).with_context(|| format!("{file:?} cannot be opened"))?;
        file_there.take(MAX_FILE_BYTES + 1).read_to_end(&mut data)?;
    }
    if data.len() as u64 > MAX_FILE_BYTES {
        bail!("{file:?} is larger than {MAX_FILE_BYTES} bytes; bring it in parts");
    }
    Ok(data)
}

/// How a file is written: as is said, else as its name ends.
pub(super) fn format(said: Option<&str>, file: &str) -> anyhow::Result<Format> {
    if let Some(said) = said {
        return Ok(said.parse()?);
    }
    match Path::new(file).extension().and_then(|ending| ending.to_str()) {
        Some("csv") => Ok(Format::Csv),
        Some("ndjson" | "jsonl") => Ok(Format::Ndjson),
        _ => bail!("{file:?} ends neither in .csv nor in .ndjson; say which with --format"),
    }
}

pub(super) async fn import(client: &mut Client, wanted: &ToImport) -> anyhow::Result<u8> {
    let actor = Actor::of_command_line();
    let report = operations::import(client, &actor, wanted.format, &wanted.data, wanted.options).await?;
    if wanted.as_json {
        println!("{}", terminal::json(&object(&report)));
    } else {
        say(&report, wanted.options.dry_run)?;
    }
    Ok(if report.failed == 0 { EXIT_OK } else { EXIT_FAILED })
}

/// The credentials go to standard output, as CSV; everything else to standard error.
fn say(report: &Report, dry_run: bool) -> anyhow::Result<()> {
    for fault in &report.faults {
        eprintln!("line {}: {}", fault.line, printable(&fault.reason));
    }
    if report.failed > MAX_FAULTS as u64 {
        eprintln!("and {} lines more", report.failed - MAX_FAULTS as u64);
    }
    if !report.issued.is_empty() {
        let mut writer = csv::Writer::from_writer(std::io::stdout().lock());
        writer.write_record(["device_id", "username", "password", "api_key"])?;
        for (id, issued) in &report.issued {
            let (username, password) = issued
                .mqtt
                .as_ref()
                .map_or(("", ""), |login| (login.username.as_str(), login.password.reveal()));
            let key = issued.api_key.as_ref().map_or("", |key| key.reveal());
            writer.write_record([id.as_str(), username, password, key])?;
        }
        writer.flush()?;
    }
    eprintln!(
        "{}{} created, {} updated, {} as they were, {} lines refused",
        if dry_run { "nothing was changed: " } else { "" },
        report.created,
        report.updated,
        report.unchanged,
        report.failed
    );
    Ok(())
}

fn object(report: &Report) -> Value {
    let credentials: Vec<Value> = report
        .issued
        .iter()
        .map(|(id, made)| json!({"device_id": id.as_str(), "credentials": issued(made)}))
        .collect();
    json!({
        "created": report.created, "updated": report.updated, "unchanged": report.unchanged, "failed": report.failed,
        "faults": report.faults, "credentials": credentials,
    })
}

/// To be redirected into a file: it is as people wrote it, controls aside, which no label holds.
pub(super) async fn export(client: &Client, format: Format) -> anyhow::Result<()> {
    let mut after: Option<String> = None;
    loop {
        let (lines, next) = operations::export(client, format, after.as_deref()).await?;
        std::io::stdout().lock().write_all(&lines)?;
        if next.is_none() {
            return Ok(());
        }
        after = next;
    }
}
