//! The service's own `doorbell` and `ledger`, word for word, on loom's primitives: what the models in `tests/` drive.
//!
//! No `--cfg loom`: the flag would go to every crate of the build, and tokio has a meaning of its own for it.
// The unit tests in those files are the service's, and clippy would build them here too.
#![cfg(not(test))]

#[path = "../../../src/ingest/doorbell.rs"]
pub mod doorbell;

#[path = "../../../src/ingest/ledger.rs"]
pub mod ledger;

pub mod sync;

/// Tries every order in which at most `preemptions` times a thread is interrupted where it could have gone on. Where two
/// threads race a third, all orders are too many; a mistake shows with two interruptions, or hardly ever.
pub fn in_every_order_with(preemptions: usize, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.check(model);
}
