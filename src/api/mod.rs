//! The operator's door.
//!
//! ```text
//! server (connection) ──► layers (id, time, streams, count) ──► routes ──► auth (who, may they) ──► a noun's handler ──► answer
//!                                                                       └ guard                    └──► error (problem document)
//! ```
//!
//! Below `/api/v1` every endpoint asks for a credential; `/docs` shows them all. For machines, without a credential:
//!
//! - `GET /metrics/qos`: the delivery-quality series, `GET /metrics`: all others;
//! - `GET /livez`: the process answers; `GET /readyz`: every part can do its work, `?verbose` says which and why not, as
//!   JSON; `GET /healthz`: the same as `/readyz`, for those who know that name only.

pub mod routes;
pub mod server;
pub mod state;

mod connection;
mod streams;

mod auth;
mod guard;
mod layers;

mod answer;
mod error;
mod extract;
mod grammar;
mod page;
mod precondition;

mod docs;
mod health;
mod metrics;

mod discovery;
mod messages;
mod mqtt;
mod topics;

mod bulk;
mod command_views;
mod commands;
mod configs;
mod credentials;
mod devices;
mod fleets;
mod groups;

mod telemetry;

mod admin;
mod audit;
mod dead_letters;
