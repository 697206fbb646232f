//! The walk-throughs of the platform against a real service, broker and database, with devices and operators of another make:
//! paho for Python, `mosquitto_pub` and `mosquitto_sub`, `curl`.
#![allow(unreachable_pub, reason = "the parts of this test use each other's items")]

#[path = "../support/mod.rs"]
mod support;

mod paho;
mod programs;
mod trial;

mod commands;
mod discovery;
mod fleet;
mod sensor;
mod tail;
mod telemetry;
