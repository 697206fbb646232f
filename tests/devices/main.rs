//! Devices, their groups, credentials and configurations: what operators do, on a real PostgreSQL.
#![allow(unreachable_pub, dead_code, reason = "the parts of this test use each other's items")]

#[path = "../support/mod.rs"]
mod support;
#[path = "../operators/trial.rs"]
mod trial;

mod backup;
mod bulk;
mod configs;
mod credentials;
mod groups;
mod locks;
mod presence;
mod registry;
mod terminal;
