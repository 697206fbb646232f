//! Any bytes pass through the topic tree here, below any base topic: what is taken is one of the tree's names, what is
//! refused is refused for the right reason, and all of a device's topics go to one shard.
//!
//! The input is a topic, or a base topic, a line break and a topic.
#![no_main]

use iotflow::protocol::reject::Reason;
use iotflow::protocol::topic::{Channel, Status, Telemetry, TopicTree};
use libfuzzer_sys::fuzz_target;

const DEFAULT_BASE: &str = "iotflow";

/// What the wire contract says of `topic`: the device and the channel's text, or why it is none.
fn by_the_contract<'a>(base: &str, topic: &'a [u8]) -> Result<(&'a str, &'a str), Reason> {
    let text = std::str::from_utf8(topic).map_err(|_| Reason::UnknownTopic)?;
    let below = text.strip_prefix(base).and_then(|rest| rest.strip_prefix("/devices/"));
    let (device, channel) = below.and_then(|below| below.split_once('/')).ok_or(Reason::UnknownTopic)?;
    let of_the_grammar = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    if device.is_empty() || device.len() > 64 || !device.chars().all(of_the_grammar) {
        return Err(Reason::BadDeviceId);
    }
    let known = [
        "telemetry",
        "telemetry/sensors",
        "telemetry/metrics",
        "telemetry/events",
        "status/heartbeat",
        "status/online",
        "status/offline",
    ];
    known.contains(&channel).then_some((device, channel)).ok_or(Reason::UnknownTopic)
}

fuzz_target!(|input: &[u8]| {
    let (base, topic) = match input.iter().position(|byte| *byte == b'\n') {
        Some(end) => (std::str::from_utf8(&input[..end]).unwrap_or(DEFAULT_BASE), &input[end + 1..]),
        None => (DEFAULT_BASE, input),
    };
    let Ok(tree) = TopicTree::new(base) else { return };
    let shard_key = tree.shard_key(topic);
    assert!(!shard_key.contains(&b'/'), "a shard key of several levels");
    match (tree.parse(topic), by_the_contract(base, topic)) {
        (Ok((device, channel)), Ok(expected)) => {
            assert_eq!((device.as_str(), channel.to_string().as_str()), expected);
            assert_eq!(tree.name(device, channel).as_bytes(), topic);
            let channels = Telemetry::ALL
                .map(Channel::Telemetry)
                .into_iter()
                .chain(Status::ALL.map(Channel::Status));
            for channel in channels {
                assert_eq!(tree.shard_key(tree.name(device, channel).as_bytes()), device.as_str().as_bytes());
            }
        }
        (Err(rejection), Err(reason)) => assert_eq!(rejection.reason, reason),
        (found, expected) => panic!("{found:?}, and by the contract {expected:?}"),
    }
});
