//! What requests carry, taken out so that whatever is wrong with it is said as a problem document.

use axum::body::Bytes;
use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::Uri;
use axum::http::request::Parts;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer};

use super::error::{Kind, Problem};

/// A body of JSON.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

/// A body of any kind, as it came.
#[derive(Debug)]
pub(super) struct Body(pub(super) Bytes);

/// The query's parameters. Where the request only reads, one without a value (`cursor=`) is as one left out: forms send those. What
/// changes something takes every word as it stands.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

/// The path's parameters.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match axum::Json::<T>::from_request(request, state).await {
            Ok(axum::Json(body)) => Ok(Self(body)),
            Err(JsonRejection::MissingJsonContentType(_)) => Err(Problem::new(
                Kind::UnsupportedMediaType,
                "the body must be JSON, and Content-Type: application/json must say so",
            )),
            Err(JsonRejection::JsonSyntaxError(error)) => {
                Err(Problem::new(Kind::BadRequest, format!("the body is no JSON: {}", cause(&error))))
            }
            Err(JsonRejection::JsonDataError(error)) => Err(Problem::new(
                Kind::Unprocessable,
                format!("the body does not fit: {}", cause(&error)),
            )),
            Err(other) if other.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::new(
                Kind::TooLarge,
                "the body is larger than this service takes (API_MAX_BODY_BYTES)",
            )),
            Err(other) => Err(Problem::new(Kind::BadRequest, other.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let uri = if parts.method.is_safe() { said(&parts.uri) } else { None };
        match axum::extract::Query::<T>::try_from_uri(uri.as_ref().unwrap_or(&parts.uri)) {
            Ok(axum::extract::Query(query)) => Ok(Self(query)),
            Err(QueryRejection::FailedToDeserializeQueryString(error)) => {
                Err(Problem::new(Kind::BadRequest, format!("the query does not fit: {}", cause(&error))))
            }
            Err(other) => Err(Problem::new(Kind::BadRequest, other.body_text())),
        }
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::<T>::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(path)) => Ok(Self(path)),
            // A path that names nothing of the kind names nothing.
            Err(PathRejection::FailedToDeserializePathParams(error)) => Err(Problem::new(
                Kind::NotFound,
                format!("the path does not fit: {}", error.body_text()),
            )),
            Err(other) => Err(Problem::new(Kind::NotFound, other.body_text())),
        }
    }
}

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Bytes::from_request(request, state).await {
            Ok(bytes) => Ok(Self(bytes)),
            Err(other) if other.status() == axum::http::StatusCode::PAYLOAD_TOO_LARGE => Err(Problem::new(
                Kind::TooLarge,
                "the body is larger than this service takes (API_MAX_BODY_BYTES)",
            )),
            Err(other) => Err(Problem::new(Kind::BadRequest, other.body_text())),
        }
    }
}

/// A whole number of JSON, which may be written `2.0`: JSON has one kind of numbers, and so has its schema.
pub(super) fn whole<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<T, D::Error> {
    let number = serde_json::Number::deserialize(from)?;
    let refused = || {
        D::Error::custom(format!(
            "{number}: a whole number that is not below 0, and not that large, is expected"
        ))
    };
    // Exact as far as a double counts by ones, which is more than anything here goes.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is whole and in range")]
    let rounded = |value: f64| ((0.0..9e15).contains(&value) && value.fract() == 0.0).then_some(value as u64);
    let whole = number.as_u64().or_else(|| number.as_f64().and_then(rounded)).ok_or_else(refused)?;
    T::try_from(whole).map_err(|_| refused())
}

/// The same, or null.
pub(super) fn whole_or_null<'de, D: Deserializer<'de>, T: TryFrom<u64>>(from: D) -> Result<Option<T>, D::Error> {
    struct Whole<T>(T);
    impl<'de, T: TryFrom<u64>> Deserialize<'de> for Whole<T> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            whole(from).map(Self)
        }
    }
    Ok(Option::<Whole<T>>::deserialize(from)?.map(|Whole(number)| number))
}

/// The same address without parameters that have no value; none where all have one.
fn said(uri: &Uri) -> Option<Uri> {
    let query = uri.query()?;
    let has_value = |pair: &&str| pair.split_once('=').is_some_and(|(_, value)| !value.is_empty());
    let kept: Vec<&str> = query.split('&').filter(has_value).collect();
    (kept.len() < query.split('&').count()).then(|| format!("/?{}", kept.join("&")).parse().ok())?
}

/// The innermost cause, which is what the sender can do something about.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(next) = innermost.source() {
        innermost = next;
    }
    innermost.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_may_be_written_as_a_fraction() {
        let read = |text: &str| whole::<_, u8>(&mut serde_json::Deserializer::from_str(text)).ok();
        assert_eq!(
            (read("2"), read("2.0"), read("0.0"), read("255.0")),
            (Some(2), Some(2), Some(0), Some(255))
        );
        for bad in ["2.5", "-1", "256", "1e300", "\"2\"", "null"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        let or_null = |text: &str| whole_or_null::<_, u64>(&mut serde_json::Deserializer::from_str(text)).ok();
        assert_eq!((or_null("null"), or_null("7.0"), or_null("x")), (Some(None), Some(Some(7)), None));
    }

    #[test]
    fn a_parameter_without_a_value_is_as_one_left_out() {
        let kept = |uri: &str| said(&uri.parse().expect("an address")).map(|uri| uri.query().unwrap_or_default().to_owned());
        assert_eq!(kept("/a?b=1&c=&d&e=f=").as_deref(), Some("b=1&e=f="));
        assert_eq!(kept("/a?c=").as_deref(), Some(""));
        assert_eq!((kept("/a?b=1&c=2"), kept("/a")), (None, None));
    }
}
