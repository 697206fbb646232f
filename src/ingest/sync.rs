//! What threads meet by in `doorbell` and `ledger`, under the names those files use.
//!
//! The models of tests/models compile the same two files with loom's primitives in the place of these, and so try every
//! order in which threads can run, and every value that a memory weaker than this machine's may show.

pub(super) use std::sync::Arc;
pub(super) use std::sync::atomic::{AtomicBool, AtomicU8, Ordering, fence};

pub(super) use crossbeam::sync::{Parker, Unparker};
pub(super) use metrics::Counter;
pub(super) use tokio::sync::Notify;
