//! What the service needs in order to do its work, and whether it has it.
//!
//! Each part holds a [`Latch`] and sets it; `/readyz` reads them all. A latch can be fine, fine with warnings (data is
//! safe, but something caps the rate or may drop messages elsewhere), or not ready.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use utoipa::ToSchema;

/// The state of one part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Condition {
    /// Whether the part can do its work.
    pub ready: bool,
    /// Why not, or what it is doing.
    pub detail: String,
    /// What an operator should know although the part works.
    pub warnings: Vec<String>,
}

/// The board on which all parts post their condition.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, Condition>>>);

/// One part's place on the board.
#[derive(Debug, Clone)]
pub struct Latch {
    name: String,
    board: Readiness,
}

impl Readiness {
    /// A place on the board, not ready until said otherwise.
    #[must_use]
    pub fn latch(&self, name: &str) -> Latch {
        let condition = Condition {
            ready: false,
            detail: "starting".to_owned(),
            warnings: Vec::new(),
        };
        self.board().insert(name.to_owned(), condition);
        Latch {
            name: name.to_owned(),
            board: self.clone(),
        }
    }

    /// Whether every part is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.board().values().all(|condition| condition.ready)
    }

    /// Every part's condition, by name.
    #[must_use]
    pub fn conditions(&self) -> BTreeMap<String, Condition> {
        self.board().clone()
    }

    fn board(&self) -> MutexGuard<'_, BTreeMap<String, Condition>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Latch {
    /// The part works.
    pub fn ready(&self, detail: impl Into<String>) {
        self.set(true, detail.into());
    }

    /// The part does not work, for the reason given.
    pub fn unready(&self, detail: impl Into<String>) {
        self.set(false, detail.into());
    }

    /// Adds what an operator should know; said once however often it is found.
    ///
    /// Returns whether it is new.
    pub fn warn(&self, warning: &str) -> bool {
        let mut board = self.board.board();
        let Some(condition) = board.get_mut(&self.name) else { return false };
        let new = !condition.warnings.iter().any(|known| known == warning);
        if new {
            condition.warnings.push(warning.to_owned());
        }
        new
    }

    /// Forgets all warnings, where they may no longer hold.
    pub fn clear_warnings(&self) {
        if let Some(condition) = self.board.board().get_mut(&self.name) {
            condition.warnings.clear();
        }
    }

    /// Whether the part works, as it said last.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.board.board().get(&self.name).is_some_and(|condition| condition.ready)
    }

    fn set(&self, ready: bool, detail: String) {
        if let Some(condition) = self.board.board().get_mut(&self.name) {
            (condition.ready, condition.detail) = (ready, detail);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_when_every_part_is() {
        let board = Readiness::default();
        let (database, broker) = (board.latch("database"), board.latch("broker"));
        database.ready("connected");
        assert!(database.is_ready() && !broker.is_ready());
        assert!(!board.is_ready(), "the broker has not spoken yet");
        broker.ready("subscribed");
        assert!(board.is_ready());
        assert!(broker.warn("window capped"));
        assert!(!broker.warn("window capped"), "the same warning twice is one");
        assert!(board.is_ready(), "a warning does not make a part unready");
        broker.unready("connection refused");
        assert!(!board.is_ready());
    }
}
