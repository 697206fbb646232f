//! What was found: of which subject, how it is, in figures, and what to do about it.

use serde::Serialize;
use serde_json::{Map, Value};

/// How a thing is, the worst last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It could not be asked, or there is nothing to ask.
    Skipped,
    /// It works, and something could go wrong.
    Warning,
    /// Something is lost, stands still, or is open to those whom it should be closed to.
    Fault,
}

impl Level {
    /// As people read it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Fault => "FAULT",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Finding {
    /// The group it belongs to.
    pub(super) subject: &'static str,
    /// What was looked at.
    pub(super) check: String,
    /// How it is.
    pub(super) level: Level,
    /// What was found.
    pub(super) found: String,
    /// What to do; where all is well, nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
    /// The same for programs, where it is a figure.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub(super) figures: Map<String, Value>,
}

/// The findings of one subject, in the order in which they are read.
#[derive(Debug)]
pub(super) struct Findings {
    subject: &'static str,
    list: Vec<Finding>,
}

impl Findings {
    pub(super) fn of(subject: &'static str) -> Self {
        Self { subject, list: Vec::new() }
    }

    pub(super) fn ok(&mut self, check: &str, found: impl Into<String>) -> &mut Finding {
        self.add(check, Level::Ok, found.into(), None)
    }

    /// What could not be asked, and why.
    pub(super) fn skipped(&mut self, check: &str, why: impl Into<String>) -> &mut Finding {
        self.add(check, Level::Skipped, why.into(), None)
    }

    pub(super) fn warning(&mut self, check: &str, found: impl Into<String>, advice: impl Into<String>) -> &mut Finding {
        self.add(check, Level::Warning, found.into(), Some(advice.into()))
    }

    pub(super) fn fault(&mut self, check: &str, found: impl Into<String>, advice: impl Into<String>) -> &mut Finding {
        self.add(check, Level::Fault, found.into(), Some(advice.into()))
    }

    /// As it should be where `fine`, else as bad as `level` says.
    pub(super) fn judge(&mut self, check: &str, fine: bool, level: Level, found: impl Into<String>, advice: &str) -> &mut Finding {
        if fine {
            self.ok(check, found)
        } else {
            self.add(check, level, found.into(), Some(advice.to_owned()))
        }
    }

    pub(super) fn into_list(self) -> Vec<Finding> {
        self.list
    }

    fn add(&mut self, check: &str, level: Level, found: String, advice: Option<String>) -> &mut Finding {
        self.list.push(Finding {
            subject: self.subject,
            check: check.to_owned(),
            level,
            found,
            advice,
            figures: Map::new(),
        });
        self.list.last_mut().expect("one was just added")
    }
}

impl Finding {
    /// A figure for programs.
    pub(super) fn figure(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        self.figures.insert(name.to_owned(), value.into());
        self
    }
}
