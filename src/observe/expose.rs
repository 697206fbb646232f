//! The two pages that Prometheus scrapes, split from one rendering so that no series is on both.

use super::accounting::Accounting;
use super::metrics::{Metrics, QOS_PREFIX};

/// The content type of the text exposition format, version 0.0.4.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Which of the two pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// Delivery quality: `/metrics/qos`.
    Qos,
    /// Everything else: `/metrics`.
    Rest,
}

/// The text of one page, with the account as of now.
#[must_use]
pub fn render(metrics: &Metrics, accounting: &Accounting, page: Page) -> String {
    let whole = metrics.render(&accounting.totals());
    let mut text = String::with_capacity(whole.len());
    for line in whole.lines().filter(|line| !line.is_empty()) {
        let family = line
            .strip_prefix("# HELP ")
            .or_else(|| line.strip_prefix("# TYPE "))
            .unwrap_or(line);
        if family.starts_with(QOS_PREFIX) == (page == Page::Qos) {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}
