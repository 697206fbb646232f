//! Commands to devices and their answers, as they stand on the wire.
//!
//! A command is published on `devices/{device_id}/commands/{config,control,firmware}`, or for a group on
//! `fleet/commands/{group_id}`; a device answers on its own `commands/response`.

use std::borrow::Cow;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use uuid::Uuid;

use super::channels::Channel;
use super::reject::{Reason, Rejection};

/// The longest command id, in bytes.
pub const MAX_COMMAND_ID_BYTES: usize = 128;
/// The longest name of a command, in characters.
pub const MAX_NAME_CHARS: usize = 128;
/// The most bytes of a command's parameters.
pub const MAX_PARAMETERS_BYTES: usize = 64 * 1024;
/// The most bytes of an answer: a result as large as parameters may be, and what stands around it.
pub const MAX_ANSWER_BYTES: usize = 80 * 1024;
/// The longest message of an answer, in characters; what is longer is cut.
const MAX_MESSAGE_CHARS: usize = 1_024;
/// How deep parameters and results may be nested: telemetry's limit, which the database's parser bears at ease.
const MAX_DEPTH: usize = 64;

/// Why a text is no command id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command id is 1 to 128 of the characters A-Z a-z 0-9 _ . : -")]
pub struct BadCommandId;

/// The id by which a command and its answers know each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CommandId(Box<str>);

impl CommandId {
    /// Takes `text` as a command id.
    ///
    /// # Errors
    /// [`BadCommandId`].
    pub fn parse(text: &str) -> Result<Self, BadCommandId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b':' | b'-');
        if (1..=MAX_COMMAND_ID_BYTES).contains(&text.len()) && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(BadCommandId)
        }
    }

    /// One that nobody has: a UUID of version 7, so that ids sort by time.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7().to_string().into())
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a text is no type of commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a command's type is config, control or firmware")]
pub struct BadKind;

/// What a command is about: the last level of its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = CommandType)]
pub enum Kind {
    /// It changes a setting.
    Config,
    /// It makes the device act.
    Control,
    /// It is about the device's firmware.
    Firmware,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Config, Self::Control, Self::Firmware];

    /// As it stands in topics and in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Control => "control",
            Self::Firmware => "firmware",
        }
    }

    /// The channel of such commands.
    #[must_use]
    pub const fn channel(self) -> Channel {
        match self {
            Self::Config => Channel::CommandsConfig,
            Self::Control => Channel::CommandsControl,
            Self::Firmware => Channel::CommandsFirmware,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Kind {
    type Err = BadKind;

    fn from_str(text: &str) -> Result<Self, BadKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or(BadKind)
    }
}

/// What a device is sent. The same bytes whenever it is sent again: a broker tells a repeated publish by them.
#[derive(Debug, Serialize)]
pub struct Payload<'a> {
    /// What to do.
    pub command: &'a str,
    /// With what; an empty object where nothing was given.
    pub parameters: &'a RawValue,
    /// What the answer is to name.
    pub command_id: &'a str,
    /// When it was given.
    pub timestamp: Timestamp,
    /// After which it is not to be obeyed any more.
    pub expires_at: Timestamp,
}

impl Payload<'_> {
    /// As JSON, the parameters byte for byte as they were given.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts, times and what is JSON already")
    }
}

/// Whether JSON is nested at most 64 deep; its brackets are counted, whatever else is right or wrong with it.
#[must_use]
pub fn depth_fits(json: &str) -> bool {
    let (mut depth, mut text, mut escaped) = (0_usize, false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if text => escaped = true,
            b'"' => text = !text,
            b'{' | b'[' if !text => {
                depth += 1;
                if depth > MAX_DEPTH {
                    return false;
                }
            }
            b'}' | b']' if !text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

/// How far a device says it has come with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Said {
    /// It has it.
    Delivered,
    /// It will do it.
    Accepted,
    /// It is at it.
    Progress,
    /// It did it.
    Completed,
    /// It could not, or would not.
    Failed,
}

/// An answer to a command.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// To which.
    pub command_id: CommandId,
    /// How far it has come.
    pub said: Said,
    /// In words.
    pub message: Option<String>,
    /// In per cent, 0 to 100.
    pub progress: Option<f32>,
    /// What came of it: JSON, byte for byte as it was sent.
    pub result: Option<String>,
}

#[derive(Deserialize)]
struct Spoken<'a> {
    #[serde(borrow)]
    command_id: Option<Cow<'a, str>>,
    status: Said,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    progress: Option<f64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

impl Answer {
    /// Takes an answer apart. The Correlation Data of the publish stand in for a `command_id` that is not there.
    ///
    /// # Errors
    /// The [`Rejection`] that its dead letter is to bear.
    pub fn parse(payload: &[u8], correlation: Option<&[u8]>) -> Result<Self, Rejection> {
        if payload.is_empty() {
            return Err(Rejection::new(
                Reason::EmptyPayload,
                "an answer is a JSON object with command_id and status",
            ));
        }
        if payload.len() > MAX_ANSWER_BYTES {
            let detail = format!("an answer of {} bytes; {MAX_ANSWER_BYTES} at most are taken", payload.len());
            return Err(Rejection::new(Reason::PayloadTooLarge, detail));
        }
        let text = std::str::from_utf8(payload).map_err(|error| Rejection::new(Reason::BadUtf8, error.to_string()))?;
        if !depth_fits(text) {
            return Err(Rejection::new(Reason::TooDeep, format!("nested deeper than {MAX_DEPTH}")));
        }
        let spoken: Spoken<'_> = serde_json::from_str(text).map_err(|error| {
            let reason = if error.is_data() { Reason::BadAnswer } else { Reason::NotJson };
            Rejection::new(reason, format!("no answer to a command: {error}"))
        })?;
        let correlated = correlation.and_then(|data| std::str::from_utf8(data).ok());
        let id = spoken.command_id.as_deref().or(correlated).unwrap_or_default();
        let command_id = CommandId::parse(id).map_err(|error| Rejection::new(Reason::BadAnswer, format!("command_id: {error}")))?;
        Ok(Self {
            command_id,
            said: spoken.status,
            message: spoken.message.map(|message| kept(&message)),
            progress: spoken.progress.map(percent).transpose()?,
            result: spoken.result.map(|result| result.get().to_owned()),
        })
    }
}

fn percent(progress: f64) -> Result<f32, Rejection> {
    if !(0.0..=100.0).contains(&progress) {
        return Err(Rejection::new(
            Reason::BadAnswer,
            format!("progress {progress}: per cent, 0 to 100, is expected"),
        ));
    }
    #[expect(clippy::cast_possible_truncation, reason = "a hundredth of a per cent is lost at most")]
    let progress = progress as f32;
    Ok(progress)
}

/// A text as the database can keep it, and of a length that people read.
fn kept(text: &str) -> String {
    let storable = |c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(MAX_MESSAGE_CHARS).map(storable).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_stay_as_they_were_given() {
        let given = "{ \"a\" : 1.10, \"b\":[\"\\u00e9\" , 1e400] }";
        let parameters = RawValue::from_string(given.to_owned()).expect("JSON");
        let at: Timestamp = "2026-07-01T10:00:00Z".parse().expect("a time");
        let payload = Payload {
            command: "set \"it\"",
            parameters: &parameters,
            command_id: "c-1",
            timestamp: at,
            expires_at: at,
        };
        let text = String::from_utf8(payload.to_bytes()).expect("UTF-8");
        assert_eq!(
            text,
            format!(
                "{{\"command\":\"set \\\"it\\\"\",\"parameters\":{given},\"command_id\":\"c-1\",\"timestamp\":\"2026-07-01T10:00:00Z\",\"expires_at\":\"2026-07-01T10:00:00Z\"}}"
            )
        );
    }

    #[test]
    fn an_answer_is_taken_apart() {
        let text = r#"{"command_id":"c-1","status":"progress","message":"half\u0000way","progress":50,"result":{"x": 1 },"more":[1]}"#;
        let answer = Answer::parse(text.as_bytes(), Some(b"c-2")).expect("an answer");
        assert_eq!(answer.command_id.as_str(), "c-1", "what is said counts before the correlation data");
        assert_eq!((answer.said, answer.progress), (Said::Progress, Some(50.0)));
        assert_eq!(answer.message.as_deref(), Some("half\u{fffd}way"));
        assert_eq!(answer.result.as_deref(), Some("{\"x\": 1 }"));
        let answer = Answer::parse(br#"{"status":"completed"}"#, Some(b"c-2")).expect("an answer");
        assert_eq!(answer.command_id.as_str(), "c-2");
    }

    #[test]
    fn what_is_no_answer_says_why() {
        let reason = |payload: &[u8], correlation| Answer::parse(payload, correlation).map_err(|rejection| rejection.reason);
        let deep = format!(
            r#"{{"command_id":"c","status":"failed","result":{}1{}}}"#,
            "[".repeat(64),
            "]".repeat(64)
        );
        let large = format!(
            r#"{{"command_id":"c","status":"failed","message":"{}"}}"#,
            "x".repeat(MAX_ANSWER_BYTES)
        );
        for (payload, expected) in [
            (&b""[..], Reason::EmptyPayload),
            (b"no json", Reason::NotJson),
            (b"\xff", Reason::BadUtf8),
            (b"[]", Reason::BadAnswer),
            (br#"{"status":"completed"}"#, Reason::BadAnswer),
            (br#"{"command_id":"a b","status":"completed"}"#, Reason::BadAnswer),
            (br#"{"command_id":"c","status":"perhaps"}"#, Reason::BadAnswer),
            (br#"{"command_id":"c","status":"progress","progress":101}"#, Reason::BadAnswer),
            (br#"{"command_id":"c","status":"progress","progress":"x"}"#, Reason::BadAnswer),
            (deep.as_bytes(), Reason::TooDeep),
            (large.as_bytes(), Reason::PayloadTooLarge),
        ] {
            assert_eq!(
                reason(payload, None),
                Err(expected),
                "{}",
                String::from_utf8_lossy(&payload[..payload.len().min(60)])
            );
        }
        assert_eq!(reason(br#"{"status":"completed"}"#, Some(b"\xff")), Err(Reason::BadAnswer));
    }

    #[test]
    fn brackets_in_texts_are_no_depth() {
        assert!(depth_fits(&format!("[\"{}\\\"{}\"]", "[".repeat(100), "{".repeat(100))));
        assert!(depth_fits(&format!("{}{}", "[".repeat(64), "]".repeat(64))));
        assert!(!depth_fits(&format!("{}{}", "[".repeat(65), "]".repeat(65))));
    }
}
