//! Devices and their groups, as the database has them.
//!
//! ```text
//! registry (a device by its id) ──► groups (who belongs together) ──► export (all of them, for a backup)
//!                          └──────► telemetry (what they sent, read again), stats (how much of everything)
//! ```

pub mod registry;

pub mod groups;

pub mod export;

pub mod telemetry;

pub mod stats;
