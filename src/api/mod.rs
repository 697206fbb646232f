//! The operator's door. For machines, without a credential:
//!
//! - `GET /metrics/qos`: the delivery-quality series, `GET /metrics`: all others;
//! - `GET /livez`: the process answers; `GET /readyz`: every part can do its work, `?verbose` says which and why not, as
//!   JSON; `GET /healthz`: the same as `/readyz`, for those who know that name only.

mod health;

mod metrics;

pub mod server;
