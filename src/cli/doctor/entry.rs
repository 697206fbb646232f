//! Who gets in: at each listener it is tried without a credential and as a user that nobody made; and who could listen in.

use std::net::IpAddr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::broker::passwords;
use crate::mqtt::connection::Connection;

use super::finding::{Finding, Findings};
use super::patient::{Patient, is_loopback};
use super::place::{Entry, Place, Way};

/// MQTT in the clear, by IANA.
const CLEAR_PORT: u16 = 1883;

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("entry");
    let places = Place::all(patient);
    for place in &places {
        // Who has the service's certificate is no stranger.
        strangers(&mut findings, &place.with_certificate(None)).await;
    }
    in_the_clear(&mut findings, patient, &places).await;
    findings.into_list()
}

async fn strangers(findings: &mut Findings, place: &Place) {
    let stranger = format!("iotflow-doctor-{:08x}", fastrand::u32(..));
    let password = match passwords::generate() {
        Ok(password) => password,
        Err(error) => {
            findings.skipped(&place.name, error.to_string());
            return;
        }
    };
    let mut refusals = Vec::new();
    for login in [None, Some((stranger.as_str(), &password))] {
        match place.enter(login, &stranger).await {
            Entry::In(connection) => {
                leave(*connection).await;
                let found = match login {
                    None => "lets in whoever has no credential at all",
                    Some(_) => "lets in a user that nobody made, with any password",
                };
                findings.fault(
                    &place.name,
                    found,
                    "allow_anonymous false, and a password_file, for this very listener (per_listener_settings true), and a restart of the broker",
                );
                return;
            }
            Entry::Refused(reason) => refusals.push(reason),
            Entry::Absent(why) => {
                let advice = "./mqtt_manage.sh status; `iotflow broker setup --listener KIND=off` leaves a listener out";
                if place.kind.is_some() {
                    findings.warning(&place.name, format!("nobody answers: {why}"), advice);
                } else {
                    findings.skipped(&place.name, format!("nobody answers: {why}"));
                }
                return;
            }
        }
    }
    findings
        .ok(&place.name, "refuses who has no credential, and who is unknown")
        .figure("answers", refusals);
}

async fn in_the_clear(findings: &mut Findings, patient: &Patient, places: &[Place]) {
    let mqtt = &patient.config.mqtt;
    if patient.installation.is_none() {
        if mqtt.tls.is_none() && !is_loopback(&mqtt.host) {
            findings.warning(
                "in the clear",
                format!("the service's password and all messages go to {} in the clear", mqtt.host),
                "MQTT_USE_TLS=true and MQTT_CA_CERT_PATH, unless the network between is nobody else's",
            );
        } else if mqtt.tls.is_some() && mqtt.port != CLEAR_PORT {
            let clear = Place {
                port: CLEAR_PORT,
                way: Way::Clear,
                ..Place::of_service(mqtt)
            };
            match clear.enter(None, "iotflow-doctor").await {
                Entry::Absent(_) => findings.ok("in the clear", format!("{} takes nothing at port {CLEAR_PORT}", mqtt.host)),
                Entry::In(_) | Entry::Refused(_) => findings.warning(
                    "in the clear",
                    format!("{} takes MQTT in the clear too, at port {CLEAR_PORT}", mqtt.host),
                    "let that listener be for loopback only, or none: a device that is told the wrong port sends its password for all to read",
                ),
            };
        }
        return;
    }
    let (mut open, mut astray, mut answers) = (Vec::new(), Vec::new(), false);
    for place in places
        .iter()
        .filter(|place| !matches!(place.way, Way::Tls(_) | Way::SecureWebSockets(_)))
    {
        answers |= place.reach(&place.host).await.is_ok();
        let told_otherwise = place.address.as_deref().is_some_and(is_loopback);
        for address in own_addresses() {
            if place.reach(&address.to_string()).await.is_ok() {
                if told_otherwise { &mut astray } else { &mut open }.push(format!("{} at {address}", place.name));
            }
        }
    }
    if open.is_empty() && astray.is_empty() {
        if answers {
            findings.ok("in the clear", "listeners without TLS answer on loopback only");
        } else {
            findings.skipped("in the clear", "no listener without TLS answers");
        }
    }
    if !open.is_empty() {
        findings.warning(
            "in the clear",
            format!("listeners without TLS can be reached from other machines: {}", open.join(", ")),
            "iotflow broker setup --listener plain=127.0.0.1:1883, and so on for staff and web-sockets, unless the network is nobody else's",
        );
    }
    if !astray.is_empty() {
        // Mosquitto 2.0 gives no address on to libwebsockets.
        findings.warning(
            "in the clear",
            format!("listeners that are for loopback only can be reached from other machines: {}", astray.join(", ")),
            "the broker does not heed the address: shut the port to others (a firewall), or leave the listener out: iotflow broker setup --listener web-sockets=off",
        );
    }
}

/// The addresses by which other machines could reach this one.
fn own_addresses() -> Vec<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP) && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            let v6 = address.as_sockaddr_in6().map(|v6| v6.ip());
            // One of the link alone is reached by its interface's name only, and there is another beside it.
            v4.or(v6.filter(|v6| !v6.is_unicast_link_local()).map(IpAddr::V6))
        })
        .collect()
}

async fn leave(connection: Connection) {
    // Whether it parts in peace changes nothing about what was found.
    drop(connection.disconnect(true).await);
}
