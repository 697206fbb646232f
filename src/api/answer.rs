//! What every successful answer has in common: `"status": "success"` beside what was asked for.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// An answer of status 200.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Success<T> {
    /// Always `success`.
    #[schema(value_type = String, example = "success")]
    status: &'static str,
    #[serde(flatten)]
    answer: T,
}

/// The answer, with its mark.
pub(super) fn success<T>(answer: T) -> Success<T> {
    Success { status: "success", answer }
}

impl<T: Serialize> IntoResponse for Success<T> {
    fn into_response(self) -> Response {
        Json(self).into_response()
    }
}

impl<T: Serialize> Success<T> {
    /// The same answer with another status, such as 201.
    pub(super) fn with(self, status: StatusCode) -> Response {
        (status, Json(self)).into_response()
    }
}
