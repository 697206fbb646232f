//! A change of what people say of a device, as a JSON merge patch (RFC 7396): what is absent stays, what is null goes.

use serde_json::Value;

use super::device::Device;
use super::label::{self, BadLabel, DeviceType, Metadata, Name, Tag};
use super::registry::Description;

/// See the module's documentation. `None` is absent, `Some(None)` is null.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Patch {
    /// What people call it.
    pub name: Option<Option<Name>>,
    /// What kind it is.
    pub device_type: Option<Option<DeviceType>>,
    /// What it is gathered by: all of them anew.
    pub tags: Option<Vec<Tag>>,
    /// A merge patch of the metadata, or null, which empties it.
    pub metadata: Option<Value>,
}

/// Why a value is no patch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPatch {
    /// No object.
    #[error("a change is a JSON object with what is to change")]
    NoObject,
    /// It cannot be changed here.
    #[error("{0:?} is nothing that can be changed here; {1} can")]
    Member(String, &'static str),
    /// It is of another type.
    #[error("{0} is {1}")]
    Type(&'static str, &'static str),
    /// It is of the type, and not taken.
    #[error(transparent)]
    Label(#[from] BadLabel),
}

/// The members of a patch, in the words of people.
const MEMBERS: &str = "name, device_type, tags and metadata";

impl Patch {
    /// Reads a patch.
    ///
    /// # Errors
    /// [`BadPatch`].
    pub fn parse(value: &Value) -> Result<Self, BadPatch> {
        let members = value.as_object().ok_or(BadPatch::NoObject)?;
        let mut patch = Self::default();
        for (name, value) in members {
            match name.as_str() {
                "name" => patch.name = Some(text("name", value)?.map(Name::parse).transpose()?),
                "device_type" => patch.device_type = Some(text("device_type", value)?.map(DeviceType::parse).transpose()?),
                "tags" => patch.tags = Some(tags(value)?),
                "metadata" => {
                    if !value.is_object() && !value.is_null() {
                        return Err(BadLabel::NoObject.into());
                    }
                    patch.metadata = Some(value.clone());
                }
                other => return Err(BadPatch::Member(other.chars().take(64).collect(), MEMBERS)),
            }
        }
        Ok(patch)
    }

    /// What the device is with it.
    ///
    /// # Errors
    /// [`BadLabel`], where its metadata becomes too much.
    pub fn apply(&self, device: &Device) -> Result<Description, BadLabel> {
        let kept = |text: &Option<String>| text.clone();
        let metadata = Metadata::new(device.metadata.clone())?;
        Ok(Description {
            name: match &self.name {
                Some(name) => name.clone(),
                None => kept(&device.name).as_deref().map(Name::parse).transpose()?,
            },
            device_type: match &self.device_type {
                Some(device_type) => device_type.clone(),
                None => kept(&device.device_type).as_deref().map(DeviceType::parse).transpose()?,
            },
            tags: match &self.tags {
                Some(tags) => tags.clone(),
                None => label::tags(&device.tags)?,
            },
            metadata: match &self.metadata {
                None => metadata,
                Some(Value::Null) => Metadata::default(),
                Some(change) => metadata.merged(change)?,
            },
        })
    }
}

/// A text, or null.
pub(super) fn text<'a>(name: &'static str, value: &'a Value) -> Result<Option<&'a str>, BadPatch> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(BadPatch::Type(name, "a text, or null for none")),
    }
}

fn tags(value: &Value) -> Result<Vec<Tag>, BadPatch> {
    let wrong = BadPatch::Type("tags", "a list of texts, or null for none");
    let texts: Option<Vec<&str>> = match value {
        Value::Null => Some(Vec::new()),
        Value::Array(elements) => elements.iter().map(Value::as_str).collect(),
        _ => None,
    };
    Ok(label::tags(&texts.ok_or(wrong)?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn absent_null_and_present_are_three_things() {
        let patch = Patch::parse(&json!({"name": null, "tags": ["a"], "metadata": {"x": null}})).expect("a patch");
        assert_eq!((patch.name, patch.device_type), (Some(None), None));
        assert_eq!(patch.tags.map(|tags| tags.len()), Some(1));
        assert_eq!(patch.metadata, Some(json!({"x": null})));
    }

    #[test]
    fn what_is_no_patch_is_refused_with_what_would_be_right() {
        for (value, reason) in [
            (json!([]), "a JSON object"),
            (
                json!({"revision": 3}),
                "\"revision\" is nothing that can be changed here; name, device_type",
            ),
            (json!({"name": 7}), "name is a text, or null"),
            (json!({"name": "a\nb"}), "one line"),
            (json!({"tags": "a"}), "a list of texts"),
            (json!({"tags": [1]}), "a list of texts"),
            (json!({"metadata": "x"}), "metadata is a JSON object"),
        ] {
            let refused = Patch::parse(&value).expect_err("no patch").to_string();
            assert!(refused.contains(reason), "{value}: {refused}");
        }
    }
}
