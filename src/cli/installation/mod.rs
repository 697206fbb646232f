//! An installation on this machine: one folder with a broker of our own and, unless a database is named, a PostgreSQL.
//!
//! ```text
//! folder (settings, secrets, what others need to know) ─► servers (started, proven) ─► supervisor (kept in step, kept up)
//!                                                         certificates ──┴─────────────────────┘
//! ```
//!
//! `iotflow up` and `iotflow broker` are two ways to run the same thing.

pub(super) mod folder;

pub(super) mod certificates;

pub(super) mod servers;

pub(super) mod supervisor;
