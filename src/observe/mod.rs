//! What the service says of itself: metrics, the account of every message, and the log.
//!
//! ```text
//! stages ──counts per burst or batch──► accounting ─┐
//! stages ──handles────────────────────► metrics ────┴─► expose ──► /metrics/qos, /metrics
//! ```
//!
//! Guarantees: nothing global, so two services can live in one process; every series is declared on the page
//! [`metrics`]; in each scrape `received = committed + duplicates + dead-lettered + shed + abandoned + in flight`.

pub mod metrics;

pub mod accounting;

pub mod expose;

pub mod quality;

pub mod logging;

pub mod secret;
