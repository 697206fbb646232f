//! Certificates on a real broker: who gets in, who is put out, and what goes on without a restart.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use iotflow::broker::certs::authority::{Authority, Existing, Old};
use iotflow::broker::certs::index::Which;
use iotflow::broker::conf::{self, Kind, Listener, Paths};
use iotflow::broker::digest;
use iotflow::mqtt::config::{Config, TlsConfig};
use iotflow::mqtt::connection::{Connection, ConnectionError};
use iotflow::observe::secret::Secret;
use iotflow::protocol::id::DeviceIdRef;
use iotflow::protocol::rights::Role;
use iotflow::stack::account::Account;
use iotflow::stack::mosquitto::{Mosquitto, Settings};
use iotflow::stack::ports;
use nix::sys::signal::Signal;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, Packet};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use support::servers::{self, PASSWORD, SERVICE};
use support::{PATIENCE, eventually};
use tempfile::TempDir;

const YEAR: Duration = Duration::from_secs(365 * 86_400);

/// A broker with a TLS listener and one that asks for a client's certificate.
struct Broker {
    broker: Mosquitto,
    certs: PathBuf,
    staff_port: u16,
    tls_port: u16,
    mutual_port: u16,
    // Dropped last: the broker writes into it until it ends.
    folder: TempDir,
}

impl Broker {
    /// With a certificate for these names, and one for each of these devices.
    async fn start(names: &[&str], devices: &[&str]) -> Self {
        let folder = servers::folder();
        let paths = Paths::of(&folder.path().join("mosquitto"));
        let (certs, account) = (paths.certs(), Account::for_servers().expect("there is one"));
        account.create_folder(&paths.folder).expect("it is ours");
        let (mut authority, _) = Authority::create(&certs, "Test CA", YEAR * 10, Existing::Keep).expect("it is new");
        if let Some((uid, gid)) = account.lent() {
            authority.give_server_key_to(uid, gid).expect("root may");
        }
        authority.issue_server(&owned(names), YEAR).expect("good names");
        let ids: Vec<_> = devices.iter().map(|id| DeviceIdRef::parse(id).expect("a good id")).collect();
        authority.issue_devices(&ids, YEAR).expect("they have none");
        drop(authority);

        let [staff_port, tls_port, mutual_port] = [(); 3].map(|()| ports::free().expect("there is a free port"));
        let listeners = [(Kind::Staff, staff_port), (Kind::Tls, tls_port), (Kind::MutualTls, mutual_port)].map(|(kind, port)| Listener {
            kind,
            address: "127.0.0.1".to_owned(),
            port,
        });
        let settings = Settings {
            conf: conf::render(&paths, &listeners, &[]).expect("the template has all of it"),
            folder: paths.folder.clone(),
            port: mutual_port,
        };
        let mut broker = Mosquitto::prepare(settings).unwrap_or_else(|error| panic!("{error}"));
        servers::put_access(&paths, &[(SERVICE, Role::Service)]);
        broker.resume().await.unwrap_or_else(|error| panic!("{error}"));
        Self {
            broker,
            certs,
            staff_port,
            tls_port,
            mutual_port,
            folder,
        }
    }

    /// The authority, for one deed of which the broker hears.
    fn change(&self, deed: impl FnOnce(&mut Authority)) {
        let mut authority = Authority::open(&self.certs).expect("nobody holds it");
        if let Some((uid, gid)) = Account::for_servers().expect("there is one").lent() {
            authority.give_server_key_to(uid, gid).expect("root may");
        }
        deed(&mut authority);
        drop(authority);
        self.broker
            .process()
            .expect("it runs")
            .signal(Signal::SIGHUP)
            .expect("it is our child");
    }

    /// The service by its password, over TLS.
    fn service(&self) -> Config {
        Config {
            host: "localhost".to_owned(),
            port: self.tls_port,
            username: Some(SERVICE.to_owned()),
            password: Some(Secret::new(PASSWORD)),
            tls: Some(TlsConfig {
                ca_cert: self.certs.join("ca.pem"),
                client: None,
            }),
            ..Config::default()
        }
    }

    /// Whoever has this certificate, and no password.
    fn client(&self, certificate: &Path) -> Config {
        Config {
            port: self.mutual_port,
            username: None,
            password: None,
            tls: Some(TlsConfig {
                ca_cert: self.certs.join("ca.pem"),
                client: Some((certificate.to_owned(), certificate.with_extension("key"))),
            }),
            ..self.service()
        }
    }

    fn device(&self, id: &str) -> Config {
        self.client(&self.certs.join(format!("devices/{id}.pem")))
    }

    /// The fingerprint of the certificate that new clients are shown.
    async fn shown(&self) -> String {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(self.certs.join("ca.pem")).expect("it is PEM");
        roots.add(ca).expect("it is an authority's");
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has them")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = tokio::net::TcpStream::connect(("localhost", self.tls_port))
            .await
            .expect("it listens");
        let name = ServerName::try_from("localhost").expect("a host name");
        let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(name, tcp)
            .await
            .expect("it is ours");
        let shown = stream.get_ref().1.peer_certificates().expect("it showed one");
        digest::sha256(&shown[0])
    }
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

fn device(id: &str) -> Which {
    Which::Device(DeviceIdRef::to_owned(DeviceIdRef::parse(id).expect("a good id")))
}

async fn connect(config: &Config, client_id: &str) -> Result<Connection, ConnectionError> {
    Connection::open(config, client_id).await.map(|(connection, _)| connection)
}

/// Asks the broker for something over this connection: it is in force as long as there is an answer.
async fn ask(connection: &mut Connection) -> Result<(), ConnectionError> {
    connection.subscribe(vec![Filter::new("iotflow/devices/+/telemetry/#", QoS::AtLeastOnce)])?;
    loop {
        connection.turn(true).await?;
        while let Some(packet) = connection.next_packet()? {
            if matches!(packet, Packet::SubAck(_)) {
                return Ok(());
            }
        }
    }
}

/// Waits until the broker has ended this connection.
async fn ends(connection: &mut Connection) {
    let ended = async { while connection.turn(true).await.is_ok() && connection.next_packet().is_ok() {} };
    tokio::time::timeout(PATIENCE, ended).await.expect("the broker ends it");
}

/// Whether the handshake failed, and not something else about the test.
fn is_refused(outcome: &Result<Connection, ConnectionError>) -> bool {
    match outcome {
        Err(ConnectionError::Tls(error)) => error.to_string().starts_with("TLS handshake"),
        // In TLS 1.3 a client hears that its certificate is refused only after it thought all was well.
        Err(ConnectionError::Io(_) | ConnectionError::Eof) => true,
        _ => false,
    }
}

#[tokio::test]
async fn the_service_connects_by_tls_and_by_its_own_certificate() {
    let broker = Broker::start(&["localhost", "127.0.0.1"], &[SERVICE, "aa:bb:cc"]).await;
    for host in ["localhost", "127.0.0.1"] {
        let config = Config {
            host: host.to_owned(),
            ..broker.service()
        };
        ask(&mut connect(&config, "by-password").await.expect("it is trusted"))
            .await
            .expect("it is in force");
    }
    for name in [SERVICE, "aa:bb:cc"] {
        let mut connection = connect(&broker.device(name), name).await.expect("it has a certificate");
        ask(&mut connection).await.expect("it is in force");
    }
    let nobody = Config {
        port: broker.mutual_port,
        ..broker.service()
    };
    let outcome = connect(&nobody, "without-certificate").await;
    assert!(is_refused(&outcome), "a password is no certificate: {outcome:?}");
}

#[tokio::test]
async fn a_wrong_authority_and_a_wrong_host_are_refused() {
    let broker = Broker::start(&["localhost"], &["pump-1"]).await;
    let stranger = broker.folder.path().join("stranger");
    let (mut other, _) = Authority::create(&stranger, "Test CA", YEAR * 2, Existing::Keep).expect("it is new");
    other
        .issue_device(DeviceIdRef::parse("pump-1").expect("a good id"), YEAR)
        .expect("it has none");

    let mut config = broker.service();
    config.tls = Some(TlsConfig {
        ca_cert: stranger.join("ca.pem"),
        client: None,
    });
    let error = connect(&config, "service")
        .await
        .expect_err("another authority signed it")
        .to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");

    let elsewhere = Config {
        host: "127.0.0.1".to_owned(),
        ..broker.service()
    };
    let error = connect(&elsewhere, "service").await.expect_err("it is for localhost").to_string();
    assert!(error.contains("not valid for name"), "{error}");

    // The authority of the same name with another key signs for nobody here.
    let mut config = broker.client(&stranger.join("devices/pump-1.pem"));
    config.tls.as_mut().expect("it has TLS").ca_cert = broker.certs.join("ca.pem");
    let outcome = connect(&config, "pump-1").await;
    assert!(is_refused(&outcome), "{outcome:?}");
    connect(&broker.device("pump-1"), "pump-1").await.expect("the true one is let in");
}

#[tokio::test]
async fn a_revoked_device_is_refused_and_nobody_else_is() {
    let broker = Broker::start(&["localhost"], &["pump-1", "pump-2"]).await;
    let mut first = connect(&broker.device("pump-1"), "pump-1").await.expect("it is good");
    let mut second = connect(&broker.device("pump-2"), "pump-2").await.expect("it is good");
    ask(&mut first).await.expect("it is in force");
    ask(&mut second).await.expect("it is in force");

    broker.change(|authority| drop(authority.revoke(&device("pump-1")).expect("it has one")));
    eventually("pump-1 is refused", async || {
        let outcome = connect(&broker.device("pump-1"), "pump-1-again").await;
        is_refused(&outcome).then_some(())
    })
    .await;
    ask(&mut second).await.expect("the connection of another is not touched");
    connect(&broker.device("pump-2"), "pump-2-again")
        .await
        .expect("nor is its right to another");

    // What the revoked device has open stays open: Mosquitto looks at a certificate in the handshake alone. Whoever takes its
    // client id over ends that too, and there is no way back for it.
    let staff = Config {
        port: broker.staff_port,
        tls: None,
        ..broker.service()
    };
    connect(&staff, "pump-1").await.expect("the service may");
    ends(&mut first).await;
    assert!(is_refused(&connect(&broker.device("pump-1"), "pump-1").await));
}

#[tokio::test]
async fn a_renewed_server_certificate_is_shown_without_a_restart() {
    let broker = Broker::start(&["localhost"], &["pump-1"]).await;
    let process = broker.broker.process().expect("it runs").id();
    let mut by_password = connect(&broker.service(), "service").await.expect("it is trusted");
    let mut by_certificate = connect(&broker.device("pump-1"), "pump-1").await.expect("it is good");
    let before = broker.shown().await;

    let mut renewed = String::new();
    broker.change(|authority| {
        let change = authority.renew(&Which::Server, YEAR, Old::Keep).expect("it is there");
        renewed.clone_from(&change.issued[0].fingerprint);
    });
    assert_ne!(before, renewed);
    eventually("the new certificate is shown", async || {
        (broker.shown().await == renewed).then_some(())
    })
    .await;
    for connection in [&mut by_password, &mut by_certificate] {
        ask(connection).await.expect("what was open stays open");
    }
    connect(&broker.service(), "another").await.expect("the new one is trusted as well");
    assert_eq!(broker.broker.process().expect("it runs").id(), process);
}

#[tokio::test]
async fn the_services_renewed_certificate_counts_from_its_next_connection_on() {
    let broker = Broker::start(&["localhost"], &[SERVICE]).await;
    let config = broker.device(SERVICE);
    let kept = broker.folder.path().join("kept.pem");
    for extension in ["pem", "key"] {
        let file = broker.certs.join("devices").join(SERVICE).with_extension(extension);
        fs::copy(file, kept.with_extension(extension)).expect("it is ours");
    }
    let mut first = connect(&config, "first").await.expect("it is good");
    ask(&mut first).await.expect("it is in force");

    broker.change(|authority| drop(authority.renew(&device(SERVICE), YEAR, Old::Revoke).expect("it has one")));
    eventually("the old certificate is refused", async || {
        is_refused(&connect(&broker.client(&kept), "old").await).then_some(())
    })
    .await;
    // The same settings, and the same process: the files alone are others.
    let mut second = connect(&config, "second").await.expect("the new files are read");
    ask(&mut second).await.expect("it is in force");
}
