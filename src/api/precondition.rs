//! `ETag` and `If-Match`: what a change was decided on, told so that it is refused where somebody else was faster.

use axum::extract::FromRequestParts;
use axum::http::header::{ETAG, IF_MATCH};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue};
use utoipa::IntoParams;

use super::error::{Kind, Problem};
use super::grammar;

/// Longer than any ETag of ours, in bytes.
const MAX_TAG_BYTES: usize = 62;

/// How the description tells of [`IfMatch`].
#[derive(Debug, IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "it describes what IfMatch reads")]
pub(super) struct Precondition {
    /// The ETag that was read
    #[param(rename = "If-Match", inline, value_type = Option<grammar::Match>)]
    if_match: Option<String>,
}

/// What the request is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IfMatch {
    /// Whichever revision there is.
    Any,
    /// This one.
    Revision(i32),
    /// None that there ever was: an ETag that is none of ours.
    Never,
}

impl IfMatch {
    /// The revision; none where it is meant for whichever there is. Asked for last: what else is wrong with a request is said first
    /// (RFC 9110, 13.2.1).
    ///
    /// # Errors
    /// A problem where it can never match.
    pub(super) fn revision(self) -> Result<Option<i32>, Problem> {
        match self {
            Self::Any => Ok(None),
            Self::Revision(revision) => Ok(Some(revision)),
            Self::Never => Err(Problem::new(
                Kind::PreconditionFailed,
                "If-Match: this ETag is of no revision there ever was; read the resource again",
            )),
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut values = parts.headers.get_all(IF_MATCH).iter();
        match (values.next(), values.next()) {
            (None, _) => Ok(Self::Any),
            (Some(value), None) => parse(value.to_str().unwrap_or_default().trim()),
            (Some(_), Some(_)) => Err(unreadable()),
        }
    }
}

fn parse(value: &str) -> Result<IfMatch, Problem> {
    if value == "*" {
        return Ok(IfMatch::Any);
    }
    let tag = value.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let printable = |byte: u8| (b' '..=b'~').contains(&byte) && byte != b'"';
    let tag = tag
        .filter(|tag| tag.len() <= MAX_TAG_BYTES && tag.bytes().all(printable))
        .ok_or_else(unreadable)?;
    // One that is none of ours matches nothing. No revision is below zero.
    let revision = tag.parse().ok().filter(|revision: &i32| *revision >= 0);
    Ok(revision.map_or(IfMatch::Never, IfMatch::Revision))
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
        assert_eq!(parse(value.to_str().expect("ASCII")), Ok(IfMatch::Revision(17)));
        assert_eq!(parse("*"), Ok(IfMatch::Any));
        for bad in ["", "17", "\"1\", \"2\"", "\"1\t\"", "W/\"1\"", "\"", "\"1"] {
            assert_eq!(parse(bad), Err(unreadable()), "{bad}");
        }
        for never in ["\"abc\"", "\"-1\"", "\"99999999999\"", "\"\""] {
            let parsed = parse(never).expect(never);
            assert!(parsed.revision().is_err_and(|problem| problem != unreadable()), "{never}");
        }
    }
}
