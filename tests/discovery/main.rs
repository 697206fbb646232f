//! Devices that ask for credentials, at a real broker that obeys the database: who gets them, once, and over which wire.
#![allow(
    dead_code,
    unreachable_pub,
    reason = "the parts of this test use each other's items, and a part of another's"
)]

#[path = "../support/mod.rs"]
mod support;

mod crowd;
mod keys;
mod requests;
mod trial;
