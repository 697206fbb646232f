//! The service itself, where it answers on this machine: every part of it, and what it warns of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::timeout;

use crate::api::server::from_here;
use crate::cli::health::ask;
use crate::observe::metrics::BROKER_DROPPED_MESSAGES;

use super::broker::DROPPED_ADVICE;
use super::finding::{Finding, Findings, Level};
use super::patient::Patient;

const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Deserialize)]
struct Verbose {
    parts: BTreeMap<String, Part>,
}

#[derive(Deserialize)]
struct Part {
    ready: bool,
    detail: String,
    warnings: Vec<String>,
}

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("service");
    let api = &patient.config.api;
    let address = api.host.parse().map_or_else(
        |_| format!("{}:{}", api.host, api.port),
        |ip| from_here(SocketAddr::new(ip, api.port)).to_string(),
    );
    if api.port == 0 {
        findings.skipped("ready", "PORT is 0: where it listens is known to its log only");
        return findings.into_list();
    }
    let answer = match timeout(ANSWER_WITHIN, ask(&address, "/readyz?verbose")).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            findings.skipped(
                "ready",
                format!("nobody answers at {address} ({error}): it may run elsewhere, or not at all"),
            );
            return findings.into_list();
        }
        Err(_) => {
            findings.fault(
                "ready",
                format!("{address} does not answer within {ANSWER_WITHIN:?}"),
                "its log says what it is at; a restart loses nothing",
            );
            return findings.into_list();
        }
    };
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match serde_json::from_str::<Verbose>(body) {
        Ok(verbose) => {
            judge(&mut findings, &address, &verbose.parts);
            dropped(&mut findings, &address).await;
        }
        Err(_) => {
            findings.skipped("ready", format!("{address} answers, and is no IoTFlow"));
        }
    }
    findings.into_list()
}

/// What the broker told the service that it dropped: by itself it tells a newcomer for a minute only.
async fn dropped(findings: &mut Findings, address: &str) {
    let page = timeout(ANSWER_WITHIN, ask(address, "/metrics")).await;
    let Some(count) = page
        .ok()
        .and_then(Result::ok)
        .and_then(|page| value(&page, BROKER_DROPPED_MESSAGES))
    else {
        findings.skipped("broker's drops", format!("{address} has no such series"));
        return;
    };
    findings
        .judge(
            "broker's drops",
            count == 0.0,
            Level::Warning,
            format!("{count} messages, as the broker told the service last"),
            DROPPED_ADVICE,
        )
        .figure("messages", count);
}

/// The value of a series without labels.
fn value(page: &str, name: &str) -> Option<f64> {
    page.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn judge(findings: &mut Findings, address: &str, parts: &BTreeMap<String, Part>) {
    for (name, part) in parts.iter().filter(|(_, part)| !part.ready) {
        findings.fault(name, &part.detail, "its log says more; what is not acked stays with the broker");
    }
    for (name, part) in parts {
        for warning in &part.warnings {
            findings.warning(name, warning, "docs/operating.md, `The broker`");
        }
    }
    if parts.values().all(|part| part.ready) {
        findings.ok("ready", format!("{address}: {} parts, every one ready", parts.len()));
    }
}
