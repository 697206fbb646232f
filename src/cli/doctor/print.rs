//! The findings as people read them: in groups, in columns, with what to do below what is not as it should be.

use std::fmt::Write as _;

use crate::cli::terminal::printable;

use super::finding::{Finding, Level};

const MARGIN: &str = "  ";
/// Wide enough for the longest level.
const LEVEL_WIDTH: usize = 8;
/// A name that is longer than this moves only its own line.
const MAX_CHECK_WIDTH: usize = 20;
/// Text in lines that are longer than this is hard to follow.
const MAX_WIDTH: usize = 110;
/// A column that is narrower than this is no column.
const LEAST_TEXT: usize = 30;

/// How it is printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Style {
    /// Columns of the terminal.
    pub(super) width: usize,
    /// Whether levels are told apart by colour too.
    pub(super) coloured: bool,
}

/// All of them, and the sum at the end.
pub(super) fn text(findings: &[Finding], style: Style) -> String {
    let check_width = findings
        .iter()
        .map(|finding| printable(&finding.check).chars().count())
        .filter(|width| *width <= MAX_CHECK_WIDTH)
        .max()
        .unwrap_or(0);
    let indent = MARGIN.len() + LEVEL_WIDTH + 1 + check_width + 2;
    let room = style.width.min(MAX_WIDTH).saturating_sub(indent).max(LEAST_TEXT);
    let (mut text, mut subject) = (String::new(), "");
    for finding in findings {
        if finding.subject != subject {
            subject = finding.subject;
            let gap = if text.is_empty() { "" } else { "\n" };
            write(&mut text, format_args!("{gap}{}\n", painted(subject, "1", style)));
        }
        let level = painted(&format!("{:LEVEL_WIDTH$}", finding.level.as_str()), colour(finding.level), style);
        let check = printable(&finding.check);
        for (index, line) in wrap(&printable(&finding.found), room).iter().enumerate() {
            if index == 0 {
                write(&mut text, format_args!("{MARGIN}{level} {check:check_width$}  {line}\n"));
            } else {
                write(&mut text, format_args!("{:indent$}{line}\n", ""));
            }
        }
        for (index, line) in finding
            .advice
            .iter()
            .flat_map(|advice| wrap(advice, room.saturating_sub(2)))
            .enumerate()
        {
            let arrow = if index == 0 { "→ " } else { "  " };
            write(&mut text, format_args!("{:indent$}{arrow}{line}\n", ""));
        }
    }
    write(&mut text, format_args!("\n{}\n", sum(findings)));
    text
}

/// How many of each.
pub(super) fn sum(findings: &[Finding]) -> String {
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let plural = |count: usize, word: &str| format!("{count} {word}{}", if count == 1 { "" } else { "s" });
    format!(
        "{}, {}, {} ok, {} skipped",
        plural(count(Level::Fault), "fault"),
        plural(count(Level::Warning), "warning"),
        count(Level::Ok),
        count(Level::Skipped)
    )
}

/// A number of bytes as people read it.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = usize::from(value < 10.0 && value.fract() > 0.05);
    format!("{value:.digits$} {}", UNITS[unit])
}

fn colour(level: Level) -> &'static str {
    match level {
        Level::Ok => "32",
        Level::Skipped => "2",
        Level::Warning => "33",
        Level::Fault => "1;31",
    }
}

fn painted(text: &str, code: &str, style: Style) -> String {
    if style.coloured {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    } else {
        text.to_owned()
    }
}

/// Lines of at most `width` characters, broken at spaces; a word that is longer stands alone.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut length = 0;
    for word in text.split(' ') {
        let word_length = word.chars().count();
        let line = lines.last_mut().expect("there is one from the start");
        if line.is_empty() {
            line.push_str(word);
            length = word_length;
        } else if length + 1 + word_length <= width {
            line.push(' ');
            line.push_str(word);
            length += 1 + word_length;
        } else {
            lines.push(word.to_owned());
            length = word_length;
        }
    }
    lines
}

fn write(text: &mut String, arguments: std::fmt::Arguments<'_>) {
    text.write_fmt(arguments).expect("a String takes every write");
}

#[cfg(test)]
mod tests {
    use super::super::finding::Findings;
    use super::*;

    #[test]
    fn lines_are_aligned_and_no_wider_than_the_terminal() {
        let mut findings = Findings::of("broker");
        findings.ok("login", "127.0.0.1:1884 lets the service in");
        findings.warning(
            "version",
            "a long story ".repeat(20).trim_end(),
            "do something about it ".repeat(9).trim_end(),
        );
        findings.fault("\u{1b}[2J", "a\nb", "nothing");
        let list = findings.into_list();
        let style = Style {
            width: 70,
            coloured: false,
        };
        let text = text(&list, style);
        assert!(text.lines().all(|line| line.chars().count() <= 70), "{text}");
        assert!(!text.contains('\u{1b}') && text.contains("a\\nb"), "{text}");
        let column = |found: &str| text.lines().find_map(|line| line.find(found)).expect("it is printed");
        assert_eq!(column("127.0.0.1"), column("a long story"), "{text}");
        assert!(text.ends_with("\n1 fault, 1 warning, 1 ok, 0 skipped\n"), "{text}");
    }

    #[test]
    fn bytes_are_read_at_a_glance() {
        for (count, expected) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (8 * 1024 * 1024, "8 MiB"),
            (49 * 1024 * 1024 * 1024 + 1, "49 GiB"),
        ] {
            assert_eq!(bytes(count), expected);
        }
    }
}
