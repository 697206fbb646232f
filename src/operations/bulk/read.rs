//! The lines of an import: CSV with a header, or a JSON object a line. Each becomes what it says of a device, or a sentence.

use std::fmt::Display;

use serde_json::Value;

use crate::devices::bulk::Known;
use crate::devices::label::{self, BadLabel, DeviceType, Metadata, Name, Tag};
use crate::devices::registry::Description;
use crate::operations::devices::MAX_GROUPS;
use crate::protocol::id::{DeviceId, DeviceIdRef, GroupId};

/// The most lines of one import.
pub const MAX_LINES: u64 = 200_000;
/// The most bytes of a line of JSON: metadata, and whatever else a device may have.
const MAX_LINE_BYTES: usize = 128 * 1024;
/// In CSV, what parts tags and groups; with a backslash before it, it is a sign like any other.
pub(super) const SEPARATOR: char = ';';
/// The columns of CSV, and the members of an object.
pub(super) const COLUMNS: [&str; 6] = ["device_id", "name", "type", "tags", "groups", "metadata"];

/// How the lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180, with a header.
    Csv,
    /// A JSON object a line.
    Ndjson,
}

/// Why a text is no format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a format is csv or ndjson")]
pub struct BadFormat;

impl std::str::FromStr for Format {
    type Err = BadFormat;

    fn from_str(text: &str) -> Result<Self, BadFormat> {
        match text {
            "csv" => Ok(Self::Csv),
            "ndjson" => Ok(Self::Ndjson),
            _ => Err(BadFormat),
        }
    }
}

/// Why there are no lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadFile {
    /// The header cannot be read.
    #[error("line 1 is no header: {0}; device_id and any of name, type, tags, groups, metadata are expected")]
    Header(String),
}

/// What a line says of a device: `None` is nothing, `Some(None)` that there is none.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Which device.
    pub id: DeviceId,
    /// What people call it.
    pub name: Option<Option<Name>>,
    /// What kind it is.
    pub device_type: Option<Option<DeviceType>>,
    /// What it is gathered by.
    pub tags: Option<Vec<Tag>>,
    /// The lists it is on.
    pub groups: Option<Vec<GroupId>>,
    /// What else is known of it.
    pub metadata: Option<Metadata>,
}

impl Line {
    /// What is said of the device with this line, over what was known of it.
    pub(super) fn applied_to(&self, known: Option<&Known>) -> Result<Description, BadLabel> {
        let mut description = Description::default();
        if let Some(known) = known {
            description = Description {
                name: known.name.as_deref().map(Name::parse).transpose()?,
                device_type: known.device_type.as_deref().map(DeviceType::parse).transpose()?,
                tags: label::tags(&known.tags)?,
                metadata: Metadata::new(known.metadata.clone())?,
            };
        }
        if let Some(name) = &self.name {
            description.name.clone_from(name);
        }
        if let Some(device_type) = &self.device_type {
            description.device_type.clone_from(device_type);
        }
        if let Some(tags) = &self.tags {
            description.tags.clone_from(tags);
        }
        if let Some(metadata) = &self.metadata {
            description.metadata.clone_from(metadata);
        }
        Ok(description)
    }

    /// Whether the device is on other lists with it.
    pub(super) fn moves(&self, known: &Known) -> bool {
        let Some(groups) = &self.groups else { return false };
        groups.len() != known.lists.len() || groups.iter().any(|group| !known.lists.iter().any(|list| list == group.as_str()))
    }
}

/// The lines of a file, one after the other.
pub(super) enum Lines<'a> {
    Csv {
        reader: Box<csv::Reader<&'a [u8]>>,
        columns: Vec<&'static str>,
        count: u64,
    },
    Ndjson {
        rest: &'a [u8],
        number: u64,
    },
}

impl<'a> Lines<'a> {
    pub(super) fn new(format: Format, data: &'a [u8]) -> Result<Self, BadFile> {
        let data = data.strip_prefix(b"\xef\xbb\xbf").unwrap_or(data);
        if format == Format::Ndjson {
            return Ok(Self::Ndjson { rest: data, number: 0 });
        }
        let mut reader = Box::new(csv::ReaderBuilder::new().has_headers(true).from_reader(data));
        let header = reader.headers().map_err(|error| BadFile::Header(error.to_string()))?;
        let mut columns: Vec<&'static str> = Vec::with_capacity(header.len());
        for name in header {
            let column = column(name.trim()).ok_or_else(|| BadFile::Header(format!("there is no column {:?}", cut(name))))?;
            if columns.contains(&column) {
                return Err(BadFile::Header(format!("the column {column} is there twice")));
            }
            columns.push(column);
        }
        if !columns.contains(&"device_id") {
            return Err(BadFile::Header("there is no column device_id".to_owned()));
        }
        Ok(Self::Csv { reader, columns, count: 0 })
    }

    /// The next line's number and what it says, or what is wrong with it; `None` at the end.
    pub(super) fn next_line(&mut self) -> Option<(u64, Result<Line, String>)> {
        match self {
            Self::Csv { reader, columns, count } => {
                let mut record = csv::StringRecord::new();
                let before = reader.position().line();
                let read = reader.read_record(&mut record);
                *count += 1;
                let number = record.position().map_or(before, csv::Position::line);
                match read {
                    Ok(false) => None,
                    Ok(true) if *count > MAX_LINES => ended(reader, number),
                    Ok(true) => Some((number, of_record(columns, &record))),
                    Err(error) => Some((number, Err(csv_fault(&error)))),
                }
            }
            Self::Ndjson { rest, number } => loop {
                if rest.is_empty() {
                    return None;
                }
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
                let line = rest[..end].trim_ascii();
                *rest = rest.get(end + 1..).unwrap_or_default();
                *number += 1;
                if line.is_empty() {
                    continue;
                }
                if *number > MAX_LINES {
                    *rest = &[];
                    return Some((*number, Err(too_many())));
                }
                return Some((*number, of_json(line)));
            },
        }
    }
}

fn ended(reader: &mut csv::Reader<&[u8]>, number: u64) -> Option<(u64, Result<Line, String>)> {
    // Nothing behind it is looked at.
    *reader.get_mut() = &[];
    while reader.read_byte_record(&mut csv::ByteRecord::new()).unwrap_or(false) {}
    Some((number, Err(too_many())))
}

fn too_many() -> String {
    format!("an import has {MAX_LINES} lines at most; bring this one and those behind it by another")
}

fn column(name: &str) -> Option<&'static str> {
    if name == "device_type" {
        return Some("type");
    }
    COLUMNS.into_iter().find(|column| *column == name)
}

fn csv_fault(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("there are {len} cells, and the header has {expected_len}; a cell with a comma or a quote stands in quotes")
        }
        csv::ErrorKind::Utf8 { .. } => "it is no UTF-8".to_owned(),
        _ => error.to_string(),
    }
}

fn of_record(columns: &[&'static str], record: &csv::StringRecord) -> Result<Line, String> {
    let cell = |wanted: &str| {
        let at = columns.iter().position(|column| *column == wanted)?;
        record.get(at)
    };
    let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Ok(Line {
        id: device_id(cell("device_id").unwrap_or_default())?,
        name: cell("name")
            .map(|text| some(text).as_deref().map(Name::parse).transpose())
            .transpose()
            .map_err(sentence)?,
        device_type: cell("type")
            .map(|text| some(text).as_deref().map(DeviceType::parse).transpose())
            .transpose()
            .map_err(sentence)?,
        tags: cell("tags").map(|text| label::tags(&parts(text))).transpose().map_err(sentence)?,
        groups: cell("groups").map(|text| groups(&parts(text))).transpose()?,
        metadata: cell("metadata").map(metadata).transpose()?,
    })
}

fn of_json(line: &[u8]) -> Result<Line, String> {
    if line.len() > MAX_LINE_BYTES {
        return Err(format!("a line has {MAX_LINE_BYTES} bytes at most; this has {}", line.len()));
    }
    let value: Value = serde_json::from_slice(line).map_err(|error| format!("it is no JSON: {error}"))?;
    let members = value.as_object().ok_or("it is no JSON object")?;
    if let Some(name) = members.keys().find(|name| column(name).is_none()) {
        return Err(format!("{:?} is nothing a device has here; {} are", cut(name), COLUMNS.join(", ")));
    }
    let text = |name: &str| match members.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(None)),
        Some(Value::String(text)) => Ok(Some(Some(text.clone()))),
        Some(_) => Err(format!("{name} is a text, or null for none")),
    };
    let texts = |name: &str| match members.get(name) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(Vec::new())),
        Some(Value::Array(elements)) => elements
            .iter()
            .map(|element| element.as_str().map(str::to_owned))
            .collect::<Option<Vec<_>>>()
            .map(Some)
            .ok_or(format!("{name} is a list of texts")),
        Some(_) => Err(format!("{name} is a list of texts, or null for none")),
    };
    let kind = if members.contains_key("type") { "type" } else { "device_type" };
    Ok(Line {
        id: device_id(text("device_id")?.flatten().as_deref().unwrap_or_default())?,
        name: text("name")?
            .map(|text| text.as_deref().map(Name::parse).transpose())
            .transpose()
            .map_err(sentence)?,
        device_type: text(kind)?
            .map(|text| text.as_deref().map(DeviceType::parse).transpose())
            .transpose()
            .map_err(sentence)?,
        tags: texts("tags")?.map(|tags| label::tags(&tags)).transpose().map_err(sentence)?,
        groups: texts("groups")?.map(|ids| groups(&ids)).transpose()?,
        metadata: match members.get("metadata") {
            None => None,
            Some(Value::Null) => Some(Metadata::default()),
            Some(value) => Some(Metadata::new(value.clone()).map_err(sentence)?),
        },
    })
}

fn device_id(text: &str) -> Result<DeviceId, String> {
    match DeviceIdRef::parse(text) {
        Ok(id) => Ok(id.to_owned()),
        Err(error) if text.is_empty() => Err(format!("there is no device_id; {error}")),
        Err(error) => Err(format!("device_id {:?}: {error}", cut(text))),
    }
}

fn groups<T: AsRef<str>>(ids: &[T]) -> Result<Vec<GroupId>, String> {
    if ids.len() > MAX_GROUPS {
        return Err(format!("a device is put into {MAX_GROUPS} groups at most; these are {}", ids.len()));
    }
    let group = |id: &T| GroupId::parse(id.as_ref()).map_err(|error| format!("group {:?}: {error}", cut(id.as_ref())));
    let mut groups = ids.iter().map(group).collect::<Result<Vec<_>, _>>()?;
    groups.sort_unstable();
    groups.dedup();
    Ok(groups)
}

fn metadata(cell: &str) -> Result<Metadata, String> {
    if cell.is_empty() {
        return Ok(Metadata::default());
    }
    let value = serde_json::from_str(cell).map_err(|error| format!("metadata is no JSON: {error}"))?;
    Metadata::new(value).map_err(sentence)
}

/// What stands between the separators, those with a backslash before them aside.
fn parts(cell: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut part = String::new();
    let mut signs = cell.chars();
    while let Some(sign) = signs.next() {
        match sign {
            '\\' => part.extend(signs.next()),
            SEPARATOR => parts.push(std::mem::take(&mut part)),
            sign => part.push(sign),
        }
    }
    parts.push(part);
    // `a;` and an empty cell mean nothing more than what they name.
    parts.retain(|part| !part.is_empty());
    parts
}

/// A text of somebody's as it is repeated to them.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

fn sentence(error: impl Display) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::bulk::write;
    use proptest::prelude::*;
    use serde_json::json;

    fn read(format: Format, text: &str) -> Vec<(u64, Result<Line, String>)> {
        let mut lines = Lines::new(format, text.as_bytes()).expect("a header");
        std::iter::from_fn(|| lines.next_line()).collect()
    }

    #[test]
    fn each_line_is_judged_by_its_number() {
        let csv = "\u{feff}device_id,name,tags,metadata\n\
                   a,\"Bob's, sensor\",red;hot,\"{\"\"x\"\": 1}\"\n\
                   b c,,,\n\
                   d,two,cells\n\
                   e,,,{\n\
                   \"f\",\"a\nb\",,\n\
                   g,,,\n";
        let lines = read(Format::Csv, csv);
        let faults: Vec<(u64, &str)> = lines
            .iter()
            .filter_map(|(number, line)| Some((*number, line.as_ref().err()?.as_str())))
            .collect();
        assert_eq!(
            faults.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            [3, 4, 5, 6],
            "{faults:?}"
        );
        assert!(faults[0].1.contains("1 to 64 of the characters") && faults[1].1.contains("the header has 4"));
        assert!(faults[2].1.contains("no JSON") && faults[3].1.contains("one line"));
        assert_eq!(lines.last().map(|(number, line)| (*number, line.is_ok())), Some((8, true)));
    }

    #[test]
    fn what_a_line_does_not_say_is_told_from_nothing() {
        let lines = read(
            Format::Ndjson,
            "{\"device_id\":\"a\",\"name\":null}\n\n{\"device_id\":\"b\",\"tags\":7}\n{\"device_id\":\"c\",\"status\":\"online\"}",
        );
        let a = lines[0].1.as_ref().expect("a line");
        assert_eq!((&a.name, &a.tags, &a.metadata), (&Some(None), &None, &None));
        assert!(lines[1].1.as_ref().is_err_and(|fault| fault.contains("list of texts")) && lines[1].0 == 3);
        assert!(lines[2].1.as_ref().is_err_and(|fault| fault.contains("\"status\" is nothing")));
    }

    #[test]
    fn a_header_that_cannot_be_used_is_refused() {
        for (header, reason) in [
            ("name,tags", "no column device_id"),
            ("device_id,colour", "no column \"colour\""),
            ("device_id,type,device_type", "twice"),
            ("", "no column device_id"),
        ] {
            let refused = Lines::new(Format::Csv, header.as_bytes()).err().expect(header).to_string();
            assert!(refused.contains(reason), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(
            name in proptest::option::of("[^\\p{Cc}\u{2028}\u{2029}\\s]{1,20}"),
            tags in proptest::collection::btree_set("[^\\p{Cc}\u{2028}\u{2029}\\s]{1,8}", 0..4),
            text in "[^\0]{0,20}",
        ) {
            let known = Known {
                number: 1,
                id: DeviceIdRef::parse("a.b:c").expect("an id").to_owned(),
                name,
                device_type: Some("=1;\\".to_owned()),
                tags: tags.into_iter().collect(),
                metadata: json!({ "text": text }),
                lists: vec!["north".to_owned()],
            };
            for format in [Format::Csv, Format::Ndjson] {
                let written = write::lines(format, std::slice::from_ref(&known), true);
                let mut lines = Lines::new(format, &written).expect("a header");
                let line = lines.next_line().expect("a line").1.expect("a good one");
                let read = line.applied_to(None).expect("good labels");
                prop_assert!(!crate::operations::bulk::chunk::differs(&read, &known), "{:?} {:?}", read, known);
                prop_assert!(!line.moves(&known));
                prop_assert!(lines.next_line().is_none());
            }
        }

        #[test]
        fn no_file_is_too_strange(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for format in [Format::Csv, Format::Ndjson] {
                if let Ok(mut lines) = Lines::new(format, &bytes) {
                    while lines.next_line().is_some() {}
                }
            }
        }
    }
}
