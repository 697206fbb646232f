//! Certificates: what the broker shows, whether it verifies, and what ends when.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;

use crate::broker::certs::authority::Authority;
use crate::mqtt::inspect::{self, Shown};

use super::finding::{Finding, Findings};
use super::patient::Patient;
use super::place::{Place, Way};

/// Time enough to hear of it, and to visit whoever must be visited.
const SOON: Duration = Duration::from_secs(30 * 86_400);
const RENEW: &str = "iotflow broker certs renew --server; a broker that iotflow keeps is told by itself, another wants a SIGHUP";
const SECONDS_PER_DAY: i64 = 86_400;

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("certificates");
    let mut places = Place::all(patient);
    let own = Place::of_service(&patient.config.mqtt);
    if patient.installation.is_some() && own.way != Way::Clear {
        places.push(own);
    }
    places.retain(|place| matches!(place.way, Way::Tls(_)));
    for place in &places {
        match place.shown().await {
            Ok(shown) => judge(&mut findings, &place.name, &shown, Timestamp::now()),
            Err(why) => {
                findings.fault(
                    &place.name,
                    format!("no TLS handshake: {why}"),
                    "does the broker listen there, and with a certificate? ./mqtt_manage.sh status, ./mqtt_manage.sh logs",
                );
            }
        }
    }
    if let Some(tls) = &patient.config.mqtt.tls {
        authorities(&mut findings, &tls.ca_cert);
    }
    issued(&mut findings, patient).await;
    let mut list = findings.into_list();
    if list.is_empty() {
        let mut nothing = Findings::of("certificates");
        nothing.skipped("TLS", "the service speaks no TLS to the broker, and no listener is known that does");
        list = nothing.into_list();
    }
    list
}

fn judge(findings: &mut Findings, name: &str, shown: &Shown, now: Timestamp) {
    let Some(end) = shown.not_after else {
        findings.skipped(name, "the end of the certificate cannot be read");
        return;
    };
    let found = format!("the certificate shown ends {}", until(now, end));
    let finding = if end <= now {
        findings.fault(name, found, format!("no client that looks at it connects: {RENEW}"))
    } else if let Some(objection) = &shown.objection {
        findings.fault(
            name,
            format!("the certificate shown does not verify: {objection}"),
            "it must be signed by the authority that clients trust, and bear the name by which they reach the broker: iotflow broker certs server --name NAME",
        )
    } else if is_soon(now, end) {
        findings.warning(name, found, RENEW)
    } else {
        findings.ok(name, format!("{found}, and verifies"))
    };
    finding.figure("ends_at", end.to_string());
}

/// The authorities that the service trusts.
fn authorities(findings: &mut Findings, file: &Path) {
    let now = Timestamp::now();
    let ends = match inspect::ends(file) {
        Ok(ends) => ends,
        Err(error) => {
            findings.fault(
                "authority",
                error.to_string(),
                "MQTT_CA_CERT_PATH names a PEM file with the broker's authority",
            );
            return;
        }
    };
    // One that ended does no harm where another signed.
    let Some(end) = ends.into_iter().flatten().max() else {
        findings.skipped("authority", "the end of its certificate cannot be read");
        return;
    };
    let found = format!("{}: ends {}", file.display(), until(now, end));
    let advice = "iotflow broker certs renew --ca, and give the new ca.pem to every client before the old one ends";
    let finding = if end <= now {
        findings.fault("authority", found, advice)
    } else if is_soon(now, end) {
        findings.warning("authority", found, advice)
    } else {
        findings.ok("authority", found)
    };
    finding.figure("ends_at", end.to_string());
}

/// What the installation's authority issued: the files, whatever the broker shows.
async fn issued(findings: &mut Findings, patient: &Patient) {
    let Some((installation, _)) = &patient.installation else { return };
    let folder = installation.broker().certs();
    if !folder.join("issued.json").exists() {
        return;
    }
    let now = Timestamp::now();
    let read = move || Authority::open(&folder).map(|authority| (authority.list(now, SOON), authority.expires_soon(now, SOON)));
    let read = tokio::task::spawn_blocking(read).await.expect("reading the index does not panic");
    let (list, endings) = match read {
        Ok(both) => both,
        Err(error) => {
            findings.skipped("issued", error.to_string());
            return;
        }
    };
    if endings.is_empty() {
        findings.ok(
            "issued",
            format!(
                "{} certificates, none ends within 30 days; the revocation list ends {}",
                list.certificates.len(),
                until(now, list.crl.next_update)
            ),
        );
    }
    for ending in endings {
        let found = format!("{} ends {}", ending.what, until(now, ending.at));
        let advice = "iotflow broker certs list says which, iotflow broker certs renew makes another";
        let finding = if ending.at <= now && ending.for_all {
            findings.fault("issued", found, advice)
        } else {
            findings.warning("issued", found, advice)
        };
        finding.figure("ends_at", ending.at.to_string());
    }
}

fn is_soon(now: Timestamp, end: Timestamp) -> bool {
    end.duration_since(now).as_secs() < i64::try_from(SOON.as_secs()).unwrap_or(i64::MAX)
}

fn until(now: Timestamp, end: Timestamp) -> String {
    let days = end.duration_since(now).as_secs().div_euclid(SECONDS_PER_DAY);
    let day = end.strftime("%Y-%m-%d");
    match days {
        ..0 => format!("on {day}, which is past"),
        0 => format!("on {day}, today or tomorrow"),
        _ => format!("on {day}, in {days} days"),
    }
}
