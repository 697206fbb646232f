//! Dead letters on a terminal, or as JSON.

use std::process::ExitCode;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::terminal::{self, moment, printable, table};
use crate::cli::{EXIT_FAILED, EXIT_OK, database};
use crate::config::Config;
use crate::ingest::dead_letter::kept::{self, Filter, Letter};

/// The longest detail in a table, in characters; `show` has all of it.
const DETAIL_CHARS: usize = 80;

pub(super) async fn list(config: &Config, filter: &Filter<'_>, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = database::connect(&config.db, "dead-letter").await?;
    let mut letters = kept::list(&client, filter).await?;
    letters.reverse();
    if as_json {
        for letter in &letters {
            println!("{}", terminal::json(&serde_json::to_value(letter)?));
        }
    } else if letters.is_empty() {
        println!("there is no dead letter, or none that fits");
    } else {
        let header = ["id", "received", "topic", "QoS", "bytes", "reason", "detail"];
        println!("{}", table(&header, letters.iter().map(row)));
    }
    Ok(ExitCode::from(EXIT_OK))
}

fn row(letter: &Letter) -> Vec<String> {
    let mut detail: String = letter.detail.chars().take(DETAIL_CHARS).collect();
    if letter.detail.chars().nth(DETAIL_CHARS).is_some() {
        detail.push('…');
    }
    vec![
        letter.id.to_string(),
        moment(letter.received_at.as_microsecond()),
        letter.topic.clone(),
        letter.qos.to_string(),
        letter.payload_bytes.to_string(),
        letter.reason.clone(),
        detail,
    ]
}

pub(super) async fn show(config: &Config, id: Uuid, as_json: bool) -> anyhow::Result<ExitCode> {
    let client = database::connect(&config.db, "dead-letter").await?;
    let Some((letter, payload)) = kept::find(&client, id).await? else {
        eprintln!("iotflow: there is no dead letter {id}");
        return Ok(ExitCode::from(EXIT_FAILED));
    };
    let (encoding, payload) = match String::from_utf8(payload) {
        Ok(text) => ("utf8", text),
        Err(error) => ("base64", STANDARD.encode(error.as_bytes())),
    };
    if as_json {
        let mut object = serde_json::to_value(&letter)?;
        let members = object.as_object_mut().context("a letter is an object")?;
        members.insert("payload".to_owned(), Value::from(payload));
        members.insert("payload_encoding".to_owned(), json!(encoding));
        println!("{}", terminal::json(&object));
        return Ok(ExitCode::from(EXIT_OK));
    }
    let lines = [
        ("id", letter.id.to_string()),
        ("received", letter.received_at.to_string()),
        ("topic", letter.topic),
        ("QoS", letter.qos.to_string()),
        ("reason", letter.reason),
        ("detail", letter.detail),
        (if encoding == "utf8" { "payload" } else { "payload (base64)" }, payload),
    ];
    for (name, value) in lines {
        println!("{name}: {}", printable(&value));
    }
    Ok(ExitCode::from(EXIT_OK))
}
