//! `ETag` and `If-Match`: what a change was decided on, told so that it is refused where somebody else was faster.

use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};

use super::error::{Kind, Problem};

/// The revision that the request is meant for; none where it is meant for whichever there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IfMatch(pub(super) Option<i32>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(IF_MATCH).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(Self(None)),
            (Some(value), None) => parse(value.to_str().unwrap_or_default().trim()),
            (Some(_), Some(_)) => Err(unreadable()),
        }
    }
}

fn parse(value: &str) -> Result<IfMatch, Problem> {
    if value == "*" {
        return Ok(IfMatch(None));
    }
    let tag = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let printable = |byte: u8| byte.is_ascii_graphic() && byte != b'"';
    let tag = tag.filter(|tag| tag.bytes().all(printable)).ok_or_else(unreadable)?;
    // One that is none of ours matches nothing. No revision is below zero.
    let revision = tag.parse().ok().filter(|revision: &i32| *revision >= 0);
    revision.map(|revision| IfMatch(Some(revision))).ok_or_else(|| {
        Problem::new(
            Kind::PreconditionFailed,
            "If-Match: this ETag is of no revision there ever was; read the resource again",
        )
    })
}

fn unreadable() -> Problem {
    Problem::new(
        Kind::BadRequest,
        "If-Match: one ETag as an answer gave it, such as \"3\" with its quotes, or * is expected",
    )
}

/// The header that tells a revision.
pub(super) fn etag(revision: i32) -> [(HeaderName, HeaderValue); 1] {
    let value = HeaderValue::from_str(&format!("\"{revision}\"")).expect("digits and quotes make a header");
    [(ETAG, value)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_read_as_it_was_written() {
        let [(_, value)] = etag(17);
        assert_eq!(parse(value.to_str().expect("ASCII")), Ok(IfMatch(Some(17))));
        assert_eq!(parse("*"), Ok(IfMatch(None)));
        for bad in ["", "17", "\"1\", \"2\"", "\"1 \"", "W/\"1\"", "\"", "\"1"] {
            assert_eq!(parse(bad), Err(unreadable()), "{bad}");
        }
        for never in ["\"abc\"", "\"-1\"", "\"99999999999\"", "\"\""] {
            assert!(parse(never).is_err_and(|problem| problem != unreadable()), "{never}");
        }
    }
}
