//! How far a command has come with a device: the states, and the steps that there are between them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

macro_rules! states {
    ($($name:ident = $text:literal, $rank:literal, $doc:literal;)+) => {
        /// Where a delivery stands.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Deserialize, Serialize, ToSchema)]
        #[serde(rename_all = "lowercase")]
        #[schema(as = CommandState)]
        pub enum State { $(#[doc = $doc] $name,)+ }

        impl State {
            /// All of them, in the order of a life.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As it stands in the table.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }

            const fn rank(self) -> u8 {
                match self { $(Self::$name => $rank,)+ }
            }
        }
    };
}

states! {
    Queued = "queued", 0, "It waits: for its turn, the broker, or the device.";
    Sent = "sent", 1, "The broker has it.";
    Delivered = "delivered", 2, "The device has it.";
    Accepted = "accepted", 3, "The device will do it.";
    Progress = "progress", 4, "The device is at it.";
    Completed = "completed", 5, "The device did it.";
    Failed = "failed", 5, "The device could not, or the broker refused it.";
    Expired = "expired", 5, "Its time was over before it came to an end.";
    Cancelled = "cancelled", 5, "It was taken back before it was sent.";
}

impl State {
    /// Whether nothing follows.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.rank() == Self::Completed.rank()
    }

    /// Whether `next` may follow. A device may leave steps out, and tell of its progress again and again.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        match next {
            // What was sent cannot be taken back.
            Self::Cancelled => matches!(self, Self::Queued),
            Self::Progress => self.rank() <= next.rank(),
            _ => self.rank() < next.rank(),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is no state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a state is queued, sent, delivered, accepted, progress, completed, failed, expired or cancelled")]
pub struct BadState;

impl FromStr for State {
    type Err = BadState;

    fn from_str(text: &str) -> Result<Self, BadState> {
        Self::ALL.iter().copied().find(|state| state.as_str() == text).ok_or(BadState)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_goes_forward_only() {
        for (at, state) in State::ALL.iter().enumerate() {
            assert_eq!(state.as_str().parse(), Ok(*state));
            for earlier in &State::ALL[..at] {
                assert!(!state.may_become(*earlier), "{state} to {earlier}");
            }
            assert_eq!(state.may_become(*state), *state == State::Progress, "{state} again");
            assert_eq!(state.may_become(State::Expired), !state.is_final(), "{state} expires");
        }
        assert!(
            State::Queued.may_become(State::Completed),
            "an answer may overtake what the broker says"
        );
        assert!(State::Queued.may_become(State::Cancelled));
        assert!(!State::Sent.may_become(State::Cancelled));
    }
}
