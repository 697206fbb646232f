//! One archive of files that belong together, and the way back: tar in gzip, with a list of its contents first.
//!
//! ```text
//! folders, files ─► create ─► manifest.json, then each entry ─► restore ─► a folder beside the target ─► the target
//! ```
//!
//! Guarantees: an archive is there whole or not at all, and only its owner can read it; the target of a restore is changed
//! only after every entry was found to be what the manifest says, and all at once; an archive from a stranger can neither
//! reach outside of the target nor fill the disk.

pub mod manifest;

pub mod create;

pub mod restore;
