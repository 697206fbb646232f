//! The texts that requests carry, as the description says them: which characters, how many, or which words.
//!
//! What is read here is read elsewhere; these say to programs what those take, so that a client knows before it asks.

use std::borrow::Cow;

use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::devices::discovery;
use crate::devices::telemetry::window::Fill as Fills;
use crate::identity::audit::Action as Actions;

macro_rules! texts {
    ($($(#[doc = $doc:literal])+ $name:ident = $([$least:literal..=$most:literal])? $pattern:literal;)+) => {$(
        $(#[doc = $doc])+
        pub(super) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let text = ObjectBuilder::new().schema_type(Type::String);
                text$(.min_length(Some($least)).max_length(Some($most)))?.pattern(Some($pattern)).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )+};
}

texts! {
    /// The id of a device or a group.
    Id = [1..=64] "^[A-Za-z0-9_.:-]{1,64}$";
    /// A command's id.
    CommandId = [1..=128] "^[A-Za-z0-9_.:-]{1,128}$";
    /// What people call something: one line, in which there is something to be seen.
    Name = [1..=200] r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$";
    /// A tag or a type: the same, and shorter.
    Label = [1..=64] r"^[^\u0000-\u001f\u007f-\u009f\u2028\u2029]*[^\u0000-\u0020\u007f-\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000][^\u0000-\u001f\u007f-\u009f\u2028\u2029]*$";
    /// A text that is looked for in names and ids.
    Sought = [1..=200] r"^[^\u0000-\u001f\u007f-\u009f]{1,200}$";
    /// A text that is looked for in the audit and among dead letters.
    Exactly = [1..=1024] r"^[^\u0000]{1,1024}$";
    /// Why something was decided.
    Cause = [0..=500] r"^[^\u0000]{0,500}$";
    /// A time: RFC 3339, or an epoch number whose magnitude tells the unit.
    Moment = [1..=64] r"^([0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ]([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)([.,][0-9]+)?([Zz]|[+-]([01][0-9]|2[0-3])(:?[0-9]{2})?)?|[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?)$";
    /// Where a page begins, as the page before said it.
    Cursor = [1..=1024] "^[A-Za-z0-9_-]{1,1024}$";
    /// A window's length.
    Window = [2..=16] "^[0-9]{1,13}(s|m|min|h|d)$";
    /// Functions, with commas between.
    Functions = [1..=200] "^ *((mean|sum|count|min|max|first|last|median) *)?(, *((mean|sum|count|min|max|first|last|median) *)?)*$";
    /// Names of metrics.
    Metrics = [1..=32768] r"^[^\u0000]+$";
    /// How long an answer may be waited for.
    Patience = [1..=3] "^([0-9]|[0-5][0-9]|60)s?$";
    /// A revision as an answer gave it, or whichever there is.
    Match = r#"^(\*|"[ !#-~]{0,62}")$"#;
    /// A client's own name for a request.
    IdempotencyKey = [1..=255] "^[!-~]([ -~]{0,253}[!-~])?$";
}

macro_rules! words {
    ($($(#[doc = $doc:literal])+ $name:ident = $words:expr;)+) => {$(
        $(#[doc = $doc])+
        pub(super) enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new().schema_type(Type::String).enum_values(Some($words)).into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )+};
}

words! {
    /// Which way a list goes.
    Order = ["asc", "desc"];
    /// How an export is written.
    ExportFormat = ["csv", "ndjson"];
    /// Which channel telemetry is of.
    TelemetryKind = ["sensors", "metrics", "events"];
    /// Where a registration stands.
    Standing = discovery::State::ALL.map(discovery::State::as_str);
    /// What stands for windows without values.
    Fill = Fills::ALL.iter().map(|fill| fill.as_str());
    /// What was done.
    Action = Actions::ALL.iter().map(|action| action.as_str());
}
