//! `iotflow broker backup` and `restore`, as they are typed, with real servers.

#[path = "../backup/forge.rs"]
#[allow(dead_code, reason = "another test uses the rest of it")]
mod forge;
mod refused;
mod round_trip;
#[path = "../support/mod.rs"]
mod support;
