//! Refusals of telemetry and dead letters, and which HTTP status each is.

use tokio_postgres::error::SqlState;

use crate::devices::telemetry::aggregate::AggregateError;
use crate::devices::telemetry::span::{BadMoment, BadSpan};
use crate::devices::telemetry::window::BadAggregation;
use crate::ingest::door;
use crate::operations::dead_letters::ReplayError;
use crate::protocol::reject::Reason;

use super::{Kind, Problem};

impl From<BadMoment> for Problem {
    fn from(error: BadMoment) -> Self {
        Self::new(Kind::BadRequest, error.to_string())
    }
}

impl From<BadSpan> for Problem {
    fn from(error: BadSpan) -> Self {
        Self::new(Kind::BadRequest, error.to_string())
    }
}

impl From<BadAggregation> for Problem {
    fn from(error: BadAggregation) -> Self {
        Self::new(Kind::BadRequest, error.to_string())
    }
}

impl From<AggregateError> for Problem {
    fn from(error: AggregateError) -> Self {
        match error {
            AggregateError::TooManyPoints | AggregateError::Overflow => Self::new(Kind::Unprocessable, error.to_string()),
            AggregateError::Database(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => Self::new(
                Kind::Timeout,
                "it takes too long to gather so much; name fewer metrics, or take a shorter span",
            ),
            AggregateError::Database(error) => Self::database(&error),
        }
    }
}

impl From<door::Refusal> for Problem {
    fn from(refusal: door::Refusal) -> Self {
        let kind = match &refusal {
            door::Refusal::Payload(rejection) if rejection.reason == Reason::PayloadTooLarge => Kind::TooLarge,
            door::Refusal::Payload(_) => Kind::Unprocessable,
            door::Refusal::RateLimited => return Self::new(Kind::TooManyRequests, refusal.to_string()).retry_after(1),
            door::Refusal::Overloaded | door::Refusal::Stopping | door::Refusal::Abandoned => {
                return Self::new(Kind::Unavailable, refusal.to_string()).retry_after(1);
            }
            // Somebody has to mend it, or it comes back by itself: within a second is seldom.
            door::Refusal::Unstored => return Self::new(Kind::Unavailable, refusal.to_string()).retry_after(5),
            door::Refusal::NoAnswer(_) => Kind::Timeout,
        };
        Self::new(kind, refusal.to_string())
    }
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Self {
        let kind = match &error {
            ReplayError::Unknown(_) => Kind::NotFound,
            ReplayError::Busy(_) => Kind::Conflict,
            ReplayError::Topic(_) | ReplayError::NoSubscribers => Kind::Unprocessable,
            ReplayError::Publish(failure) => return Self::broker(failure),
            ReplayError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}
