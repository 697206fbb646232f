//! The account at the end: what was published, what became of it, and whether that balances.

use serde_json::Value;

use crate::observe::accounting::Totals;

/// Prints the account and says whether it balances.
pub(super) fn print(totals: &Totals, report: Option<&Value>) -> bool {
    let sum = |counts: [u64; 2]| counts.iter().sum::<u64>();
    let (received, committed, duplicates, dead, shed) = (
        sum(totals.received),
        sum(totals.committed),
        sum(totals.duplicates),
        sum(totals.dead_lettered),
        sum(totals.shed),
    );
    let stored = committed + duplicates + dead;
    let mut balanced = received == stored + shed && sum(totals.in_flight) == 0 && sum(totals.abandoned) == 0;
    println!(
        "\n  received  {received} = committed {committed} + duplicates {duplicates} + dead letters {dead} + shed {shed}{}",
        if balanced { "" } else { "   DOES NOT BALANCE" }
    );
    let Some(report) = report else { return balanced };
    let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let published = number("/acked");
    if published == stored {
        println!("  published {published} = committed {committed} + duplicates {duplicates} + dead letters {dead}");
    } else {
        println!(
            "  published {published} by the fleet; {} more were received: from others, or delivered again",
            i128::from(stored) - i128::from(published)
        );
        balanced &= stored > published;
    }
    let (expected, found, lost, doubled, unexpected) = (
        number("/verified/expected"),
        number("/verified/found"),
        number("/verified/lost"),
        number("/verified/doubled"),
        number("/verified/unexpected"),
    );
    let passed =
        report["verified"].is_object() && lost + doubled + unexpected + number("/unacked") + number("/refused") == 0 && found >= expected;
    println!("  in SQL    {found} of {expected} readings, lost {lost}, doubled {doubled}, unexpected {unexpected}");
    if let Some(latency) = report.pointer("/verified/latency").filter(|latency| latency.is_object()) {
        let ms = |name: &str| latency[name].as_f64().unwrap_or(0.0);
        println!(
            "  latency   from due to committed: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            ms("p50_ms"),
            ms("p99_ms"),
            ms("max_ms")
        );
    }
    println!(
        "  {}",
        if balanced && passed {
            "every message is accounted for, none is lost"
        } else {
            "NOT EVERY MESSAGE IS ACCOUNTED FOR"
        }
    );
    balanced && passed
}
