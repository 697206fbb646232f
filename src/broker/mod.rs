//! Mosquitto's own affairs: who may connect, who may read and write what, how the broker is set, how it proves itself, and how
//! it is.
//!
//! ```text
//! passwords, acl ─► access_set ─► shelf: changed in one step     conf ─► settings and listeners
//! digest, disk ─► certs ─► certificates, their keys, who is revoked   process ─► told to read them
//!             └─► backup ─► one archive, and back                     persistence ─► told to write its sessions
//!                                                                     sys ─► what it says of itself
//! ```
//!
//! Guarantees: what `disk` writes is there whole or not at all, whatever happens meanwhile; no text that the broker would misread
//! is put in place.

pub mod passwords;

pub mod acl;

pub mod conf;

pub mod digest;

pub mod disk;

pub mod access_set;

pub mod shelf;

pub mod certs;

pub mod backup;

pub mod process;

pub mod persistence;

pub mod sys;
