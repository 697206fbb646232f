//! Who may do what, from the database into the broker.
//!
//! ```text
//! database ──NOTIFY──► agent ──► apply: snapshot ──► render ──► put in place ──► SIGHUP ──► prove ──► end what may not stay
//!                                                                                            └ not proven: take back, alarm
//! ```
//!
//! Guarantees: the broker obeys one version of the database, whole; what was not proven is taken back, and an alarm says so;
//! many changes at once cost few reloads; who may no longer log in is disconnected.

pub mod prove;

pub mod apply;

pub mod agent;

pub mod state;
