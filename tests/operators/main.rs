//! Operators' credentials and the audit, through the real binary on a real PostgreSQL.
#![allow(unreachable_pub, reason = "the parts of this test use each other's items")]

#[path = "../support/mod.rs"]
mod support;
mod trial;

mod audit;
mod jwt;
mod tokens;
