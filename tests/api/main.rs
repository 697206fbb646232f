//! The operator's door, over real HTTP, with a real broker and a real database behind it.

#[path = "../support/mod.rs"]
mod support;

mod authorisation;
mod document;
mod door;
mod messages;
mod topics;
mod trial;
