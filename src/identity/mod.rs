//! Who is who: the users of the broker.
//!
//! Guarantee: no secret is stored, only hashes.

pub mod users;
