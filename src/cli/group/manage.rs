//! Acts on groups, and what is said of them.

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::cli::terminal::{self, moment, table};
use crate::devices::groups::{self, Group};
use crate::devices::list::MAX_PAGE;
use crate::identity::audit::Actor;
use crate::operations::groups as operations;
use crate::protocol::id::GroupId;
use crate::protocol::topic::TopicTree;

use super::command::Act;

pub(super) async fn act(client: &mut Client, tree: &TopicTree, act: Act, as_json: bool) -> anyhow::Result<()> {
    let actor = &Actor::of_command_line();
    match act {
        Act::Create(id, description) => say(&operations::create(client, actor, &id, &description).await?, "made", as_json),
        Act::Update(id, patch, revision) => say(&operations::update(client, actor, &id, &patch, revision).await?, "changed", as_json),
        Act::List => show_all(client, as_json).await?,
        Act::Show(id) => show(client, &id, as_json).await?,
        Act::Delete(id, revision) => {
            operations::delete(client, actor, tree, &id, revision).await?;
            println!("deleted {id}");
        }
        Act::Add(id, devices) => {
            let changed = operations::add(client, actor, &id, &devices).await?;
            println!("{changed} devices joined {id}");
        }
        Act::Remove(id, devices) => {
            let changed = operations::remove(client, actor, &id, &devices).await?;
            println!("{changed} devices left {id}");
        }
    }
    Ok(())
}

fn say(group: &Group, what: &str, as_json: bool) {
    if as_json {
        println!("{}", terminal::json(&json!(group)));
    } else {
        println!("{what} {}: {} members, revision {}", group.group_id, group.members, group.revision);
    }
}

async fn show_all(client: &Client, as_json: bool) -> anyhow::Result<()> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let page = groups::list(client, after.as_deref(), MAX_PAGE).await?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if as_json {
        println!("{}", terminal::json(&json!(all)));
    } else if all.is_empty() {
        println!("there is no group; make one with `iotflow group create ID`");
    } else {
        println!("{}", table(&["id", "name", "members", "are those", "changed"], all.iter().map(row)));
    }
    Ok(())
}

fn row(group: &Group) -> Vec<String> {
    vec![
        group.group_id.clone(),
        group.name.clone().unwrap_or_default(),
        group.members.to_string(),
        rule(group),
        moment(group.updated_at.as_microsecond()),
    ]
}

fn rule(group: &Group) -> String {
    match (&group.match_tag, &group.match_type) {
        (None, None) => "that were added".to_owned(),
        (Some(tag), None) => format!("with the tag {tag}"),
        (None, Some(kind)) => format!("of the type {kind}"),
        (Some(tag), Some(kind)) => format!("with the tag {tag} and of the type {kind}"),
    }
}

async fn show(client: &Client, id: &GroupId, as_json: bool) -> anyhow::Result<()> {
    let group = groups::get(client, id).await?;
    let (mut members, mut after) = (Vec::new(), None);
    loop {
        let page = groups::members(client, id, after.as_deref(), MAX_PAGE).await?;
        members.extend(page.items);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    if as_json {
        let mut object = json!(group);
        object["member_ids"] = Value::from(members);
        println!("{}", terminal::json(&object));
    } else {
        println!("{}", table(&["id", "name", "members", "are those", "changed"], [row(&group)]));
        members.iter().for_each(|member| println!("{member}"));
    }
    Ok(())
}
