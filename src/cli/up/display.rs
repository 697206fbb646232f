//! The live table of `iotflow up`.

use std::io::{IsTerminal as _, Write as _};
use std::time::Instant;

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};

use crate::observe::accounting::{Accounting, Totals};
use crate::observe::expose::{self, Page};
use crate::observe::metrics::{Metrics, PUBLISH_TO_COMMIT};

/// Without a terminal a line this often says how it goes.
const LINE_EVERY_SECONDS: f64 = 5.0;

/// Redraws itself in place on a terminal; elsewhere prints a line now and then.
#[derive(Debug)]
pub(super) struct Display {
    started: Instant,
    terminal: bool,
    drawn_lines: usize,
    last: (f64, u64),
    last_line: f64,
    buckets: Vec<(f64, f64)>,
}

impl Display {
    pub(super) fn new() -> Self {
        Self {
            started: Instant::now(),
            terminal: std::io::stdout().is_terminal(),
            drawn_lines: 0,
            last: (0.0, 0),
            last_line: 0.0,
            buckets: Vec::new(),
        }
    }

    pub(super) fn show(&mut self, published: u64, accounting: &Accounting, metrics: &Metrics) {
        let totals = accounting.totals();
        let elapsed = self.started.elapsed().as_secs_f64();
        let buckets = latency_buckets(&expose::render(metrics, accounting, Page::Rest));
        let interval: Vec<(f64, f64)> = buckets
            .iter()
            .map(|(bound, count)| {
                (
                    *bound,
                    count
                        - self
                            .buckets
                            .iter()
                            .find(|(known, _)| known == bound)
                            .map_or(0.0, |(_, count)| *count),
                )
            })
            .collect();
        let quantiles =
            [0.5, 0.99].map(|q| quantile(&interval, q).map_or_else(|| "-".to_owned(), |seconds| format!("{:.1}", seconds * 1e3)));
        let committed: u64 = totals.committed.iter().sum();
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let rate = (committed.saturating_sub(self.last.1)) as f64 / (elapsed - self.last.0).max(0.001);
        if self.terminal {
            self.draw(published, &totals, rate, &quantiles, elapsed);
        } else if elapsed - self.last_line >= LINE_EVERY_SECONDS {
            println!(
                "{elapsed:>6.1} s  published {published}  received {}  committed {committed} ({rate:.0}/s)  duplicates {}  dead letters {}  p50 {} ms  p99 {} ms",
                totals.received.iter().sum::<u64>(),
                totals.duplicates.iter().sum::<u64>(),
                totals.dead_lettered.iter().sum::<u64>(),
                quantiles[0],
                quantiles[1]
            );
            self.last_line = elapsed;
        }
        self.last = (elapsed, committed);
        self.buckets = buckets;
    }

    fn draw(&mut self, published: u64, totals: &Totals, rate: f64, quantiles: &[String; 2], elapsed: f64) {
        let sum = |counts: [u64; 2]| counts.iter().sum::<u64>().to_string();
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_header([
                "published",
                "received",
                "committed",
                "per second",
                "duplicates",
                "dead letters",
                "in flight",
                "p50 ms",
                "p99 ms",
            ])
            .add_row([
                published.to_string(),
                sum(totals.received),
                sum(totals.committed),
                format!("{rate:.0}"),
                sum(totals.duplicates),
                sum(totals.dead_lettered),
                sum(totals.in_flight),
                quantiles[0].clone(),
                quantiles[1].clone(),
            ]);
        for column in table.column_iter_mut() {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let text = format!("{table}\n  {elapsed:.0} s; p50 and p99 are from publish to commit; Ctrl-C stops everything in order");
        let mut out = std::io::stdout().lock();
        if self.drawn_lines > 0 {
            // Up to the table's first line, and clear from there on.
            drop(write!(out, "\x1b[{}A\x1b[J", self.drawn_lines));
        }
        drop(writeln!(out, "{text}"));
        self.drawn_lines = text.lines().count();
    }
}

/// The cumulative counts of a histogram, by upper bound.
fn latency_buckets(page: &str) -> Vec<(f64, f64)> {
    let bucket = |line: &str| {
        let (bound, count) = line
            .strip_prefix(PUBLISH_TO_COMMIT)?
            .strip_prefix("_bucket{le=\"")?
            .split_once("\"} ")?;
        Some((bound.parse().ok()?, count.parse().ok()?))
    };
    page.lines().filter_map(bucket).collect()
}

/// The quantile of cumulative counts, linear within a bucket, as Prometheus' `histogram_quantile` has it.
fn quantile(buckets: &[(f64, f64)], q: f64) -> Option<f64> {
    let total = buckets.last().filter(|(_, count)| *count > 0.0)?.1;
    let rank = q * total;
    let index = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (bound, count) = buckets[index];
    let (lower, below) = if index == 0 { (0.0, 0.0) } else { buckets[index - 1] };
    Some(if bound.is_finite() && count > below {
        lower + (bound - lower) * (rank - below) / (count - below)
    } else {
        lower
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        let buckets = [(0.01, 0.0), (0.02, 50.0), (0.04, 100.0), (f64::INFINITY, 100.0)];
        assert!((quantile(&buckets, 0.5).expect("not empty") - 0.02).abs() < 1e-9);
        assert!((quantile(&buckets, 0.75).expect("not empty") - 0.03).abs() < 1e-9);
        assert_eq!(quantile(&[(0.01, 0.0)], 0.5), None);
    }
}
