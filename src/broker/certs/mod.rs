//! A small certificate authority in one folder: what the broker shows its clients, what devices show the broker, and who is
//! revoked.
//!
//! ```text
//! serial, kind ─► index (issued.json) ◄─► store: one commit at a time, crash or not
//!                   │                          ▲
//!                   ├─► x509, crl ─► authority ┘ create, issue, renew, revoke, refresh
//!                   └─► listing: what ends when
//! ```
//!
//! Guarantees: a certificate that exists is in the index; what the index calls revoked is in the revocation list that is
//! beside it, as far as anybody can see who opens the authority; two processes never work in the folder at the same time;
//! keys are for their owner's eyes only, and the authority's own is read only while something is signed.

pub mod serial;

pub mod index;

mod store;

mod x509;

mod crl;

pub mod error;

pub mod authority;

pub mod listing;
