//! Acts on devices one by one, and what is said of them. Standard output holds what a program may want; people's news goes to
//! standard error where a secret is printed.

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::cli::terminal::{self, printable, table};
use crate::devices::desired::{self, Desired};
use crate::devices::device::Device;
use crate::devices::list::{self, Filter, MAX_PAGE};
use crate::devices::presence;
use crate::devices::registry;
use crate::identity::audit::Actor;
use crate::operations::credentials::{self, Issued};
use crate::operations::{configs, devices};
use crate::protocol::id::DeviceId;
use crate::protocol::topic::TopicTree;

use super::ask::{Act, What};

pub(super) async fn act(client: &mut Client, tree: &TopicTree, act: Act) -> anyhow::Result<()> {
    let actor = &Actor::of_command_line();
    let as_json = act.as_json;
    match act.what {
        What::Register(wanted) => {
            let made = devices::register(client, actor, &wanted).await?;
            let news = format!("registered {}", made.device.id.as_str());
            say_issued(
                &news,
                json!({"device": &made.device, "credentials": issued(&made.issued)}),
                &made.issued,
                as_json,
            );
        }
        What::List(filter, limit) => show_list(client, filter, limit, as_json).await?,
        What::Show(id) => show(client, &id, as_json).await?,
        What::Update(id, patch, revision) => {
            let device = devices::update(client, actor, &id, &patch, revision).await?;
            if as_json {
                println!("{}", terminal::json(&json!(device)));
            } else {
                println!("{} is at revision {}", id.as_str(), device.revision);
            }
        }
        What::Delete(id, revision) => {
            devices::delete(client, actor, tree, &id, revision).await?;
            println!("deleted {}; its telemetry stays", id.as_str());
        }
        What::Rotate(id, wanted) => {
            let made = credentials::rotate(client, actor, &id, wanted).await?;
            let object = json!({"device_id": id.as_str(), "credentials": issued(&made)});
            say_issued(&format!("{} has other credentials", id.as_str()), object, &made, as_json);
        }
        What::Revoke(id) => {
            let revoked = credentials::revoke(client, actor, &id).await?;
            let what = match (revoked.mqtt, revoked.api_key) {
                (true, true) => "can log in at the broker no more, and its key is gone",
                (true, false) => "can log in at the broker no more",
                (false, true) => "has no key any more",
                (false, false) => "had no credentials; a certificate lets it in no more",
            };
            println!("{} {what}", id.as_str());
        }
        What::SetEnabled(id, enabled) => {
            devices::set_enabled(client, actor, &id, enabled).await?;
            println!("{} is {}", id.as_str(), if enabled { "let in" } else { "shut out" });
        }
        What::GetConfig(id) => show_config(&id, &desired::get(client, &id).await?, as_json)?,
        What::SetConfig(id, config, version) => {
            let now = configs::set(client, actor, tree, &id, &config, version).await?;
            println!("the configuration of {} is at version {}", id.as_str(), now.version);
        }
        What::DeleteConfig(id, version) => {
            let now = configs::delete(client, actor, tree, &id, version).await?;
            println!("nothing is wanted of {} any more, from version {} on", id.as_str(), now.version);
        }
    }
    Ok(())
}

/// The credentials as JSON: the one place of these commands where they are revealed, beside [`say_issued`].
pub(super) fn issued(issued: &Issued) -> Value {
    json!({
        "mqtt": issued.mqtt.as_ref().map(|login| json!({"username": login.username.as_str(), "password": login.password.reveal()})),
        "api_key": issued.api_key.as_ref().map(|key| key.reveal()),
    })
}

fn say_issued(news: &str, object: Value, issued: &Issued, as_json: bool) {
    if as_json {
        println!("{}", terminal::json(&object));
        return;
    }
    if let Some(login) = &issued.mqtt {
        println!("username={}\npassword={}", login.username, login.password.reveal());
    }
    if let Some(key) = &issued.api_key {
        println!("api_key={}", key.reveal());
    }
    let note = if *issued == Issued::default() {
        ""
    } else {
        "; this is shown this once, the database has hashes only"
    };
    eprintln!("{news}{note}");
}

async fn show_list(client: &Client, filter: Filter, limit: usize, as_json: bool) -> anyhow::Result<()> {
    let (mut rows, mut after, mut left) = (Vec::new(), None, limit);
    loop {
        let page = list::list(client, &filter, after.as_deref(), left.min(MAX_PAGE)).await?;
        left -= page.items.len().min(left);
        if as_json {
            page.items.iter().for_each(|device| println!("{}", terminal::json(&json!(device))));
        } else {
            rows.extend(page.items.iter().map(row));
        }
        after = page.next;
        if after.is_none() || left == 0 {
            break;
        }
    }
    if !as_json && rows.is_empty() {
        println!("there is no device that fits");
    } else if !as_json {
        println!(
            "{}",
            table(&["id", "name", "type", "status", "last seen", "groups", "tags", ""], rows)
        );
    }
    if after.is_some() {
        eprintln!("there are more; --limit says how many are shown");
    }
    Ok(())
}

fn row(device: &Device) -> Vec<String> {
    vec![
        device.id.as_str().to_owned(),
        device.name.clone().unwrap_or_default(),
        device.device_type.clone().unwrap_or_default(),
        device.status.as_str().to_owned(),
        moment(device.last_seen_at),
        device.groups.join(" "),
        device.tags.join(", "),
        if device.enabled { "" } else { "shut out" }.to_owned(),
    ]
}

async fn show(client: &Client, id: &DeviceId, as_json: bool) -> anyhow::Result<()> {
    let device = registry::get(client, id).await?;
    if as_json {
        println!("{}", terminal::json(&json!(device)));
        return Ok(());
    }
    let presence = presence::get(client, id).await?;
    let status = match (presence.swept, presence.since) {
        (true, _) => format!("offline since {}: its heartbeats stopped", moment(presence.since)),
        (false, Some(_)) => format!("{} since {}", presence.status.as_str(), moment(presence.since)),
        (false, None) => presence.status.as_str().to_owned(),
    };
    let credentials = match (device.has_mqtt_credentials, device.has_api_key) {
        (true, true) => "at the broker, and a key for HTTP",
        (true, false) => "at the broker",
        (false, true) => "a key for HTTP",
        (false, false) => "none",
    };
    let lines = [
        ("id", device.id.as_str().to_owned()),
        ("name", device.name.unwrap_or_default()),
        ("type", device.device_type.unwrap_or_default()),
        ("tags", device.tags.join(", ")),
        ("groups", device.groups.join(" ")),
        ("metadata", device.metadata.to_string()),
        ("status", status),
        ("last seen", moment(device.last_seen_at)),
        (
            "credentials",
            format!("{credentials}{}", if device.enabled { "" } else { ", shut out" }),
        ),
        ("registered", moment(Some(device.created_at))),
        (
            "changed",
            format!("{} (revision {})", moment(Some(device.updated_at)), device.revision),
        ),
    ];
    println!("{}", table(&["", ""], lines.map(|(name, value)| vec![name.to_owned(), value])));
    Ok(())
}

fn show_config(id: &DeviceId, config: &Desired, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let value = |text: &Option<String>| text.as_deref().map(serde_json::from_str::<Value>).transpose();
        let object = json!({
            "device_id": id.as_str(), "version": config.version, "desired": value(&config.desired)?, "desired_at": config.desired_at,
            "desired_by": config.desired_by, "reported": value(&config.reported)?, "reported_version": config.reported_version,
            "reported_at": config.reported_at, "in_sync": config.in_sync(),
        });
        println!("{}", terminal::json(&object));
        return Ok(());
    }
    let sync = match config.in_sync() {
        None => "",
        Some(true) => ", and the device has it",
        Some(false) => ", and the device does not say that it has it",
    };
    let by = config.desired_by.as_deref().unwrap_or("nobody");
    let text = |text: &Option<String>| printable(text.as_deref().unwrap_or("nothing")).into_owned();
    println!(
        "wanted (version {}, by {}{sync}): {}",
        config.version,
        printable(by),
        text(&config.desired)
    );
    println!("reported ({}): {}", moment(config.reported_at), text(&config.reported));
    Ok(())
}

fn moment(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| terminal::moment(time.as_microsecond()))
}
