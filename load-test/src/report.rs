//! What a run came to, as JSON and as a table, and the judgement of it.

use comfy_table::{CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;
use crate::verify::{Expected, Verified};

/// A message later than this because of us says that the generator, not the system, was the limit.
const LAG_LIMIT_MS: f64 = 100.0;

/// Quantiles of a span, in milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Quantiles {
    /// Of a histogram in microseconds.
    pub(crate) fn of(histogram: &hdrhistogram::Histogram<u64>) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "spans are far below 2^53 µs")]
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        }
    }
}

/// See the module's documentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) scenario: Scenario,
    /// When the first message was due, in seconds since 1970.
    pub(crate) started_at: f64,
    /// Messages handed to the broker, repeats not counted.
    pub(crate) sent: u64,
    /// Messages that the broker acked (QoS 1 and 2).
    pub(crate) acked: u64,
    /// Messages that it refused.
    pub(crate) refused: u64,
    /// Messages it took although nobody was subscribed: these are lost, and not by the service.
    pub(crate) without_subscriber: u64,
    /// Messages it never answered.
    pub(crate) unacked: u64,
    /// Connections that broke.
    pub(crate) reconnects: u64,
    /// From the start to the last ack, in seconds.
    pub(crate) seconds: f64,
    /// Messages a second over that time.
    pub(crate) rate: f64,
    /// From due to acked.
    pub(crate) ack_latency: Quantiles,
    /// From due to sent, where nothing but this program held a message up.
    pub(crate) generator_lag: Quantiles,
    /// Whether this program, not the system, was the limit.
    pub(crate) generator_bound: bool,
    pub(crate) expected: Expected,
    pub(crate) verified: Option<Verified>,
    /// Thresholds that were not kept.
    pub(crate) failures: Vec<String>,
}

impl Report {
    /// Holds the figures against the thresholds.
    pub(crate) fn judge(&mut self) {
        let limits = &self.scenario.thresholds;
        let mut failures = Vec::new();
        let mut at_most = |what: &str, value: f64, limit: Option<f64>| {
            if let Some(limit) = limit.filter(|limit| value > *limit) {
                failures.push(format!("{what}: {value}, at most {limit} allowed"));
            }
        };
        #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
        let number = |count: u64| count as f64;
        if let Some(verified) = &self.verified {
            let default_lost = if self.scenario.qos == 0 { None } else { Some(0) };
            at_most("lost", number(verified.lost), limits.max_lost.or(default_lost).map(number));
            at_most("doubled", number(verified.doubled), Some(number(limits.max_doubled)));
            at_most("unexpected", number(verified.unexpected), Some(number(limits.max_unexpected)));
            if let Some(latency) = &verified.latency {
                at_most("due to committed, p99 in ms", latency.p99_ms, limits.max_p99_ms);
                at_most("late", number(latency.late), limits.max_late.map(number));
            }
        }
        at_most(
            "without a subscriber",
            number(self.without_subscriber),
            Some(number(limits.max_without_subscriber)),
        );
        if self.sent == 0 {
            failures.push("nothing was sent".to_owned());
        }
        self.generator_bound = self.scenario.fleet_rate() > 0.0 && self.generator_lag.p99_ms > LAG_LIMIT_MS;
        self.failures = failures;
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut table = Table::new();
        table
            .load_style(UTF8_FULL_CONDENSED)
            .set_header(["", "messages", "p50 ms", "p99 ms", "p99.9 ms", "max ms"]);
        let quantiles = |q: &Quantiles| [q.p50_ms, q.p99_ms, q.p999_ms, q.max_ms].map(|ms| format!("{ms:.1}"));
        let mut row = |name: &str, count: String, spans: [String; 4]| {
            let [a, b, c, d] = spans;
            table.add_row([name.to_owned(), count, a, b, c, d]);
        };
        let none = || [const { String::new() }; 4];
        row("sent (generator lag)", self.sent.to_string(), quantiles(&self.generator_lag));
        if self.scenario.qos > 0 {
            row("acked (due → ack)", self.acked.to_string(), quantiles(&self.ack_latency));
        }
        for (name, count) in [
            ("refused", self.refused),
            ("without a subscriber", self.without_subscriber),
            ("never acked", self.unacked),
            ("reconnects", self.reconnects),
        ] {
            if count > 0 {
                row(name, count.to_string(), none());
            }
        }
        if let Some(verified) = &self.verified {
            let spans = verified
                .latency
                .as_ref()
                .map_or_else(none, |l| [l.p50_ms, l.p99_ms, l.p999_ms, l.max_ms].map(|ms| format!("{ms:.1}")));
            row(
                "readings in SQL (due → commit)",
                format!("{} of {}", verified.found, verified.expected),
                spans,
            );
            for (name, count) in [
                ("lost", verified.lost),
                ("doubled", verified.doubled),
                ("unexpected", verified.unexpected),
            ] {
                row(name, count.to_string(), none());
            }
            if let Some(latency) = &verified.latency {
                row(
                    &format!("late (over {} ms)", self.scenario.thresholds.late_ms),
                    latency.late.to_string(),
                    none(),
                );
            }
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n{:.0} messages/s over {:.1} s", self.rate, self.seconds);
        if self.generator_bound {
            text.push_str("\nthe generator was the limit: messages left it late; use fewer devices a process, or more cores");
        }
        if self.verified.is_none() {
            text.push_str("\nnot verified: DATABASE_URL is not set");
        }
        for failure in &self.failures {
            text.push_str(&format!("\nFAILED {failure}"));
        }
        text
    }
}
