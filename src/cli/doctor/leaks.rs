//! What gets through: at each listener it is tried to write, and to read, what nobody may.
//!
//! On this machine it is the canary that tries, a user that the access list gives one single topic. Elsewhere it is the
//! service's own user, which may do all that is in its topic tree, and nothing beside it.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, PubAckReason};

use crate::broker::access_set::Canary;
use crate::broker::conf::Kind;
use crate::broker::shelf::Shelf;
use crate::cli::installation::folder::Installation;
use crate::identity::users::CANARY;
use crate::mqtt::config::Config as MqttConfig;
use crate::mqtt::connection::Connection;
use crate::protocol::rights;
use crate::protocol::topic::TopicTree;

use super::finding::{Finding, Findings};
use super::patient::Patient;
use super::place::{Entry, Place, publish};

const OPEN: &str = "the access list is not in force: is acl_file set for this very listener, and there? iotflow broker restart writes it anew and proves it";

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("leaks");
    match &patient.installation {
        Some((installation, _)) => {
            let shelf = Shelf::new(installation.broker(), None);
            by_canary(&mut findings, shelf, &places(patient, installation)).await;
        }
        None => by_service(&mut findings, patient).await,
    }
    findings.into_list()
}

/// All listeners, come to as the canary does: where a certificate is asked for, with its own.
fn places(patient: &Patient, installation: &Installation) -> Vec<Place> {
    let file = |ending: &str| installation.broker().certs().join("devices").join(format!("{CANARY}.{ending}"));
    let own = |place: Place| match place.kind {
        Some(Kind::MutualTls) => place.with_certificate(Some((file("pem"), file("key")))),
        _ => place,
    };
    Place::all(patient).into_iter().map(own).collect()
}

async fn by_canary(findings: &mut Findings, shelf: Shelf, places: &[Place]) {
    // Held while it is tried: whoever changes the set sends the same canary, and two would throw each other out.
    let locked = shelf.clone();
    let lock = tokio::task::spawn_blocking(move || locked.lock())
        .await
        .expect("waiting for a lock does not panic");
    let canary = lock.and_then(|lock| Ok((lock, shelf.canary()?)));
    let (_lock, canary) = match canary {
        Ok(both) => both,
        Err(error) => {
            findings.skipped("canary", error.to_string());
            return;
        }
    };
    for place in places {
        match place.enter(Some((&canary.name, &canary.password)), &canary.name).await {
            Entry::In(mut connection) => match attempt(&mut connection, &canary).await {
                Ok(()) => {
                    findings.ok(&place.name, "refuses to write, and does not deliver, what nobody may");
                    drop(connection.disconnect(true).await);
                }
                Err(leak) => leak.tell(findings, place),
            },
            Entry::Refused(reason) => {
                findings.fault(
                    &place.name,
                    format!("does not let the canary in ({reason}): it does not read the passwords that are on disk"),
                    "iotflow broker restart: it reads them anew, and is proven to",
                );
            }
            Entry::Absent(why) => {
                findings.skipped(&place.name, format!("nobody answers: {why}"));
            }
        }
    }
}

/// What was found wrong.
enum Leak {
    Open(String),
    Closed(String),
    Unknown(String),
}

impl Leak {
    fn tell(self, findings: &mut Findings, place: &Place) {
        match self {
            Self::Open(what) => findings.fault(&place.name, what, OPEN),
            Self::Closed(what) => findings.fault(
                &place.name,
                what,
                "iotflow broker restart: it reads the access list anew, and is proven to",
            ),
            Self::Unknown(why) => findings.skipped(&place.name, why),
        };
    }
}

async fn attempt(connection: &mut Connection, canary: &Canary) -> Result<(), Leak> {
    // Mosquitto says yes to a subscription whatever the access list says, and does not deliver: what comes is what counts. It
    // comes before the second PUBACK, for the broker does one thing after the other.
    connection
        .subscribe(vec![Filter::new(canary.allowed.as_str(), QoS::AtMostOnce)])
        .map_err(|error| Leak::Unknown(error.to_string()))?;
    let mut heard = Vec::new();
    let granted = publish(connection, &canary.allowed, &mut heard).await.map_err(Leak::Unknown)?;
    let refused = publish(connection, &canary.refused, &mut heard).await.map_err(Leak::Unknown)?;
    if refused != PubAckReason::NotAuthorized {
        return Err(Leak::Open(format!("lets the canary write where nobody may ({refused:?})")));
    }
    if !heard.is_empty() {
        return Err(Leak::Open("delivers to the canary what it may not read".to_owned()));
    }
    if !matches!(granted, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) {
        return Err(Leak::Closed(format!(
            "refuses what the canary may ({granted:?}): it has another access list than the one on disk"
        )));
    }
    Ok(())
}

async fn by_service(findings: &mut Findings, patient: &Patient) {
    let place = Place::of_service(&patient.config.mqtt);
    let tree = match TopicTree::new(&patient.config.ingest.base_topic) {
        Ok(tree) => tree,
        Err(error) => {
            findings.skipped(&place.name, error.to_string());
            return;
        }
    };
    let mqtt = MqttConfig {
        session_expiry: Duration::ZERO,
        clean_start: true,
        ..patient.config.mqtt.clone()
    };
    let client_id = format!("iotflow-doctor-{:08x}", fastrand::u32(..));
    let mut connection = match Connection::open(&mqtt, &client_id).await {
        Ok((connection, _)) => connection,
        Err(error) => {
            findings.skipped(&place.name, error.to_string());
            return;
        }
    };
    let topic = rights::outside(&tree);
    match publish(&mut connection, &topic, &mut Vec::new()).await {
        Ok(PubAckReason::NotAuthorized) => {
            findings.ok(&place.name, format!("refuses the service to write to {topic}, as it must"));
        }
        Ok(answer) => {
            findings.fault(
                &place.name,
                format!("lets the service write to {topic}, outside its tree ({answer:?}): either there is no access list, or the user is an admin"),
                "an acl_file for this listener (README, `iotflow broker agent`), and a user of its own for the service",
            );
        }
        Err(why) => {
            findings.skipped(&place.name, why);
        }
    }
    drop(connection.disconnect(true).await);
}
