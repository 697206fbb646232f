//! Rows become publishes here: a command in the form that devices know, a letter as it stands.

use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;

use crate::devices::commands::dispatch::{Dispatch, Recipient};
use crate::devices::outbox::Due;
use crate::mqtt::publish::{Message, Properties, QoS};
use crate::protocol::channels::Channel;
use crate::protocol::command::Payload;
use crate::protocol::topic::TopicTree;

/// The topic on which somebody gets such commands.
fn topic(tree: &TopicTree, dispatch: &Dispatch) -> String {
    match &dispatch.to {
        Recipient::Device(device) => dispatch.kind.channel().of_device(tree, device.borrowed()),
        Recipient::Group(group) => Channel::FleetCommands.of_group(tree, group),
    }
}

/// A command as a publish, at a QoS that this broker takes.
pub(super) fn command(tree: &TopicTree, dispatch: &Dispatch, max_qos: u8) -> Message {
    let given = dispatch.parameters.clone().unwrap_or_else(|| "{}".to_owned());
    let nothing = || RawValue::from_string("{}".to_owned()).expect("an empty object is JSON");
    // The column is of the type json, so it is some.
    let parameters = RawValue::from_string(given).unwrap_or_else(|_| nothing());
    let payload = Payload {
        command: &dispatch.command,
        parameters: &parameters,
        command_id: &dispatch.command_id,
        timestamp: dispatch.created_at,
        expires_at: dispatch.expires_at,
    };
    let response_topic = match &dispatch.to {
        Recipient::Device(device) => Some(Channel::CommandsResponse.of_device(tree, device.borrowed())),
        // Each member answers on its own topic; there is none that fits all.
        Recipient::Group(_) => None,
    };
    Message {
        topic: topic(tree, dispatch),
        payload: payload.to_bytes().into(),
        qos: quality(dispatch.qos.min(max_qos)),
        retain: false,
        properties: Properties {
            expiry: Some(left(dispatch.expires_at)),
            response_topic,
            correlation: Some(Bytes::copy_from_slice(dispatch.command_id.as_bytes())),
            content_type: Some("application/json".to_owned()),
        },
    }
}

/// What is left of its time, and a second at least: what has a packet goes on with it, and the device reads when it is over.
fn left(expires_at: Timestamp) -> Duration {
    let left = expires_at.duration_since(Timestamp::now());
    Duration::try_from(left).unwrap_or_default().max(Duration::from_secs(1))
}

/// A letter as a publish.
pub(super) fn letter(letter: &Due, max_qos: u8) -> Message {
    Message {
        topic: letter.topic.clone(),
        payload: letter.payload.clone().into(),
        qos: quality(letter.qos.min(max_qos)),
        retain: letter.retain,
        properties: Properties {
            expiry: letter.ttl,
            ..Properties::default()
        },
    }
}

fn quality(qos: u8) -> QoS {
    match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    }
}
