//! Mosquitto's own files: who may connect, who may read and write what, and how the broker is set.
//!
//! ```text
//! passwords, acl ──► access_set: one folder, changed in one step      conf: settings and listeners
//! ```
//!
//! Guarantees: what the broker reads of who may do what is one set, whole, whatever happens to the writer; no text that the
//! broker would misread is put in place.

pub mod passwords;

pub mod acl;

pub mod access_set;

pub mod conf;

pub mod process;

pub mod sys;
