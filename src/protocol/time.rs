//! Times as devices write them, read as microseconds since 1970-01-01T00:00:00Z.
//!
//! Text is RFC 3339 with the freedoms devices take: a space or lower-case `t` for `T`, lower-case `z`, no offset
//! (then UTC), offsets without a colon, any number of fractional digits (cut to microseconds). Numbers, and texts
//! that are numbers, are epoch times whose unit is told by magnitude.

/// Below this an epoch number is in seconds (year 5138), below a thousand times this in milliseconds, and so on.
const SECONDS_BELOW: f64 = 1e11;
const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;

/// Now, by this machine's clock.
#[must_use]
pub fn now() -> i64 {
    let since_1970 = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX)
}

/// Reads an epoch number whose unit is told by its magnitude: seconds, ms, µs or ns. `None` when it is not finite.
#[must_use]
pub fn from_epoch_float(number: f64) -> Option<i64> {
    let magnitude = number.abs();
    let scaled = if magnitude < SECONDS_BELOW {
        number * 1e6
    } else if magnitude < SECONDS_BELOW * 1e3 {
        number * 1e3
    } else if magnitude < SECONDS_BELOW * 1e6 {
        number
    } else {
        number / 1e3
    };
    // The cast saturates, and the window refuses what lies that far out.
    #[expect(clippy::cast_possible_truncation)]
    scaled.is_finite().then(|| scaled.round() as i64)
}

/// Reads a whole epoch number, exact where a double would not be.
#[must_use]
pub fn from_epoch_int(number: i64) -> Option<i64> {
    let magnitude = number.unsigned_abs();
    if magnitude < 100_000_000_000 {
        number.checked_mul(MICROS_PER_SECOND)
    } else if magnitude < 100_000_000_000_000 {
        number.checked_mul(1_000)
    } else if magnitude < 100_000_000_000_000_000 {
        Some(number)
    } else {
        Some(number.div_euclid(1_000))
    }
}

/// Reads a time from text. `None` when it is neither a date and time nor a number.
#[must_use]
pub fn from_text(text: &str) -> Option<i64> {
    from_rfc3339(text.as_bytes()).or_else(|| from_number_text(text))
}

fn from_number_text(text: &str) -> Option<i64> {
    let numeric = text
        .bytes()
        .all(|byte| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E'));
    if !numeric {
        return None;
    }
    text.parse()
        .map_or_else(|_| text.parse().ok().and_then(from_epoch_float), from_epoch_int)
}

fn from_rfc3339(text: &[u8]) -> Option<i64> {
    if text.len() < 19 || text[4] != b'-' || text[7] != b'-' || text[13] != b':' || text[16] != b':' {
        return None;
    }
    if !matches!(text[10], b'T' | b't' | b' ') {
        return None;
    }
    let (year, month, day) = (digits(&text[0..4])?, digits(&text[5..7])?, digits(&text[8..10])?);
    let (hour, minute, second) = (digits(&text[11..13])?, digits(&text[14..16])?, digits(&text[17..19])?);
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    // A leap second is stored as the second before it: the clocks behind us have none.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (micros, rest) = fraction(&text[19..])?;
    let offset = offset_seconds(rest)?;
    let seconds = days_from_civil(year, month, day) * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second.min(59) - offset;
    Some(seconds * MICROS_PER_SECOND + micros)
}

fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    if !matches!(text.first(), Some(b'.' | b',')) {
        return Some((0, text));
    }
    let length = text[1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 {
        return None;
    }
    let digit = |index: usize| if index < length { i64::from(text[1 + index] - b'0') } else { 0 };
    Some(((0..6).fold(0, |micros, index| micros * 10 + digit(index)), &text[1 + length..]))
}

fn offset_seconds(text: &[u8]) -> Option<i64> {
    let (sign, rest) = match text {
        [] | [b'Z' | b'z'] => return Some(0),
        [b'+', rest @ ..] => (1, rest),
        [b'-', rest @ ..] => (-1, rest),
        _ => return None,
    };
    let (hours, minutes) = match rest {
        [_, _] => (digits(rest)?, 0),
        [_, _, _, _] => (digits(&rest[..2])?, digits(&rest[2..])?),
        [_, _, b':', _, _] => (digits(&rest[..2])?, digits(&rest[3..])?),
        _ => return None,
    };
    (hours <= 23 && minutes <= 59).then_some(sign * (hours * 3600 + minutes * 60))
}

fn digits(text: &[u8]) -> Option<i64> {
    text.iter()
        .try_fold(0, |value, byte| byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0')))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the proleptic Gregorian calendar, counted in years that begin in March so that the leap
/// day is a year's last (H. Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use proptest::prelude::*;

    #[test]
    fn text_in_every_accepted_dress() {
        let noon = Some(1_751_365_800_000_000);
        for text in [
            "2025-07-01T10:30:00Z",
            "2025-07-01t10:30:00z",
            "2025-07-01 10:30:00",
            "2025-07-01T12:30:00+02:00",
            "2025-07-01T12:30:00+0200",
            "2025-07-01T12:30:00+02",
            "2025-07-01T05:00:00-05:30",
            "1751365800",
            "1751365800000",
            "1751365800.000",
        ] {
            assert_eq!(from_text(text), noon, "{text}");
        }
        assert_eq!(from_text("2025-07-01T10:30:00.1234567Z"), noon.map(|t| t + 123_456));
        assert_eq!(from_text("2016-12-31T23:59:60Z"), from_text("2016-12-31T23:59:59Z"));
    }

    #[test]
    fn text_that_is_no_time() {
        for text in [
            "",
            "now",
            "2025-07-01",
            "2025-13-01T00:00:00Z",
            "2025-02-29T00:00:00Z",
            "2025-07-01T24:00:00Z",
            "2025-07-01T10:30:00+24:00",
            "2025-07-01T10:30:00.Z",
            "2025-07-01T10:30:00 Z",
            "1e",
            "inf",
            "nan",
            "-",
        ] {
            assert_eq!(from_text(text), None, "{text}");
        }
    }

    #[test]
    fn magnitude_tells_the_unit() {
        let expected = Some(1_719_829_800_000_000);
        for number in [1_719_829_800, 1_719_829_800_000, 1_719_829_800_000_000, 1_719_829_800_000_000_000] {
            assert_eq!(from_epoch_int(number), expected, "{number}");
            #[expect(clippy::cast_precision_loss)]
            let float = from_epoch_float(number as f64);
            assert_eq!(float, expected, "{number}");
        }
        assert_eq!(from_epoch_float(1_719_829_800.25), expected.map(|t| t + 250_000));
        assert_eq!(from_epoch_float(f64::NAN), None);
        assert_eq!(from_epoch_int(i64::MIN), Some(i64::MIN.div_euclid(1000)));
    }

    proptest! {
        #[test]
        fn agrees_with_jiff(micros in -62_000_000_000_000_000_i64..250_000_000_000_000_000) {
            let timestamp = Timestamp::from_microsecond(micros).expect("in jiff's range");
            prop_assert_eq!(from_text(&timestamp.to_string()), Some(micros));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = from_text(&text);
        }
    }
}
