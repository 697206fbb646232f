//! Commands against a real broker and a real database: their whole life, offline devices, fleets, kills, hostile answers.
#![allow(unreachable_pub, reason = "the parts of this test use each other's items")]

#[path = "../support/mod.rs"]
mod support;

mod base;
mod device;
mod plant;
mod stage;

mod answers;
mod door;
mod fleets;
mod kills;
mod life;
mod load;
mod locks;
mod news;
mod retention;
mod shares;
mod steps;
mod waiting;
