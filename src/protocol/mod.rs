//! The language that devices and server share: topics, ids, times and payloads. No I/O.
//!
//! ```text
//! topic bytes ──► topic ──► DeviceId + Channel      channels: the whole tree, as a table
//! role, groups ──► rights: what the broker is to grant      filter: what a subscription can bring
//! payload bytes ─► payload ─► Reading (time, names, values, extra) or Event, else a Reason
//! ```
//!
//! Guarantees: whatever the bytes are, each payload ends as readings or as exactly one [`reject::Rejection`];
//! parsing a well-formed payload allocates nothing once the buffers have grown to their size.

pub mod id;
pub mod topic;

pub mod channels;

pub mod filter;

pub mod command;

pub mod rights;

pub mod reject;

pub mod time;

mod json;
pub mod payload;
