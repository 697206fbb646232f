//! Mosquitto's own files: who may connect, who may read and write what, and how the broker is set.
//!
//! It renders texts; where they go and when they are applied is its callers' affair. So far it serves the embedded broker
//! of `iotflow up` and the tests; users, certificates and reloads come with the broker's management.

pub mod passwords;

pub mod acl;

pub mod conf;

pub mod sys;
