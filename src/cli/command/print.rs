//! Commands as people read them, and as programs do.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::cli::terminal::{self, moment, printable, table};
use crate::devices::commands::read::{Command, Delivery};

fn time(time: Timestamp) -> String {
    moment(time.as_microsecond())
}

fn or_none(given: Option<Timestamp>) -> String {
    given.map_or_else(String::new, time)
}

fn whom(command: &Command) -> String {
    match (&command.device, &command.group) {
        (Some(device), _) => device.clone(),
        (None, Some(group)) => format!("group {group}"),
        (None, None) => String::new(),
    }
}

/// How far it has come: its state, and for a group how many are where.
fn progress(command: &Command) -> String {
    let counts = &command.counts;
    if command.group.is_none() {
        return command.state().to_string();
    }
    let states = [
        (counts.queued, "queued"),
        (counts.sent, "sent"),
        (counts.delivered, "delivered"),
        (counts.accepted, "accepted"),
        (counts.progress, "progress"),
        (counts.completed, "completed"),
        (counts.failed, "failed"),
        (counts.expired, "expired"),
        (counts.cancelled, "cancelled"),
    ];
    let present = states.iter().filter(|(count, _)| *count > 0);
    let words: Vec<String> = present.map(|(count, state)| format!("{count} {state}")).collect();
    format!("{} of {} done: {}", counts.done, counts.total, words.join(", "))
}

/// The JSON of a column. It is some, so that a text that is none is a fault to be seen.
fn value(text: Option<&str>) -> Value {
    text.map_or(Value::Null, |text| serde_json::from_str(text).unwrap_or_else(|_| Value::from(text)))
}

fn object(command: &Command) -> Value {
    json!({
        "command_id": command.command_id,
        "device_id": command.device,
        "group_id": command.group,
        "command_type": command.command_type,
        "command": command.command,
        "parameters": value(command.parameters.as_deref()),
        "qos": command.qos,
        "state": command.state(),
        "devices": command.counts,
        "created_at": time(command.created_at),
        "created_by": command.created_by,
        "expires_at": time(command.expires_at),
    })
}

fn delivery(delivery: &Delivery) -> Value {
    json!({
        "device_id": delivery.device,
        "state": delivery.state,
        "held": delivery.held,
        "queued_at": time(delivery.queued_at),
        "sent_at": delivery.sent_at.map(time),
        "delivered_at": delivery.delivered_at.map(time),
        "accepted_at": delivery.accepted_at.map(time),
        "progress_at": delivery.progress_at.map(time),
        "finished_at": delivery.finished_at.map(time),
        "progress": delivery.progress,
        "message": delivery.message,
        "result": value(delivery.result.as_deref()),
    })
}

/// A command that was given: its id alone on standard output.
pub(super) fn given(command: &Command, as_json: bool) {
    if as_json {
        println!("{}", terminal::json(&object(command)));
    } else {
        println!("{}", command.command_id);
        eprintln!(
            "{} for {}: {}; it expires {}",
            printable(&command.command),
            printable(&whom(command)),
            progress(command),
            time(command.expires_at)
        );
    }
}

pub(super) fn list(commands: &[Command], as_json: bool) {
    if as_json {
        let objects: Vec<Value> = commands.iter().map(object).collect();
        println!("{}", terminal::json(&Value::from(objects)));
    } else if commands.is_empty() {
        println!("there is no such command");
    } else {
        let header = ["given", "for", "type", "command", "state", "by", "id"];
        let row = |command: &Command| {
            vec![
                time(command.created_at),
                whom(command),
                command.command_type.clone(),
                command.command.clone(),
                progress(command),
                command.created_by.clone(),
                command.command_id.clone(),
            ]
        };
        println!("{}", table(&header, commands.iter().map(row)));
    }
}

pub(super) fn whole(command: &Command, deliveries: &[Delivery], as_json: bool) {
    if as_json {
        let mut object = object(command);
        object["deliveries"] = deliveries.iter().map(delivery).collect();
        println!("{}", terminal::json(&object));
        return;
    }
    let facts = [
        ("command", command.command.clone()),
        ("type", command.command_type.clone()),
        ("for", whom(command)),
        ("parameters", command.parameters.clone().unwrap_or_default()),
        ("qos", command.qos.to_string()),
        ("state", progress(command)),
        ("given", format!("{} by {}", time(command.created_at), command.created_by)),
        ("expires", time(command.expires_at)),
    ];
    for (name, fact) in facts {
        println!("{name:10} {}", printable(&fact));
    }
    let header = ["device", "state", "sent", "delivered", "accepted", "finished", "%", "message"];
    let row = |delivery: &Delivery| {
        let state = if delivery.held {
            "queued (offline)".to_owned()
        } else {
            delivery.state.to_string()
        };
        vec![
            delivery.device.clone(),
            state,
            or_none(delivery.sent_at),
            or_none(delivery.delivered_at),
            or_none(delivery.accepted_at),
            or_none(delivery.finished_at),
            delivery.progress.map(|progress| progress.to_string()).unwrap_or_default(),
            delivery.message.clone().unwrap_or_default(),
        ]
    };
    println!("{}", table(&header, deliveries.iter().map(row)));
}

/// One line for each change of a command that is watched.
pub(super) fn change(command: &Command, as_json: bool) {
    if as_json {
        println!("{}", terminal::json(&object(command)));
    } else {
        println!("{} {}", time(Timestamp::now()), progress(command));
    }
}
