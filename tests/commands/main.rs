//! Commands against a real broker and a real database: their whole life, offline devices, fleets, kills, hostile answers.

#[path = "../support/mod.rs"]
mod support;

mod device;
mod plant;

mod answers;
mod fleets;
mod kills;
mod life;
