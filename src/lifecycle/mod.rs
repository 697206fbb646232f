//! How the service starts, stays up and stops.
//!
//! ```text
//! signals ──► Stop token ──► sources stop reading ──► requests are answered ──► inboxes close ──► stages end ──► tasks are joined
//! readiness ◄── every part says whether it can do its work, and why not
//! ```
//!
//! Guarantees: a task has a name; when one crashes, the rest is stopped in order and the exit code says so.

pub mod backoff;

pub mod readiness;

pub mod signals;

pub mod tasks;
