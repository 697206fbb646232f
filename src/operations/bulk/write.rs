//! The lines of an export, in the form that an import takes.

use serde_json::{Value, json};

use crate::devices::bulk::Known;

use super::read::{COLUMNS, Format, SEPARATOR};

/// The lines of `devices`; CSV with its header, where `header` is set.
pub(super) fn lines(format: Format, devices: &[Known], header: bool) -> Vec<u8> {
    match format {
        Format::Ndjson => devices
            .iter()
            .flat_map(|device| format!("{}\n", object(device)).into_bytes())
            .collect(),
        Format::Csv => {
            let mut writer = csv::Writer::from_writer(Vec::new());
            let mut write = |cells: &[&str]| {
                writer
                    .write_record(cells)
                    .expect("a Vec takes every write, and all have as many cells")
            };
            if header {
                write(&COLUMNS);
            }
            for device in devices {
                write(&[
                    device.id.as_str(),
                    device.name.as_deref().unwrap_or_default(),
                    device.device_type.as_deref().unwrap_or_default(),
                    &cell(&device.tags),
                    &cell(&device.lists),
                    &metadata(device),
                ]);
            }
            writer.into_inner().expect("a Vec takes every write")
        }
    }
}

fn object(device: &Known) -> Value {
    json!({
        "device_id": device.id.as_str(),
        "name": device.name,
        "type": device.device_type,
        "tags": device.tags,
        "groups": device.lists,
        "metadata": device.metadata,
    })
}

fn metadata(device: &Known) -> String {
    match &device.metadata {
        Value::Object(members) if members.is_empty() => String::new(),
        metadata => metadata.to_string(),
    }
}

/// What `parts` takes apart again.
fn cell(parts: &[String]) -> String {
    let escaped = |part: &String| {
        let mut text = String::with_capacity(part.len());
        for sign in part.chars() {
            if sign == '\\' || sign == SEPARATOR {
                text.push('\\');
            }
            text.push(sign);
        }
        text
    };
    parts.iter().map(escaped).collect::<Vec<_>>().join(&SEPARATOR.to_string())
}
