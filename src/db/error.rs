//! What an error of PostgreSQL means for the rows at hand: who must act.

use tokio_postgres::Error;
use tokio_postgres::error::{DbError, SqlState};

/// Who must act on an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It passes: try again, for ever.
    Transient,
    /// A row with this key is there already.
    Duplicate,
    /// No partition takes this time yet.
    MissingPartition,
    /// A row is at fault; the line is its place in the COPY, from 1, where the server named it.
    Row {
        /// From 1.
        line: Option<usize>,
    },
    /// Permissions, a missing table: hold everything back until somebody mends it.
    Operator,
}

impl Fault {
    /// Sorts `error` by its SQLSTATE.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        error.as_db_error().map_or(Self::Transient, Self::of_server)
    }

    fn of_server(error: &DbError) -> Self {
        let line = error.where_().and_then(copy_line);
        let code = error.code();
        if *code == SqlState::UNIQUE_VIOLATION {
            return Self::Duplicate;
        }
        // The one check violation that names no constraint.
        if *code == SqlState::CHECK_VIOLATION && error.constraint().is_none() {
            return Self::MissingPartition;
        }
        let class = code.code().get(..2).unwrap_or_default();
        match class {
            "22" | "23" => Self::Row { line },
            // 08P01 with a line is a row that the server could not decode.
            "08" if line.is_some() => Self::Row { line },
            "08" | "40" | "53" | "57" | "58" => Self::Transient,
            "25" | "55" => Self::Transient,
            "28" | "3D" | "3F" | "42" | "0A" | "F0" => Self::Operator,
            // Corrupt data or index: no row's fault. XX000 with a line is one, such as a jsonb that cannot be decoded.
            "XX" if code.code() != "XX000" => Self::Operator,
            _ if line.is_some() => Self::Row { line },
            _ => Self::Transient,
        }
    }
}

/// The line number of the last CONTEXT line, if that is COPY's. Earlier lines can hold text of an attacker's choice.
fn copy_line(context: &str) -> Option<usize> {
    let rest = context.lines().last()?.strip_prefix("COPY ")?;
    let (_, after) = rest.split_once(", line ")?;
    let digits = after.find(|c: char| !c.is_ascii_digit()).map_or(after, |end| &after[..end]);
    digits.parse().ok()
}

/// The error and its causes in one line, without the row's contents: the server's message and SQLSTATE.
#[must_use]
pub fn describe(error: &Error) -> String {
    match error.as_db_error() {
        Some(server) => format!("{} (SQLSTATE {})", server.message(), server.code().code()),
        None => {
            let cause = std::error::Error::source(error)
                .map(|cause| format!(": {cause}"))
                .unwrap_or_default();
            format!("{error}{cause}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_that_of_the_last_context_line() {
        assert_eq!(copy_line("COPY telemetry, line 17, column extra"), Some(17));
        assert_eq!(
            copy_line("JSON data, line 1: COPY telemetry, line 9\nCOPY telemetry, line 4"),
            Some(4)
        );
        assert_eq!(copy_line("COPY telemetry, line 9\nSQL statement \"x\""), None);
        assert_eq!(copy_line(""), None);
    }
}
