//! Refusals, as problem documents (RFC 9457): the one place that knows which fault is which HTTP status.

use std::borrow::Cow;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio_postgres::error::SqlState;
use tracing::error;
use utoipa::ToSchema;

use crate::courier::tap::TapError;
use crate::devices::desired::{BadConfig, DesiredError};
use crate::devices::groups::GroupError;
use crate::devices::label::BadLabel;
use crate::devices::patch::BadPatch;
use crate::devices::registry::RegistryError;
use crate::devices::telemetry::aggregate::AggregateError;
use crate::devices::telemetry::span::{BadMoment, BadSpan};
use crate::devices::telemetry::window::BadAggregation;
use crate::identity::users::UserError;
use crate::ingest::door;
use crate::mqtt::publisher::Failure;
use crate::operations::bulk::ImportError;
use crate::operations::credentials::CredentialError;
use crate::operations::dead_letters::ReplayError;
use crate::operations::devices::DeviceError;
use crate::operations::discovery::DecideError;
use crate::operations::messages;
use crate::protocol::id::BadGroupId;
use crate::protocol::reject::Reason;

/// What kind of refusal it is. The name is stable: programs tell problems apart by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The request makes no sense as it stands.
    BadRequest,
    /// Nobody stands behind it.
    Unauthorized,
    /// Whoever stands behind it may not.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// The path has no such method.
    MethodNotAllowed,
    /// The answer cannot be given in a form that is asked for.
    NotAcceptable,
    /// It contradicts what is there.
    Conflict,
    /// What is there is not what the request was made for (If-Match).
    PreconditionFailed,
    /// The body is larger than what is taken.
    TooLarge,
    /// The body is of a type that is not taken.
    UnsupportedMediaType,
    /// The body is well formed, and what it says is not.
    Unprocessable,
    /// Too much at once, or too many wrong credentials.
    TooManyRequests,
    /// Something of ours is away for now.
    Unavailable,
    /// It took too long.
    Timeout,
    /// The broker refused, or its answer cannot be used.
    Broker,
    /// A fault of ours.
    Internal,
}

impl Kind {
    const fn parts(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request", "Bad request"),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "unauthorized", "A credential is needed"),
            Self::Forbidden => (StatusCode::FORBIDDEN, "forbidden", "Not allowed"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found", "Not found"),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method not allowed"),
            Self::NotAcceptable => (StatusCode::NOT_ACCEPTABLE, "not_acceptable", "Not acceptable"),
            Self::Conflict => (StatusCode::CONFLICT, "conflict", "Conflict"),
            Self::PreconditionFailed => (StatusCode::PRECONDITION_FAILED, "precondition_failed", "It has changed meanwhile"),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too_large", "Too large"),
            Self::UnsupportedMediaType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported_media_type",
                "Unsupported media type",
            ),
            Self::Unprocessable => (StatusCode::UNPROCESSABLE_ENTITY, "unprocessable", "Not valid"),
            Self::TooManyRequests => (StatusCode::TOO_MANY_REQUESTS, "too_many_requests", "Too many requests"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable", "Not available now"),
            Self::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout", "It took too long"),
            Self::Broker => (StatusCode::BAD_GATEWAY, "broker", "The broker refused"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal", "Internal error"),
        }
    }
}

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    kind: Kind,
    detail: Cow<'static, str>,
    errors: Vec<String>,
    retry_after_seconds: Option<u64>,
}

/// A problem document (RFC 9457). `error` and `message` say the same as `type` and `detail`, for older clients.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Document<'a> {
    /// A URI that names the kind of problem.
    #[schema(example = "urn:iotflow:problem:not_found")]
    r#type: String,
    /// The kind in words.
    #[schema(example = "Not found")]
    title: &'a str,
    /// The HTTP status.
    #[schema(value_type = u16, example = 404, minimum = 400, maximum = 599)]
    status: u16,
    /// What was wrong with this request, and what would be right.
    detail: &'a str,
    /// The path that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    /// The request's id, under which the log has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    /// The kind, in one word.
    #[schema(example = "not_found")]
    error: &'a str,
    /// The same as `detail`.
    message: &'a str,
    /// Every fault, where there is more than one.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    errors: &'a [String],
}

impl Problem {
    /// A refusal of this kind; `detail` is a sentence for whoever sent the request.
    pub(super) fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after_seconds: None,
        }
    }

    /// The same, with every fault there is.
    pub(super) fn with_errors(mut self, errors: Vec<String>) -> Self {
        self.errors = errors;
        self
    }

    /// The same, and when to come again.
    pub(super) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds.max(1));
        self
    }

    /// Whether it is for want of a credential, or for a wrong one.
    pub(super) fn is_unauthorized(&self) -> bool {
        self.kind == Kind::Unauthorized
    }

    /// A fault of ours: the cause goes to the log, and not to the client.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        error!(%cause, "a request failed by a fault of ours");
        Self::new(Kind::Internal, "the service failed; its log has the request's id and the cause")
    }

    /// The database is away, or said no to something that is no fault of the request's.
    pub(super) fn database(error: &tokio_postgres::Error) -> Self {
        use crate::db::error::{Fault, describe};
        match Fault::of(error) {
            Fault::Transient => {
                error!(error = describe(error), "the database does not answer a request");
                Self::new(Kind::Unavailable, "the database does not answer now; try again").retry_after(1)
            }
            _ => Self::internal(&describe(error)),
        }
    }

    /// What the broker, or the way to it, did not let happen.
    pub(super) fn broker(failure: &Failure) -> Self {
        let kind = match failure {
            Failure::Unfit(_) => Kind::Unprocessable,
            Failure::Refused(_) | Failure::Unsupported(_) => Kind::Broker,
            Failure::Away(_) | Failure::Unknown | Failure::QueueFull | Failure::Stopping => Kind::Unavailable,
        };
        let problem = Self::new(kind, failure.to_string());
        if kind == Kind::Unavailable {
            problem.retry_after(5)
        } else {
            problem
        }
    }

    /// As a document, for the request at `instance` with this id.
    pub(super) fn render(&self, instance: Option<&str>, request_id: Option<&str>) -> Response {
        let (status, name, title) = self.kind.parts();
        let document = Document {
            r#type: format!("urn:iotflow:problem:{name}"),
            title,
            status: status.as_u16(),
            detail: &self.detail,
            instance,
            request_id,
            error: name,
            message: &self.detail,
            errors: &self.errors,
        };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = self.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.kind == Kind::Unauthorized {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"iotflow\""));
        }
        response
    }
}

impl IntoResponse for Problem {
    /// Where it happened and the request's id are filled in on the way out; see `api::layers`.
    fn into_response(self) -> Response {
        let mut response = self.render(None, None);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<tokio_postgres::Error> for Problem {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::database(&error)
    }
}

impl From<deadpool_postgres::PoolError> for Problem {
    fn from(error: deadpool_postgres::PoolError) -> Self {
        match error {
            deadpool_postgres::PoolError::Backend(error) => Self::database(&error),
            error => {
                error!(%error, "no connection to the database for a request");
                Self::new(
                    Kind::Unavailable,
                    "the database cannot be reached now, or all connections to it are in use; try again",
                )
                .retry_after(1)
            }
        }
    }
}

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

impl From<messages::PublishError> for Problem {
    fn from(error: messages::PublishError) -> Self {
        use messages::PublishError as E;
        let kind = match &error {
            E::Topic(..) | E::Retained(_) => Kind::Unprocessable,
            E::Outside(..) | E::Role(..) => Kind::Forbidden,
            E::Broker(failure) => return Self::broker(failure),
            E::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<DecideError> for Problem {
    fn from(error: DecideError) -> Self {
        let kind = match &error {
            DecideError::Unknown(_) => Kind::NotFound,
            DecideError::State { .. } | DecideError::HasCredentials(_) => Kind::Conflict,
            DecideError::Name(_) => Kind::Unprocessable,
            DecideError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<TapError> for Problem {
    fn from(error: TapError) -> Self {
        match &error {
            TapError::TooMany => Self::new(Kind::TooManyRequests, error.to_string()).retry_after(60),
            TapError::Refused(_) => Self::new(Kind::Broker, error.to_string()),
            TapError::Connection(_) | TapError::Silent(_) => Self::new(Kind::Unavailable, error.to_string()).retry_after(5),
        }
    }
}

impl From<RegistryError> for Problem {
    fn from(error: RegistryError) -> Self {
        let kind = match &error {
            RegistryError::Unknown(_) => Kind::NotFound,
            RegistryError::Exists(_) => Kind::Conflict,
            RegistryError::Revision { .. } => Kind::PreconditionFailed,
            RegistryError::Label(_) => Kind::Unprocessable,
            RegistryError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        let kind = match &error {
            GroupError::Unknown(_) => Kind::NotFound,
            GroupError::Exists(_) | GroupError::Dynamic(_) => Kind::Conflict,
            GroupError::Revision { .. } => Kind::PreconditionFailed,
            GroupError::NoDevice(_) | GroupError::TooMany(_) | GroupError::Label(_) => Kind::Unprocessable,
            GroupError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        let kind = match &error {
            UserError::Exists(_) => Kind::Conflict,
            UserError::Unknown(_) => Kind::NotFound,
            UserError::Reserved(_) => Kind::Unprocessable,
            UserError::Stored(_) => return Self::internal(&error),
            UserError::Database(error) => return Self::database(error),
        };
        Self::new(kind, error.to_string())
    }
}

impl From<CredentialError> for Problem {
    fn from(error: CredentialError) -> Self {
        match error {
            CredentialError::Device(error) => error.into(),
            CredentialError::User(error) => error.into(),
            CredentialError::Username(_) | CredentialError::Nothing => Self::new(Kind::Unprocessable, error.to_string()),
            CredentialError::Randomness(_) => Self::internal(&error),
            CredentialError::Database(error) => Self::database(&error),
        }
    }
}

impl From<DeviceError> for Problem {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::Registry(error) => error.into(),
            DeviceError::Group(error) => error.into(),
            DeviceError::Credentials(error) => error.into(),
            DeviceError::NoCredentials(_) => Self::new(Kind::Conflict, error.to_string()),
            DeviceError::Groups(_) => Self::new(Kind::Unprocessable, error.to_string()),
            DeviceError::Database(error) => Self::database(&error),
        }
    }
}

impl From<DesiredError> for Problem {
    fn from(error: DesiredError) -> Self {
        match error {
            DesiredError::Device(error) => error.into(),
            DesiredError::Version { .. } => Self::new(Kind::PreconditionFailed, error.to_string()),
            DesiredError::Database(error) => Self::database(&error),
        }
    }
}

impl From<ImportError> for Problem {
    fn from(error: ImportError) -> Self {
        match error {
            ImportError::File(_) => Self::new(Kind::Unprocessable, error.to_string()),
            ImportError::Randomness(_) => Self::internal(&error),
            ImportError::User(error) => error.into(),
            ImportError::Database(error) => Self::database(&error),
        }
    }
}

macro_rules! unprocessable {
    ($($error:ty),+) => {
        $(impl From<$error> for Problem {
            fn from(error: $error) -> Self {
                Self::new(Kind::Unprocessable, error.to_string())
            }
        })+
    };
}

unprocessable!(BadPatch, BadLabel, BadConfig, BadGroupId);
