//! What a verified token says: who, with what role, until when, from whom, for whom (RFC 7519).

use serde_json::Value;

use super::config::Config;
use super::members::Members;
use super::refusal::{Part, Refusal};
use super::verifier::Accepted;
use crate::identity::principal::{Means, Principal};

/// The longest subject. It becomes a name in the log, the audit and the answers.
const MAX_SUBJECT_BYTES: usize = 255;

/// Takes the claims of `payload` at `now` (seconds since 1970), or says what is wrong with them.
pub(super) fn check(payload: &[u8], config: &Config, now: i64) -> Result<Accepted, Refusal> {
    let claims: Members = serde_json::from_slice(payload).map_err(|_| Refusal::Json(Part::Payload))?;
    let expires_at = times(&claims, config, now)?;
    if claims.text("iss").map_err(Refusal::Claim)?.ok_or(Refusal::Missing("iss"))? != config.issuer {
        return Err(Refusal::Issuer);
    }
    audience(&claims, &config.audience)?;
    let subject = claims.text("sub").map_err(Refusal::Claim)?.ok_or(Refusal::Missing("sub"))?;
    if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES || subject.chars().any(char::is_control) {
        return Err(Refusal::Claim("sub"));
    }
    let role = claims.get(&config.role_claim).and_then(Value::as_str);
    Ok(Accepted {
        principal: Principal {
            name: subject.to_owned(),
            role: role.and_then(|role| role.parse().ok()).ok_or(Refusal::Role)?,
            means: Means::Jwt,
        },
        expires_at,
    })
}

/// Checks the three times and returns the one at which the token expires, in microseconds.
fn times(claims: &Members, config: &Config, now: i64) -> Result<i64, Refusal> {
    // A double holds the seconds of any date that is meant, and a time may have a fraction.
    #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^53")]
    let now = now as f64;
    let leeway = config.leeway.as_secs_f64();
    let expires = time(claims, "exp")?.ok_or(Refusal::Missing("exp"))?;
    if now >= expires + leeway {
        return Err(Refusal::Expired);
    }
    if time(claims, "nbf")?.is_some_and(|not_before| now + leeway < not_before) {
        return Err(Refusal::NotYetValid);
    }
    if time(claims, "iat")?.is_some_and(|issued| now + leeway < issued) {
        return Err(Refusal::IssuedInFuture);
    }
    // The cast saturates.
    #[expect(clippy::cast_possible_truncation)]
    Ok((expires * 1e6) as i64)
}

fn time(claims: &Members, name: &'static str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => number.as_f64().map(Some).ok_or(Refusal::Claim(name)),
        Some(_) => Err(Refusal::Claim(name)),
    }
}

/// `aud` is a text, or a list that holds others too.
fn audience(claims: &Members, expected: &str) -> Result<(), Refusal> {
    let is_ours = match claims.get("aud").ok_or(Refusal::Missing("aud"))? {
        Value::String(audience) => audience == expected,
        Value::Array(audiences) if audiences.iter().all(Value::is_string) => audiences.iter().any(|audience| audience == expected),
        _ => return Err(Refusal::Claim("aud")),
    };
    if is_ours { Ok(()) } else { Err(Refusal::Audience) }
}
