//! What is to be gathered into windows: their length, their begin, what is made of their values; checked before the database is
//! asked.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;

use super::span::Span;

/// The most windows of a span.
pub const MAX_WINDOWS: u64 = 10_000;
/// The most metrics that may be asked for by name.
pub const MAX_METRICS: usize = 100;
/// A window's shortest and longest.
const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

macro_rules! names {
    ($(#[$doc:meta])* $type:ident, $what:literal: $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $type { $($(#[$variant_doc])* $variant,)+ }

        impl $type {
            /// All of them, in the order of declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }

        impl FromStr for $type {
            type Err = BadAggregation;

            fn from_str(text: &str) -> Result<Self, BadAggregation> {
                let known = Self::ALL.iter().copied().find(|known| known.as_str() == text);
                known.ok_or_else(|| BadAggregation::Name {
                    what: $what,
                    given: text.chars().take(40).collect(),
                    expected: [$($text),+].join(", "),
                })
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

names! {
    /// What is made of a window's values.
    Function, "function":
    /// The arithmetic mean.
    Mean = "mean",
    /// The sum.
    Sum = "sum",
    /// How many there are.
    Count = "count",
    /// The least.
    Min = "min",
    /// The greatest.
    Max = "max",
    /// The earliest.
    First = "first",
    /// The latest.
    Last = "last",
    /// The middle one, or the mean of the two in the middle.
    Median = "median",
}

names! {
    /// What stands for a window without values. Its count is 0, whatever stands for the rest.
    Fill, "fill":
    /// The window is left out.
    None = "none",
    /// `null`.
    Null = "null",
    /// What the window before it has; `null` before the first.
    Previous = "previous",
    /// 0.
    Zero = "zero",
    /// What lies on the line between the windows around it; `null` before the first and after the last.
    Linear = "linear",
}

/// Why nothing can be gathered like that.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadAggregation {
    /// No such name.
    #[error("{given:?} is no {what}; {expected} are")]
    Name {
        /// Of what.
        what: &'static str,
        /// As it was given.
        given: String,
        /// All there are.
        expected: String,
    },
    /// No length of a window.
    #[error("{0:?} is no window; 1s to 366d is expected, such as 30s, 5m, 1h or 1d")]
    Window(String),
    /// Too many windows.
    #[error("the span has {0} windows of this length; {MAX_WINDOWS} at most are expected: take a longer window or a shorter span")]
    TooManyWindows(u64),
    /// Too many metrics.
    #[error("{0} metrics; {MAX_METRICS} at most are expected")]
    TooManyMetrics(usize),
}

/// What is to be gathered, checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Aggregation {
    pub(super) span: Span,
    pub(super) metrics: Vec<String>,
    pub(super) functions: Vec<Function>,
    pub(super) fill: Fill,
    /// Microseconds.
    pub(super) window: i64,
    /// When the span's first window begins, in microseconds since 1970.
    pub(super) first: i64,
    pub(super) windows: u64,
}

/// The length of a window: a whole number and `s`, `m`, `h` or `d`.
///
/// # Errors
/// [`BadAggregation::Window`].
pub fn window(text: &str) -> Result<Duration, BadAggregation> {
    let bad = || BadAggregation::Window(text.chars().take(40).collect());
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?);
    let seconds = match unit {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(bad()),
    };
    let length = number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds));
    let length = length.map(Duration::from_secs).ok_or_else(bad)?;
    if (SHORTEST..=LONGEST).contains(&length) {
        Ok(length)
    } else {
        Err(bad())
    }
}

impl Aggregation {
    /// Windows of a length, counted from `origin` (1970-01-01T00:00:00Z where there is none), over `span`. Of these metrics, or
    /// of all where there are none; of the functions at least the mean.
    ///
    /// # Errors
    /// [`BadAggregation`].
    pub fn new(
        span: Span,
        length: Duration,
        origin: Option<Timestamp>,
        metrics: Vec<String>,
        mut functions: Vec<Function>,
        fill: Fill,
    ) -> Result<Self, BadAggregation> {
        if metrics.len() > MAX_METRICS {
            return Err(BadAggregation::TooManyMetrics(metrics.len()));
        }
        let bad_window = || BadAggregation::Window(format!("{length:?}"));
        if !(SHORTEST..=LONGEST).contains(&length) {
            return Err(bad_window());
        }
        let window = i64::try_from(length.as_micros()).map_err(|_| bad_window())?;
        let (from, to) = (span.from.as_microsecond(), span.to.as_microsecond());
        let origin = origin.map_or(0, Timestamp::as_microsecond);
        // From the first window's begin on, so that nothing lies before the origin that the database counts from.
        let first = from - (from - origin).rem_euclid(window);
        let windows = u64::try_from((to - 1 - first) / window + 1).unwrap_or(0);
        if windows > MAX_WINDOWS {
            return Err(BadAggregation::TooManyWindows(windows));
        }
        functions.sort_unstable();
        functions.dedup();
        if functions.is_empty() {
            functions.push(Function::Mean);
        }
        Ok(Self {
            span,
            metrics,
            functions,
            fill,
            window,
            first,
            windows,
        })
    }

    /// What is made of each window's values.
    #[must_use]
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }
}

#[cfg(test)]
mod tests {
    use super::super::span::moment;
    use super::*;

    fn span(from: &str, to: &str) -> Span {
        Span::new(moment(from).ok(), moment(to).ok()).expect("a span")
    }

    fn windows(span: Span, length: &str, origin: Option<&str>) -> Result<(i64, u64), BadAggregation> {
        let origin = origin.map(|text| moment(text).expect("a time"));
        Aggregation::new(span, window(length)?, origin, Vec::new(), Vec::new(), Fill::None).map(|made| (made.first, made.windows))
    }

    #[test]
    fn windows_begin_at_the_origin_and_cover_the_span() {
        let hour = span("2025-07-01T10:30:00Z", "2025-07-01T11:30:00Z");
        let ten = moment("2025-07-01T10:00:00Z").expect("a time").as_microsecond();
        assert_eq!(windows(hour, "1h", None), Ok((ten, 2)));
        assert_eq!(windows(hour, "30m", None), Ok((ten + 1_800_000_000, 2)));
        // An origin behind the span counts backwards.
        assert_eq!(windows(hour, "1h", Some("2030-01-01T00:15:00Z")), Ok((ten + 900_000_000, 2)));
        assert_eq!(windows(span("-10", "10"), "1h", None), Ok((-3_600_000_000, 2)));
        let year = span("2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z");
        assert!(matches!(windows(year, "1s", None), Err(BadAggregation::TooManyWindows(31_622_400))));
    }

    #[test]
    fn a_window_is_a_number_and_a_unit() {
        assert_eq!(window("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(window("1d"), Ok(Duration::from_secs(86_400)));
        for bad in [
            "",
            "5",
            "m",
            "0s",
            "-1s",
            "1w",
            "500ms",
            "1.5h",
            "367d",
            "99999999999999999999s",
            "9999999999999999999d",
            "1 h",
        ] {
            assert!(window(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_are_told_apart_and_refusals_say_which_there_are() {
        for function in Function::ALL {
            assert_eq!(function.as_str().parse(), Ok(*function));
        }
        let refusal = "average".parse::<Function>().expect_err("no function").to_string();
        assert!(refusal.contains("mean, sum, count"), "{refusal}");
        assert!("spline".parse::<Fill>().is_err());
    }
}
