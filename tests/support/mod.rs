//! What the tests stand on: real servers, real processes, a proxy that cuts, a broker that lies, and a judge in SQL.
//!
//! Each test has its own of everything, on free ports and in a folder of its own, and all of it ends with the test, however
//! that comes about.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part of this")]

pub mod fake_broker;
pub mod fleet;
pub mod http;
pub mod installation;
pub mod judge;
pub mod person;
pub mod proxy;
pub mod publisher;
pub mod servers;
pub mod service;
pub mod site;
pub mod watch;

use std::future::Future;
use std::time::{Duration, Instant};

/// The longest that anything here is waited for.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// A test's size: `short` in `./dev test`, `whole` in `./dev faults`, which sets `IOTFLOW_FAULTS=whole`.
pub fn size<T>(short: T, whole: T) -> T {
    match std::env::var("IOTFLOW_FAULTS").as_deref() {
        Ok("whole") => whole,
        Ok(other) => panic!("IOTFLOW_FAULTS={other:?} is not known; `whole` is, or leave it away for the short form"),
        Err(_) => short,
    }
}

/// Waits until `condition` gives something, asking every few milliseconds; fails the test with `what` when it never does.
pub async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut condition: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition().await {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain until {what}");
        pause(Duration::from_millis(20)).await;
    }
}

/// Lets `span` pass: between two looks at a condition, or where time itself is the fault ("stopped for 10 s").
pub async fn pause(span: Duration) {
    tokio::time::timeout(span, std::future::pending::<()>())
        .await
        .expect_err("pending never ends");
}
