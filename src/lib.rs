//! IoTFlow takes the telemetry of whole fleets from MQTT into PostgreSQL: nothing acked is lost, nothing is stored twice.
//!
//! ```text
//!                 ┌──────────────────────────── ingest ────────────────────────────┐
//! devices ─► broker ─► mqtt ─► subscribe ─► queue ─► parse ─► batch ─► copy ─► db ─► PostgreSQL
//!                                 ▲            a shard each, by device     │
//!                                 └───────────── acks, in order ◄──────────┘
//! ```
//!
//! The modules in the order in which a reader wants them; each uses only what stands above it.

pub mod protocol;

pub mod observe;

pub mod lifecycle;

pub mod db;
pub mod mqtt;

pub mod broker;
pub mod devices;
pub mod identity;
pub mod ingest;
pub mod stack;

pub mod access;
pub mod operations;

pub mod courier;

pub mod api;

pub mod config;

pub mod app;

pub mod cli;
