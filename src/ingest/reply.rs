//! What becomes of a delivery, told to whoever waits for it: after the commit, and never before.
//!
//! A reply travels with its delivery, as a ticket does. Where the delivery's batch is settled it is told the verdict; dropped
//! without a word it says that nothing was stored as far as is known, and the sender sends again: what was stored after all is
//! recognised then.

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::protocol::reject::Rejection;

use super::receipts::{Outbox, Receipt};

/// What became of a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Committed, with at least one new row.
    Committed,
    /// Every row was there already.
    Duplicate,
    /// It is a dead letter, in whole or in part, and this is why.
    DeadLettered(Rejection),
}

impl Verdict {
    /// The verdict's stable name.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Committed => "committed",
            Self::Duplicate => "duplicate",
            Self::DeadLettered(_) => "dead_lettered",
        }
    }
}

/// Who waits to hear of a delivery.
#[derive(Debug)]
pub enum Reply {
    /// A request that is held until then.
    Door(oneshot::Sender<Verdict>),
    /// A device that wants a receipt.
    Receipt {
        /// Where receipts go out.
        outbox: Outbox,
        /// The device's own topic for them.
        topic: String,
        /// Its correlation data, to go back as they came.
        correlation: Option<Bytes>,
    },
}

impl Reply {
    /// Says what became of the delivery. To be called once its transaction is committed.
    pub fn tell(self, verdict: Verdict) {
        match self {
            // Nobody waits any more where the request's time was up.
            Self::Door(waiting) => drop(waiting.send(verdict)),
            Self::Receipt {
                outbox,
                topic,
                correlation,
            } => outbox.put(Receipt {
                topic,
                correlation,
                verdict,
            }),
        }
    }
}
