//! What `status` says, to people and to programs.

use serde_json::{Value, json};

use crate::broker::sys::BrokerReport;
use crate::cli::terminal;

use super::Asked;
use super::setup::meaning;
use super::status::{Access, Run, Said, Status};

pub(super) fn print(status: &Status, asked: &Asked<'_>) -> anyhow::Result<()> {
    if asked.json {
        let mut value: Value = serde_json::to_value(status)?;
        value["status"] = json!(if status.is_well() { "success" } else { "error" });
        println!("{}", terminal::json(&value));
        return Ok(());
    }
    match &status.process {
        Run::Pid(Some(pid)) => println!("Mosquitto is running (process {pid})"),
        Run::Pid(None) => println!("Mosquitto is not running; start it: ./mqtt_manage.sh start"),
        Run::Containers(containers) => {
            let rows = containers
                .iter()
                .map(|container| vec![container.service.clone(), container.state.clone(), container.health.clone()]);
            println!("{}", terminal::table(&["container", "state", "health"], rows));
            if !status.running {
                println!("The broker's container is not running well; start it: ./mqtt_manage.sh start");
            }
        }
    }
    match &status.broker {
        Some(Said::Answer(report)) => show_report(report),
        Some(Said::Error { error }) => println!("It does not say how it is: {}", terminal::printable(error)),
        None => {}
    }
    let rows = status.listeners.iter().map(|door| {
        vec![
            format!("{}:{}", door.address, door.port),
            meaning(door.kind).to_owned(),
            if door.open { "open" } else { "closed" }.to_owned(),
        ]
    });
    println!("{}", terminal::table(&["listener", "for", ""], rows));
    match &status.access {
        Said::Answer(access) => show_access(access),
        Said::Error { error } => println!("Users: {}", terminal::printable(error)),
    }
    Ok(())
}

fn show_report(report: &BrokerReport) {
    let count = |figure: Option<u64>| figure.map_or_else(|| "?".to_owned(), |figure| figure.to_string());
    let rate = |figure: Option<f64>| figure.map_or_else(|| "?".to_owned(), |figure| format!("{figure:.0}"));
    println!(
        "  {}, up {}",
        terminal::printable(report.version.as_deref().unwrap_or("of unknown version")),
        report.uptime_seconds.map_or_else(|| "?".to_owned(), span)
    );
    println!(
        "  clients   {} connected, {} away with their session kept, at most {} at once",
        count(report.clients_connected),
        count(report.clients_disconnected),
        count(report.clients_maximum)
    );
    println!(
        "  messages  {} in and {} out in a minute, {} dropped; since its start {} in, {} out, {} dropped",
        rate(report.publish_received_1min),
        rate(report.publish_sent_1min),
        rate(report.publish_dropped_1min),
        count(report.publish_received),
        count(report.publish_sent),
        count(report.publish_dropped)
    );
}

fn show_access(access: &Access) {
    if let Some(alarm) = &access.alarm {
        println!("ALARM: the last change of users is not in force: {}", terminal::printable(alarm));
    } else if access.in_force {
        println!(
            "{} users, in force since {}",
            access.users,
            access.applied_at.as_deref().unwrap_or("-")
        );
    } else {
        println!("{} users; the last change is not in force yet", access.users);
    }
}

/// The two largest units of a span.
fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::span;

    #[test]
    fn spans_are_told_by_their_two_largest_units() {
        for (seconds, expected) in [
            (0, "0 s"),
            (59, "59 s"),
            (60, "1 min 0 s"),
            (3_661, "1 h 1 min"),
            (90_000, "1 d 1 h"),
        ] {
            assert_eq!(span(seconds), expected);
        }
    }
}
