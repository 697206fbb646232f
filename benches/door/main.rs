//! The operator's door under load: reads while ingest is at its maximum, what they cost ingest, and commands to a whole fleet that is
//! online.
//!
//! `./dev door [MESSAGES [DEVICES [COMMANDS_PER_SECOND]]]`. Requests are sent when they are due, whether or not the last was answered.

#[path = "../../tests/support/mod.rs"]
mod support;

mod caller;
mod commands;
mod device;
mod reads;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let number = |at: usize, default: u64| numbers.get(at).copied().unwrap_or(default);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a thread can be started");
    runtime.block_on(async {
        reads::measure(number(0, 300_000)).await;
        commands::measure(number(1, 10_000), number(2, 1_000)).await;
    });
}
