//! Delivery quality as figures: what `/metrics/qos` says, for whoever does not speak Prometheus.

use serde::Serialize;
use utoipa::ToSchema;

use super::accounting::Accounting;
use super::expose::{self, Page};
use super::metrics::Metrics;

/// The delivery quality of one QoS.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Quality {
    /// Messages taken from the wire, redeliveries included.
    pub received: u64,
    /// Of these, marked as delivered before.
    pub redelivered: u64,
    /// Messages stored with at least one new row.
    pub committed: u64,
    /// Messages whose every row was there.
    pub duplicates: u64,
    /// Messages stored as dead letters.
    pub dead_lettered: u64,
    /// Messages dropped by rule.
    pub shed: u64,
    /// Messages let go without a verdict, for the broker to deliver again.
    pub abandoned: u64,
    /// Messages received that have no outcome yet.
    pub in_flight: u64,
    /// PUBACKs sent, each after the commit; none at QoS 0.
    pub acked: u64,
    /// The age of the oldest delivery that waits for its ack, in seconds.
    pub oldest_unacked_seconds: f64,
    /// From receipt to commit.
    pub commit_latency: Latency,
    /// From receipt to the PUBACK; none at QoS 0.
    pub ack_latency: Latency,
}

/// Quantiles of a latency in seconds, since the start; none where nothing was measured. A quantile is read off a histogram:
/// it lies in the right bucket, and between that bucket's ends by proportion.
#[derive(Debug, Clone, Default, PartialEq, Serialize, ToSchema)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// The median.
    pub p50_seconds: Option<f64>,
    /// Nine of ten are not above it.
    pub p90_seconds: Option<f64>,
    /// 99 of 100 are not above it.
    pub p99_seconds: Option<f64>,
}

/// A series of the exposition: name, labels as text, value.
type Series<'a> = (&'a str, &'a str, f64);

/// The quality of `qos` (0 or 1) as of now.
#[must_use]
pub fn of(metrics: &Metrics, accounting: &Accounting, qos: u8) -> Quality {
    let page = expose::render(metrics, accounting, Page::Qos);
    let series: Vec<Series<'_>> = page.lines().filter_map(read).collect();
    let label = format!("qos=\"{qos}\"");
    let sum = |name: &str| -> f64 {
        let of_qos = series
            .iter()
            .filter(|(family, labels, _)| *family == name && labels.contains(&label));
        of_qos.map(|(_, _, value)| value).sum()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "counts are whole, positive and below 2^53"
    )]
    let count = |name: &str| sum(name) as u64;
    // Connections have no QoS: what waits for an ack came at QoS 1.
    let oldest = series
        .iter()
        .filter(|(family, _, _)| qos == 1 && *family == super::metrics::OLDEST_UNACKED)
        .map(|(_, _, value)| *value)
        .fold(0.0, f64::max);
    let name = |what: &str| format!("{}{what}", super::metrics::QOS_PREFIX);
    let latency = |family: String| latency(&series, &family, &label);
    Quality {
        received: count(&name("received_total")),
        redelivered: count(&name("redelivered_total")),
        committed: count(&name("committed_total")),
        duplicates: count(&name("duplicates_total")),
        dead_lettered: count(&name("dead_lettered_total")),
        shed: count(&name("shed_total")),
        abandoned: count(&name("abandoned_total")),
        in_flight: count(&name("in_flight")),
        acked: count(&name("acked_total")),
        oldest_unacked_seconds: oldest,
        commit_latency: latency(name("commit_latency_seconds")),
        ack_latency: latency(name("ack_latency_seconds")),
    }
}

fn read(line: &str) -> Option<Series<'_>> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    Some((name, labels, value.parse().ok()?))
}

fn latency(series: &[Series<'_>], family: &str, label: &str) -> Latency {
    let bucket = format!("{family}_bucket");
    let mut buckets: Vec<(f64, f64)> = series
        .iter()
        .filter(|(name, labels, _)| *name == bucket && labels.contains(label))
        .filter_map(|(_, labels, value)| {
            let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
            Some((bound.parse().unwrap_or(f64::INFINITY), *value))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    let total = buckets.last().map_or(0.0, |(_, count)| *count);
    let quantile = |share: f64| quantile(&buckets, share * total);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    Latency {
        count: total as u64,
        p50_seconds: quantile(0.5),
        p90_seconds: quantile(0.9),
        p99_seconds: quantile(0.99),
    }
}

/// Where the `rank`-th lies: in the first bucket that holds it, by proportion. Beyond the last bound it is that bound.
fn quantile(buckets: &[(f64, f64)], rank: f64) -> Option<f64> {
    let at = buckets.iter().position(|(_, count)| *count >= rank && *count > 0.0)?;
    let (bound, count) = buckets[at];
    let (below, before) = at.checked_sub(1).map_or((0.0, 0.0), |at| buckets[at]);
    if bound.is_infinite() {
        return Some(below);
    }
    Some(below + (bound - below) * (rank - before) / (count - before))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_page() {
        let (metrics, accounting) = (Metrics::new(), Accounting::default());
        accounting.book(|totals| {
            totals.receive([5, 3], [0, 1]);
            totals.committed = [5, 1];
            totals.release([5, 1]);
        });
        for _ in 0..100 {
            metrics.commit_latency[1].record(0.015);
        }
        metrics.upkeep();
        let quality = of(&metrics, &accounting, 1);
        assert_eq!(
            (quality.received, quality.redelivered, quality.committed, quality.in_flight),
            (3, 1, 1, 2)
        );
        assert_eq!(quality.commit_latency.count, 100);
        let median = quality.commit_latency.p50_seconds.expect("a hundred were measured");
        assert!((0.01..=0.02).contains(&median), "{median}");
        assert_eq!(quality.ack_latency, Latency::default());
        assert_eq!(of(&metrics, &accounting, 0).received, 5);
    }

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let buckets = [(0.1, 0.0), (0.2, 50.0), (0.4, 100.0), (f64::INFINITY, 110.0)];
        let near = |rank, expected: f64| assert!((quantile(&buckets, rank).expect("there are some") - expected).abs() < 1e-9);
        near(25.0, 0.15);
        near(75.0, 0.3);
        near(109.0, 0.4);
        assert_eq!(quantile(&[(0.1, 0.0), (f64::INFINITY, 0.0)], 0.0), None);
    }
}
