//! JWTs of an issuer elsewhere: who their bearer is, or exactly why they are not taken.
//!
//! ```text
//! the file ──► pem, jwks ──► keys ──► key_file (read again when it changes)
//!                                        │
//! a token ──► jws (parts, header, signature) ──► claims (who, until when, for whom) ──► verifier: a principal
//!                 members (JSON without doubles)            refusal: one reason each
//! ```
//!
//! Guarantees: a signature counts by the algorithm that its *key* is bound to, and the header only has to agree; keys come
//! from the configured file alone, whatever a header brings along; nothing in a token is believed before its signature is
//! verified, but for the name of the algorithm and of the key.
//!
//! The signatures are `ring`'s, called directly. A JWT library would bring its own idea of headers, a provider set for the
//! whole process, and for RSA a crate with an open advisory (RUSTSEC-2023-0071) or a second provider beside the one for TLS;
//! what is left to do here is three parts of base64 and a table of rules, which are better read on one page than configured.

pub mod config;

pub mod refusal;

mod members;

pub mod keys;

mod pem;

mod jwks;

pub mod key_file;

mod jws;

mod claims;

pub mod verifier;

#[cfg(test)]
mod testing;
