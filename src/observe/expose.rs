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
    let whole = metrics.render(accounting);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Received, less everything that became of it, less what is in flight.
    fn unaccounted(page: &str) -> f64 {
        page.lines()
            .filter(|line| !line.starts_with('#'))
            .filter_map(|line| {
                let (series, value) = line.rsplit_once(' ')?;
                let value: f64 = value.parse().ok()?;
                match series.split('{').next()?.strip_prefix(QOS_PREFIX)? {
                    "received_total" => Some(value),
                    "committed_total" | "duplicates_total" | "dead_lettered_total" | "shed_total" | "abandoned_total" | "in_flight" => {
                        Some(-value)
                    }
                    _ => None,
                }
            })
            .sum()
    }

    #[test]
    fn every_page_adds_up_whoever_else_asks() {
        let (metrics, accounting) = (Metrics::new(), Accounting::default());
        std::thread::scope(|scope| {
            let readers: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).all(|_| unaccounted(&render(&metrics, &accounting, Page::Qos)) == 0.0)))
                .collect();
            while readers.iter().any(|reader| !reader.is_finished()) {
                accounting.book(|totals| totals.receive([0, 3], [0, 0]));
                accounting.book(|totals| {
                    totals.committed[1] += 2;
                    totals.release([0, 2]);
                });
            }
            assert!(readers.into_iter().all(|reader| reader.join().expect("it does not panic")));
        });
    }
}
