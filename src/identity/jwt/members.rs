//! A JSON object in which nothing stands twice: of two members of one name, two readers may believe one each.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The members of an object, by name.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Members(Map<String, Value>);

impl Members {
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }

    /// A member that is a text, if it is there: `Err` if it is something else.
    pub(super) fn text(&self, name: &'static str) -> Result<Option<&str>, &'static str> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(name),
        }
    }
}

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Unique;

        impl<'de> Visitor<'de> for Unique {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Members, A::Error> {
                let mut members = Map::new();
                while let Some((name, value)) = access.next_entry()? {
                    if members.insert(name, value).is_some() {
                        return Err(A::Error::custom("a name stands twice"));
                    }
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_says_everything_once() {
        let read = |text: &str| serde_json::from_str::<Members>(text).ok();
        let members = read(r#"{"a": "x", "b": 1}"#).expect("an object");
        assert_eq!(
            [members.text("a"), members.text("b"), members.text("c")],
            [Ok(Some("x")), Err("b"), Ok(None)]
        );
        for text in [r#"{"a": 1, "a": 1}"#, r#"{"a": 1, "\u0061": 2}"#, "[]", "1", "", "{}x", r#"{"a""#] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
