//! The settings: which are given, and where; values are not shown.

use std::collections::BTreeMap;

use crate::config::VARIABLES;

use super::finding::{Finding, Findings};
use super::patient::Patient;

pub(super) fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("settings");
    let mut given: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for variable in VARIABLES {
        let file = variable.secret.then(|| format!("{}_FILE", variable.name));
        for name in std::iter::once(variable.name.to_owned()).chain(file) {
            if let Some(origin) = patient.sources.origin(&name) {
                given.entry(origin).or_default().push(name);
            }
        }
    }
    for (origin, names) in &given {
        findings.ok(origin, names.join(", "));
    }
    if given.is_empty() {
        findings.ok(
            "defaults",
            "nothing is set: not by a flag, in the environment, in .env, or in an installation's folder",
        );
    }
    match &patient.installation {
        Some((installation, _)) => findings.ok("broker", format!("of the installation in {}", installation.data.display())),
        None => findings.ok("broker", "of no installation on this machine: its files are not looked at"),
    };
    findings.into_list()
}
