//! Why a message, or an element of one, is refused: the closed list that dead letters and counters share.

use std::borrow::Cow;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// The rule that a message broke. The text is stored in `dead_letters.reason` and is a metric's label.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $name,)+ }

        impl Reason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason's stable name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

reasons! {
    /// The topic is not one of the tree.
    UnknownTopic => "unknown_topic",
    /// The topic's device level is not of the grammar.
    BadDeviceId => "bad_device_id",
    /// Nothing in it.
    EmptyPayload => "empty_payload",
    /// Larger than the configured limit.
    PayloadTooLarge => "payload_too_large",
    /// Begins with U+FEFF, which RFC 8259 section 8.1 forbids.
    ByteOrderMark => "byte_order_mark",
    /// Not UTF-8.
    BadUtf8 => "bad_utf8",
    /// Not JSON (RFC 8259).
    NotJson => "not_json",
    /// A literal such as `NaN` or `-Infinity`, which JSON does not have.
    NonFiniteNumber => "non_finite_number",
    /// A number whose magnitude no double can hold.
    NumberOutOfRange => "number_out_of_range",
    /// Nested deeper than 64.
    TooDeep => "too_deep",
    /// JSON, but neither an object nor an array of objects.
    NotObject => "not_object",
    /// An array with nothing in it.
    EmptyArray => "empty_array",
    /// Some elements of an array were refused; the detail names them, the others are stored.
    BadElements => "bad_elements",
    /// More than 1,024 fields.
    TooManyFields => "too_many_fields",
    /// The same key twice.
    DuplicateKey => "duplicate_key",
    /// A key that cannot name a metric: empty, or over 256 bytes.
    BadMetricName => "bad_metric_name",
    /// `\u0000` in a key or text, which PostgreSQL cannot store.
    NulCharacter => "nul_character",
    /// No value to store.
    NoValues => "no_values",
    /// The payload's `device_id` is not the topic's.
    DeviceIdMismatch => "device_id_mismatch",
    /// A time that cannot be read.
    BadTime => "bad_time",
    /// A time outside the accepted window.
    TimeOutOfWindow => "time_out_of_window",
    /// The device has used up its number of distinct metrics.
    TooManyMetrics => "too_many_metrics",
    /// The device sent more than it is allowed; it was not parsed.
    RateLimited => "rate_limited",
    /// No answer to a command, or one without what an answer needs.
    BadAnswer => "bad_answer",
    /// An answer to a command that its device was never sent.
    UnknownCommand => "unknown_command",
    /// PostgreSQL refused the row.
    RejectedByDatabase => "rejected_by_database",
}

/// A refusal: the rule, and what exactly was wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Rejection {
    /// The rule.
    pub reason: Reason,
    /// What was found and what would be right.
    pub detail: Cow<'static, str>,
}

impl Rejection {
    /// A refusal by `reason`.
    pub fn new(reason: Reason, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            reason,
            detail: detail.into(),
        }
    }
}
