//! What people write on devices and groups: names, types, tags, metadata. Taken as they are, within bounds, on one line.

use std::fmt;

use serde_json::{Map, Value};

/// The most tags a device has.
pub const MAX_TAGS: usize = 64;
/// The most bytes of a device's metadata, as JSON without spaces.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;

/// Why a label is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadLabel {
    /// Empty, or too long.
    #[error("a {what} has 1 to {most} characters; this one has {has}")]
    Length {
        /// Which label.
        what: &'static str,
        /// The most characters.
        most: usize,
        /// How many there are.
        has: usize,
    },
    /// Nothing to be seen in it.
    #[error("a {what} has at least one character that can be seen")]
    Blank {
        /// Which label.
        what: &'static str,
    },
    /// A line break, NUL or another control character.
    #[error("a {what} is one line without control characters; this one has U+{code:04X}")]
    Control {
        /// Which label.
        what: &'static str,
        /// The character.
        code: u32,
    },
    /// Too many tags.
    #[error("a device has {MAX_TAGS} tags at most; these are {0}")]
    Tags(usize),
    /// No JSON object.
    #[error("metadata is a JSON object, such as {{\"site\": \"north\"}}")]
    NoObject,
    /// Too much of it.
    #[error("metadata has {MAX_METADATA_BYTES} bytes at most; this has {0}")]
    Metadata(usize),
    /// A text that PostgreSQL does not keep.
    #[error("metadata holds no NUL (\\u0000), neither in names nor in texts")]
    Nul,
}

macro_rules! labels {
    ($($name:ident, $what:literal, $most:literal, $help:literal;)+) => {$(
        #[doc = $help]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(String);

        impl $name {
            /// The most characters.
            pub const MAX_CHARS: usize = $most;

            /// Takes a text as it is.
            ///
            /// # Errors
            /// [`BadLabel`].
            pub fn parse(text: &str) -> Result<Self, BadLabel> {
                judge($what, $most, text).map(|()| Self(text.to_owned()))
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

labels! {
    Name, "name", 200, "What people call a device or a group: any text of one line, 1 to 200 characters.";
    DeviceType, "type", 64, "What kind of device it is: any text of one line, 1 to 64 characters.";
    Tag, "tag", 64, "What devices are gathered by: any text of one line, 1 to 64 characters.";
}

fn judge(what: &'static str, most: usize, text: &str) -> Result<(), BadLabel> {
    let has = text.chars().count();
    if !(1..=most).contains(&has) {
        return Err(BadLabel::Length { what, most, has });
    }
    // The last two end a line too, wherever text is laid out.
    if let Some(c) = text.chars().find(|c| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')) {
        return Err(BadLabel::Control { what, code: c.into() });
    }
    if text.chars().all(char::is_whitespace) {
        return Err(BadLabel::Blank { what });
    }
    Ok(())
}

/// A device's tags, each once, in their order.
///
/// # Errors
/// [`BadLabel`].
pub fn tags<T: AsRef<str>>(texts: &[T]) -> Result<Vec<Tag>, BadLabel> {
    let mut tags: Vec<Tag> = Vec::with_capacity(texts.len().min(MAX_TAGS));
    for text in texts {
        let tag = Tag::parse(text.as_ref())?;
        if tags.contains(&tag) {
            continue;
        }
        if tags.len() == MAX_TAGS {
            return Err(BadLabel::Tags(texts.len()));
        }
        tags.push(tag);
    }
    Ok(tags)
}

/// What else is known of a device: a JSON object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata(Map<String, Value>);

impl Metadata {
    /// Takes an object.
    ///
    /// # Errors
    /// [`BadLabel`].
    pub fn new(value: Value) -> Result<Self, BadLabel> {
        let Value::Object(members) = value else {
            return Err(BadLabel::NoObject);
        };
        let value = Value::Object(members);
        let bytes = value.to_string().len();
        if bytes > MAX_METADATA_BYTES {
            return Err(BadLabel::Metadata(bytes));
        }
        if holds_nul(&value) {
            return Err(BadLabel::Nul);
        }
        match value {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(BadLabel::NoObject),
        }
    }

    /// This with the changes of `patch` (RFC 7396): a member that is null is taken away, an object changes the object there.
    ///
    /// # Errors
    /// [`BadLabel`], where it has become too much.
    pub fn merged(&self, patch: &Value) -> Result<Self, BadLabel> {
        if !patch.is_object() {
            return Err(BadLabel::NoObject);
        }
        let mut value = Value::Object(self.0.clone());
        merge(&mut value, patch);
        Self::new(value)
    }

    /// As JSON.
    #[must_use]
    pub fn to_value(&self) -> Value {
        Value::Object(self.0.clone())
    }
}

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(members) = target else { return };
    for (name, change) in changes {
        if change.is_null() {
            members.remove(name);
        } else {
            merge(members.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

/// Whether a text in it, or a name of a member, holds NUL, which no text of PostgreSQL's can.
#[must_use]
pub fn holds_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(elements) => elements.iter().any(holds_nul),
        Value::Object(members) => members.iter().any(|(name, value)| name.contains('\0') || holds_nul(value)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn names_that_people_use_are_taken() {
        let longest = "ü".repeat(200);
        for name in [
            "Bob's sensor",
            "temp > 30",
            "Ünit 7",
            "a;b,\"c\"",
            "中央 <b>&amp;",
            "'; DROP TABLE devices; --",
            &longest,
        ] {
            assert_eq!(Name::parse(name).as_ref().map(Name::as_str), Ok(name));
        }
    }

    #[test]
    fn what_is_no_line_or_too_long_is_refused_with_what_would_be_right() {
        let refused = |text: &str| Name::parse(text).expect_err(text).to_string();
        assert_eq!(refused(""), "a name has 1 to 200 characters; this one has 0");
        assert_eq!(refused(&"x".repeat(201)), "a name has 1 to 200 characters; this one has 201");
        assert_eq!(
            refused("two\nlines"),
            "a name is one line without control characters; this one has U+000A"
        );
        assert!(refused("nul\0").contains("U+0000") && refused("a\u{2028}b").contains("U+2028"));
        assert!(refused(" \u{a0} ").contains("can be seen"));
        assert!(Tag::parse(&"x".repeat(65)).is_err() && DeviceType::parse("\u{9b}2J").is_err());
    }

    #[test]
    fn a_tag_counts_once_and_there_are_not_too_many() {
        assert_eq!(tags(&["a", "b", "a"]).map(|tags| tags.len()), Ok(2));
        let many: Vec<String> = (0..=MAX_TAGS).map(|n| n.to_string()).collect();
        assert_eq!(tags(&many[1..]).map(|tags| tags.len()), Ok(MAX_TAGS));
        assert_eq!(tags(&many), Err(BadLabel::Tags(MAX_TAGS + 1)));
    }

    #[test]
    fn metadata_merges_as_rfc_7396_says() {
        let start = Metadata::new(json!({"a": "b", "c": {"d": "e", "f": "g"}, "n": null})).expect("an object");
        let merged = start.merged(&json!({"a": "z", "c": {"f": null}, "h": {"i": null, "j": [1, null]}}));
        assert_eq!(
            merged.map(|merged| merged.to_value()),
            Ok(json!({"a": "z", "c": {"d": "e"}, "h": {"j": [1, null]}, "n": null}))
        );
        assert_eq!(start.merged(&json!([1])), Err(BadLabel::NoObject));
        assert_eq!(Metadata::new(json!({"a": {"b\0": 1}})), Err(BadLabel::Nul));
        let large = json!({"a": "x".repeat(MAX_METADATA_BYTES)});
        assert!(matches!(start.merged(&large), Err(BadLabel::Metadata(_))));
    }
}
