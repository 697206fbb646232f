//! Devices and their groups, as the database has them.
//!
//! ```text
//! registry (a device by its id) ──► groups (who belongs together)
//! ```

pub mod registry;

pub mod groups;
