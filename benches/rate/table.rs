//! How figures are shown: one line a measurement, medians over the rounds, ratios pair by pair.

use super::run::Figures;

pub(crate) fn head() {
    println!("| QoS | | messages/s | broker µs | subscriber µs | PostgreSQL µs | rows a COPY |");
    println!("|---|---|---|---|---|---|---|");
}

/// Medians; what was not measured is a dash.
pub(crate) fn line(qos: u8, name: &str, figures: &[Figures]) {
    let of = |value: fn(&Figures) -> f64, digits: usize| match median(figures.iter().map(value)) {
        0.0 => "–".to_owned(),
        median => format!("{median:.digits$}"),
    };
    println!(
        "| {qos} | {name} | {} | {} | {} | {} | {} |",
        of(|f| f.rate, 0),
        of(|f| f.broker, 1),
        of(|f| f.subscriber, 1),
        of(|f| f.postgres, 2),
        of(|f| f.rows_per_copy, 0)
    );
}

pub(crate) fn ratios(qos: u8, name: &str, ratios: &[f64]) {
    let all: Vec<String> = ratios.iter().map(|ratio| format!("{ratio:.2}")).collect();
    println!(
        "| {qos} | {name} | {:.2} ({}) | | | | |",
        median(ratios.iter().copied()),
        all.join(", ")
    );
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
