//! Telemetry over HTTP, in and out, and dead letters, on real servers.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the parts of this test use each other's items, and a part of another's"
)]

#[path = "../support/mod.rs"]
mod support;
#[path = "../api/trial.rs"]
mod trial;

mod deletion;
mod hostile;
mod letters;
mod pages;
mod reads;
mod submission;
