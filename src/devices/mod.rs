//! Devices and their groups, as the database has them.
//!
//! ```text
//! label, patch (what people write) ──► registry (a device by its id) ──► groups (who belongs together) ──► export (all, for a backup)
//!                                        │ ├──► device, list (as it is read)
//!                                        │ ├──► presence (where it stands, the sweep)
//!                                        │ └──► bulk (many at once)
//!                                        ├────► desired (how it is to be set) ──► outbox (what is to be said)
//!                                        ├────► discovery (who asks for credentials)
//!                                        ├────► telemetry (what they sent, read again), stats (how much of everything)
//!                                        └────► commands (what they are told, and answer)
//! ```

pub mod label;

pub mod device;

pub mod patch;

pub mod registry;

pub mod list;

pub mod groups;

pub mod presence;

pub mod outbox;

pub mod desired;

pub mod discovery;

pub mod bulk;

pub mod export;

pub mod telemetry;

pub mod stats;

pub mod commands;

pub mod refused;
