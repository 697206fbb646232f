//! Spans of time as people and programs write them: RFC 3339 or epoch numbers, as devices may.

use std::time::Duration;

use jiff::Timestamp;

use crate::protocol::time;

/// From the year 1 to 9999: what can be written in RFC 3339.
const EARLIEST_MICROS: i64 = -62_135_596_800_000_000;
const LATEST_MICROS: i64 = 253_402_207_200_000_000;
/// Longer than any time that somebody writes, in bytes.
const MAX_MOMENT_BYTES: usize = 64;
/// What a span reaches back where no begin is given.
pub const USUAL: Duration = Duration::from_secs(3_600);

/// Why a text is no time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no time; RFC 3339 such as 2025-07-01T10:30:00Z (a + as %2B in an address), or an epoch number in s, ms, µs or ns, is expected"
)]
pub struct BadMoment(String);

/// Why two times are no span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the span ends at {to}, which is not after its begin, {from}")]
pub struct BadSpan {
    from: Timestamp,
    to: Timestamp,
}

/// Reads a time.
///
/// # Errors
/// [`BadMoment`].
pub fn moment(text: &str) -> Result<Timestamp, BadMoment> {
    time::from_text(text)
        .filter(|_| text.len() <= MAX_MOMENT_BYTES)
        .and_then(|micros| Timestamp::from_microsecond(micros).ok())
        .filter(|moment| is_moment(*moment))
        .ok_or_else(|| BadMoment(text.chars().take(64).collect()))
}

/// Whether a time is one of those that are taken: from the year 1 to 9999.
#[must_use]
pub fn is_moment(time: Timestamp) -> bool {
    (EARLIEST_MICROS..=LATEST_MICROS).contains(&time.as_microsecond())
}

/// From a time on, up to another, which is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl Span {
    /// The span between two times; `to` is now where it is missing, and `from` an hour before it.
    ///
    /// # Errors
    /// [`BadSpan`].
    pub fn new(from: Option<Timestamp>, to: Option<Timestamp>) -> Result<Self, BadSpan> {
        let to = to.unwrap_or_else(Timestamp::now);
        let from = from.unwrap_or_else(|| to.saturating_sub(USUAL).unwrap_or(Timestamp::MIN));
        if from < to {
            Ok(Self { from, to })
        } else {
            Err(BadSpan { from, to })
        }
    }

    /// Its begin, which is in it.
    #[must_use]
    pub fn from(self) -> Timestamp {
        self.from
    }

    /// Its end, which is not.
    #[must_use]
    pub fn to(self) -> Timestamp {
        self.to
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_devices_write_them() {
        let noon = moment("2025-07-01T10:30:00Z").expect("a time");
        for same in ["2025-07-01T12:30:00+02:00", "1751365800", "1751365800000"] {
            assert_eq!(moment(same), Ok(noon), "{same}");
        }
        for bad in ["", "yesterday", "2025-07-01", "1e30", "-1e25"] {
            assert!(moment(bad).expect_err(bad).to_string().contains("RFC 3339"), "{bad}");
        }
    }

    #[test]
    fn a_span_goes_forward_and_is_an_hour_where_nothing_is_said() {
        let (from, to) = (moment("1000").expect("a time"), moment("2000").expect("a time"));
        assert!(Span::new(Some(from), Some(to)).is_ok());
        assert!(Span::new(Some(to), Some(from)).is_err() && Span::new(Some(to), Some(to)).is_err());
        let usual = Span::new(None, Some(to)).expect("a span");
        assert_eq!(usual.to().as_second() - usual.from().as_second(), 3_600);
    }
}
