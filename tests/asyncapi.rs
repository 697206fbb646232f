//! The description of the topics (AsyncAPI 3) says what the parser takes: every channel of it is one of the tree, and the other
//! way round.

use std::collections::BTreeSet;
use std::path::Path;

use iotflow::protocol::channels::{self, Channel, Direction};
use iotflow::protocol::topic::TopicTree;
use serde_json::Value;

fn document() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/asyncapi.yml");
    serde_saphyr::from_str(&std::fs::read_to_string(path).expect("it is there")).expect("YAML")
}

#[test]
fn every_channel_is_a_topic_that_the_parser_takes_and_none_is_missing() {
    let tree = TopicTree::new("iotflow").expect("a base topic");
    let document = document();
    assert_eq!(document["asyncapi"], "3.0.0");
    let described = document["channels"].as_object().expect("channels");
    let mut seen = BTreeSet::new();
    for (name, channel) in described {
        let address = channel["address"].as_str().expect("an address");
        let example = address
            .replace(channels::DEVICE, "sensor_001")
            .replace(channels::GROUP, "building_7");
        let parsed = channels::parse(&tree, &example).unwrap_or_else(|faults| panic!("{address}: {faults}"));
        let spec = parsed.channel.spec();
        assert_eq!(spec.name, name);
        assert_eq!(address, format!("iotflow/{}", spec.pattern));
        assert_eq!(channel["description"], spec.description, "{name}");
        for id in [channels::DEVICE, channels::GROUP] {
            let described = channel["parameters"][id.trim_matches(['{', '}'])].is_object();
            assert_eq!(described, spec.pattern.contains(id), "{name}: {id}");
        }
        seen.insert(spec.name);
    }
    assert_eq!(seen, Channel::ALL.iter().map(|channel| channel.spec().name).collect());
}

#[test]
fn who_speaks_and_at_which_qos_is_what_the_service_does() {
    let document = document();
    let operations = document["operations"].as_object().expect("operations");
    for channel in Channel::ALL {
        let spec = channel.spec();
        let action = if spec.direction == Direction::Up { "receive" } else { "send" };
        let operation = &operations[&format!("{action}_{}", spec.name)];
        assert_eq!(operation["action"], action, "{}", spec.name);
        assert_eq!(operation["channel"]["$ref"], format!("#/channels/{}", spec.name));
        let binding = &operation["bindings"]["mqtt"];
        assert_eq!(
            (&binding["qos"], &binding["retain"]),
            (&Value::from(spec.qos), &Value::from(spec.retain)),
            "{}",
            spec.name
        );
    }
    assert_eq!(operations.len(), Channel::ALL.len());
}

#[test]
fn every_reference_leads_somewhere() {
    fn each(value: &Value, visit: &mut dyn FnMut(&str)) {
        match value {
            Value::Object(members) => members.iter().for_each(|(name, member)| match member {
                Value::String(text) if name == "$ref" => visit(text),
                member => each(member, visit),
            }),
            Value::Array(elements) => elements.iter().for_each(|element| each(element, visit)),
            _ => {}
        }
    }
    let document = document();
    let mut seen = 0;
    each(&document, &mut |reference| {
        let pointer = reference.strip_prefix('#').expect("within the document");
        assert!(document.pointer(pointer).is_some(), "{reference}");
        seen += 1;
    });
    assert!(seen > 60, "{seen} references");
}
