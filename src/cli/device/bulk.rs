//! Whole fleets from a file and to standard output.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::cli::terminal::{self, printable};
use crate::cli::{EXIT_FAILED, EXIT_OK};
use crate::identity::audit::Actor;
use crate::operations::bulk::{self as operations, Format, Gone, Listen, MAX_FAULTS, Made, Report};

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
    let mut printer = Printer {
        as_json: wanted.as_json,
        is_first: true,
    };
    let report = operations::import(client, &actor, wanted.format, &wanted.data, wanted.options, &mut printer).await?;
    if wanted.as_json {
        let begin = if printer.is_first { CREDENTIALS } else { "" };
        let rest = terminal::json(&object(&report));
        println!("{begin}],{}", rest.trim_start_matches('{'));
    } else {
        say(&report, wanted.options.dry_run);
    }
    Ok(if report.failed == 0 && report.ended.is_none() {
        EXIT_OK
    } else {
        EXIT_FAILED
    })
}

/// How the object with the answer begins.
const CREDENTIALS: &str = "{\"credentials\":[";

/// Prints credentials on standard output, as they are made: CSV, or the beginning of the object. Everything else goes to standard error,
/// or follows.
struct Printer {
    as_json: bool,
    is_first: bool,
}

impl Listen for Printer {
    async fn tell(&mut self, made: Vec<Made>) -> Result<(), Gone> {
        for made in made {
            let is_first = std::mem::replace(&mut self.is_first, false);
            let line = if self.as_json {
                as_json(&made, is_first)
            } else {
                as_csv(&made, is_first)
            };
            std::io::stdout().lock().write_all(&line).map_err(|_| Gone::Left)?;
        }
        std::io::stdout().lock().flush().map_err(|_| Gone::Left)
    }
}

fn as_json(made: &Made, is_first: bool) -> Vec<u8> {
    let begin = if is_first { CREDENTIALS } else { "," };
    let object = json!({"line": made.line, "device_id": made.id.as_str(), "credentials": issued(&made.issued)});
    format!("{begin}{}", terminal::json(&object)).into_bytes()
}

fn as_csv(Made { id, issued, .. }: &Made, is_first: bool) -> Vec<u8> {
    let (username, password) = issued
        .mqtt
        .as_ref()
        .map_or(("", ""), |login| (login.username.as_str(), login.password.reveal()));
    let key = issued.api_key.as_ref().map_or("", |key| key.reveal());
    let mut writer = csv::Writer::from_writer(Vec::new());
    let mut write = |cells: [&str; 4]| writer.write_record(cells).expect("a Vec takes every write");
    if is_first {
        write(["device_id", "username", "password", "api_key"]);
    }
    write([id.as_str(), username, password, key]);
    writer.into_inner().expect("a Vec takes every write")
}

fn say(report: &Report, dry_run: bool) {
    for fault in &report.faults {
        eprintln!("line {}: {}", fault.line, printable(&fault.reason));
    }
    if report.failed > MAX_FAULTS as u64 {
        eprintln!("and {} lines more", report.failed - MAX_FAULTS as u64);
    }
    if let Some(ended) = &report.ended {
        let why = printable(&ended.error.to_string()).into_owned();
        let theirs = if ended.is_unsure() {
            "keep the credentials of theirs: brought again, those for which none are told have these"
        } else {
            "credentials of theirs are not good: bring them again"
        };
        eprintln!(
            "it ended before line {}: {why}; {} lines were not taken, and {theirs}",
            ended.line, ended.lines
        );
    }
    eprintln!(
        "{}{} created, {} updated, {} as they were, {} lines refused",
        if dry_run { "nothing was changed: " } else { "" },
        report.created,
        report.updated,
        report.unchanged,
        report.failed
    );
}

fn object(report: &Report) -> Value {
    let ended = report.ended.as_ref();
    json!({
        "created": report.created, "updated": report.updated, "unchanged": report.unchanged, "failed": report.failed,
        "faults": report.faults,
        "ended": ended.map(|ended| json!({"line": ended.line, "lines": ended.lines, "unsure": ended.is_unsure(), "reason": ended.error.to_string()})),
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
