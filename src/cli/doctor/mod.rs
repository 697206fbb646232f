//! `iotflow doctor`: looks at a running installation, and says of each thing how it is, what was found, and what to do.
//!
//! ```text
//!              ┌ settings, service
//! patient ─────┼ broker, certificates ─┐
//! (what there  ├ entry, leaks ─────────┼──► findings ──► print (people, JSON)
//!  is to ask)  ├ access, clock ────────┤
//!              └ database, sessions, storage, disk
//! ```
//!
//! Guarantees: nothing is changed, and no user is made; what lets people in, or lets them do what they must not, is tried and
//! not inferred; a thing that cannot be asked is said to be so, and the others are asked all the same.

mod finding;

mod patient;

mod place;

mod web_sockets;

mod settings;

mod broker;

mod limits;

mod certificates;

mod entry;

mod leaks;

mod access;

mod clock;

mod database;

mod sessions;

mod storage;

mod disk;

mod service;

mod print;

mod command;

pub(super) use command::{command, run};
