//! What devices have sent, read again: ranges, newest values, aggregates, exports; and deleted.
//!
//! ```text
//! span (from, to) ──► range, events ──► export (a page at a time)
//!               ├───► aggregate (windows, fill)
//!               └───► delete (a transaction at a time, `latest` mended)
//! latest (a device's, or a group's)
//! ```
//!
//! Devices are given by their number (`registry`). Metric names are any text, and bound as parameters. Lists go by key and not
//! by offset, so a page costs the same wherever it begins.

pub mod span;

pub mod range;

pub mod events;

pub mod latest;

pub mod window;

pub mod aggregate;

mod fill;

pub mod export;

pub mod delete;
