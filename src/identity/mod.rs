//! Who is who: operators by token or JWT, the users of the broker, and the audit of what was done.
//!
//! ```text
//! bearer ──► tokens (a row of api_tokens) ──┐
//!        └─► jwt (a signature, claims) ─────┴─► principal (name, role) ──► an act ──► audit (a row of audit_log)
//! command line ──► an account of the operating system ───────────────────────┘
//!
//! a device over HTTP ──► device_keys (a row of device_keys) ──► which device it is
//!
//! users (who the broker knows, by the hashes of their passwords) ◄──► export (all of them, for a backup)
//! ```
//!
//! Guarantees: no secret is stored, only hashes, and a token is shown once; a JWT counts only if a key of the configured file
//! signed it, by that key's own algorithm, for this service; an act and its entry in the audit are one transaction.

pub mod principal;

pub mod audit;

mod spelling;

pub mod tokens;

pub mod device_keys;

pub mod jwt;

pub mod users;

pub mod export;
