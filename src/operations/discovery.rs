//! Registrations: a device asks, a policy or a person decides, credentials are made once.
//!
//! ```text
//! introduction ──► request (by policy) ──► decision (a person's) ──► credentials
//! ```

mod introduction;

mod request;

mod decision;

mod credentials;

pub use introduction::{BadRequest, Introduction, MAX_REQUEST_BYTES, public_key};

pub use request::{BadPolicy, Policy, Told, request};

pub use decision::{DecideError, approve, expect, forget, reject};

pub use credentials::{Batch, Made, MakeError, issued, make};
