//! What operators do, whether they come over HTTP or by the command line: each act is one transaction with its entry in the audit.
//!
//! ```text
//! api, cli ──► operations ──► devices (rows) + identity (credentials, audit) ──► PostgreSQL ──► access, courier
//! ```

pub mod devices;

pub mod credentials;

pub mod groups;

pub mod configs;

pub mod bulk;

pub mod discovery;

pub mod messages;

pub mod telemetry;

pub mod dead_letters;

pub mod commands;

pub mod waiting;
