//! What goes to people's terminals: tables, times, and names that somebody else chose.

use std::borrow::Cow;

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};

/// The text with what a terminal would obey, or not show, spelt out: a name must not move the cursor, forge a line, or turn
/// what follows around.
pub(super) fn printable(text: &str) -> Cow<'_, str> {
    let is_plain = |c: char| matches!(c, '"' | '\'') || (c != '\\' && c.escape_debug().len() == 1);
    if text.chars().all(is_plain) {
        return Cow::Borrowed(text);
    }
    let mut printable = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_plain(c) {
            printable.push(c);
        } else {
            printable.extend(c.escape_debug());
        }
    }
    Cow::Owned(printable)
}

/// JSON on one line. What a terminal would obey or not show stands in texts alone, where JSON has an escape for it.
pub(super) fn json(value: &serde_json::Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        if c.is_ascii() && !c.is_ascii_control() || !c.is_ascii() && c.escape_debug().len() == 1 {
            line.push(c);
        } else {
            let mut units = [0; 2];
            line.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        }
    }
    line
}

/// A table of texts, each made fit to be printed.
pub(super) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(header.iter().copied());
    for row in rows {
        table.add_row(row.iter().map(|cell| printable(cell).into_owned()));
    }
    table
}

/// Says why an act was not done; it ran, and something is wrong.
pub(super) fn refused(error: &anyhow::Error) -> std::process::ExitCode {
    eprintln!("iotflow: {}", printable(&super::sentence(error)));
    std::process::ExitCode::from(super::EXIT_FAILED)
}

/// A time as people and machines read it.
pub(super) fn moment(micros: i64) -> String {
    jiff::Timestamp::from_microsecond(micros)
        .map_or_else(|_| format!("{micros} µs"), |time| time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn nothing_a_terminal_obeys_is_printed() {
        assert_eq!(printable("Zähler 7 \"neu\""), "Zähler 7 \"neu\"");
        for (text, expected) in [
            ("a\nroot", "a\\nroot"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{9b}2J", "\\u{9b}2J"),
            ("\u{202e}gpj", "\\u{202e}gpj"),
            ("a\u{200b}b\u{7f}", "a\\u{200b}b\\u{7f}"),
            ("a\\n", "a\\\\n"),
        ] {
            assert_eq!(printable(text), expected);
            let line = json(&json!({ "name": text }));
            assert!(line.chars().all(|c| c.escape_debug().len() == 1 || c.is_ascii_graphic()), "{line}");
            assert_eq!(serde_json::from_str::<Value>(&line).expect("JSON")["name"], text);
        }
        assert_eq!(json(&json!("𝄞 ü")), "\"𝄞 ü\"");
    }

    #[test]
    fn times_are_read_by_people_and_machines() {
        assert_eq!(moment(1_800_000_000_999_999), "2027-01-15T08:00:00Z");
        assert!(moment(i64::MAX).ends_with("µs"));
    }
}
