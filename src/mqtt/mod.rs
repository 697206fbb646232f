//! The wire in: one MQTT 5 connection, driven by whoever owns it.
//!
//! ```text
//! config ──► tls ──► connection: bytes ⇄ packets of rumqttc's v5 codec ◄── publish: what may go out, and how it is answered
//!              │                                                              └ publisher: one connection for whoever has a word to say
//!              └ inspect: what a broker shows, good or not
//! ```
//!
//! rumqttc's own event loop writes and flushes each ack by itself and cannot tell which connection an ack belongs to.
//! Here the owner of a [`connection::Connection`] puts all acks of a commit into one write, and a connection that ended is
//! gone with its unsent acks: a late ack has nowhere to go. ARCHITECTURE.md says what this gained.

pub mod config;

pub mod tls;

pub mod connection;

pub mod publish;

pub mod publisher;

pub mod inspect;
