//! The operator's door, over real HTTP, with a real broker and a real database behind it.

#[path = "../support/mod.rs"]
mod support;

mod authorisation;
mod bulk;
mod crowds;
mod cursors;
mod devices;
mod document;
mod door;
mod groups;
mod messages;
mod topics;
mod trial;
