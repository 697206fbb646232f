//! Mosquitto's own files: who may connect, who may read and write what, how the broker is set, and how it proves itself.
//!
//! ```text
//! passwords, acl, conf ─► texts            digest, disk ─► certs ─► certificates, their keys, who is revoked
//!                                                     └─► backup ─► one archive, and back
//! ```
//!
//! Texts are rendered here; where they go and when they are applied is their callers' affair. What `disk` writes is there
//! whole or not at all, whatever happens meanwhile.

pub mod passwords;

pub mod acl;

pub mod conf;

pub mod digest;

pub mod disk;

pub mod certs;

pub mod backup;
