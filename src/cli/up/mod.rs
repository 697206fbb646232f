//! `iotflow up`: everything at once, for trying it out.
//!
//! ```text
//! servers (ours, unless named) ─► the service ─► fleet ─► display, while it runs ─► account, at the end
//! ```

mod plan;

mod servers;

mod fleet;

mod display;

mod account;

pub(super) use plan::{command, run};
