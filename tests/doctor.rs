//! `iotflow doctor`: a healthy installation has no fault, and each fault that is done to one is found and named.

mod support;

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use iotflow::broker::certs::authority::Authority;
use iotflow::protocol::rights::Role;
use iotflow::stack::ports;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use support::eventually;
use support::judge::texts;
use support::servers::{PASSWORD, SERVICE, Servers};
use support::service::Service;
use support::site::{LEAF_VALIDITY, Site};

const DAY: Duration = Duration::from_secs(86_400);

/// Runs it in `folder` with these variables and no others.
fn run(folder: &std::path::Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_iotflow"), "doctor", "--data"])
        .arg(folder)
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .envs(variables.iter().copied())
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .expect("setpriv (util-linux) can be started")
}

/// What it found.
struct Verdict {
    code: i32,
    json: Value,
}

impl Verdict {
    fn of(folder: &std::path::Path, variables: &[(&str, &str)]) -> Self {
        let output = run(folder, &["--json"], variables);
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains(PASSWORD), "it tells a password: {text}");
        Self {
            code: output.status.code().expect("it ends by itself"),
            json: serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Value> {
        self.json["findings"].as_array().expect("a list").iter()
    }

    fn of_level(&self, level: &str) -> Vec<String> {
        let named = |it: &Value| format!("{} {}", it["subject"].as_str().unwrap_or(""), it["check"].as_str().unwrap_or(""));
        self.all().filter(|it| it["level"] == level).map(named).collect()
    }

    /// The finding of this subject whose check begins so.
    fn find(&self, subject: &str, check: &str) -> &Value {
        self.all()
            .find(|it| it["subject"] == subject && it["check"].as_str().is_some_and(|name| name.starts_with(check)))
            .unwrap_or_else(|| panic!("nothing is said of {subject} {check}: {:#}", self.json))
    }

    /// Asserts that it was found so bad, said with these words, and that something is to be done about it.
    fn assert(&self, level: &str, (subject, check): (&str, &str), words: &str) {
        let found = self.find(subject, check);
        assert_eq!(found["level"], level, "{found:#}");
        assert!(found["found"].as_str().is_some_and(|text| text.contains(words)), "{found:#}");
        assert_eq!(found["advice"].is_string(), level != "ok", "{found:#}");
        assert_eq!(self.code == 1, !self.of_level("fault").is_empty(), "{:#}", self.json);
        if level == "fault" {
            assert_eq!((self.code, &self.json["status"]), (1, &json!("fault")));
        }
    }
}

/// An installation on this machine, with a service at work.
struct Clinic {
    site: Site,
    service: Service,
}

impl Clinic {
    async fn open() -> Self {
        let site = Site::durable().await;
        site.add(&[(SERVICE, Role::Service)]).await;
        site.in_force().await;
        let listeners = [
            ("staff", site.ports.staff),
            ("plain", site.ports.plain),
            ("tls", site.ports.tls),
            ("mutual-tls", site.ports.mutual_tls),
            ("web-sockets", site.ports.web_sockets),
        ]
        .map(|(kind, port)| json!({"kind": kind, "address": "127.0.0.1", "port": port}));
        let settings = json!({"base_topic": "iotflow", "listeners": listeners, "names": ["127.0.0.1"], "own_database": true});
        let folder = site.folder.path();
        std::fs::write(folder.join("broker.json"), settings.to_string()).expect("it is ours");
        let http = ports::free().expect("there is a free port").to_string();
        let variables = [
            ("MQTT_HOST", "127.0.0.1"),
            ("MQTT_PORT", &site.ports.staff.to_string()),
            ("MQTT_USERNAME", SERVICE),
            ("MQTT_PASSWORD", PASSWORD),
            // What Mosquitto 2.0.11 wants, so that a healthy installation is one here too.
            ("MQTT_SHARED", "false"),
            ("DATABASE_URL", site.db.url.reveal()),
            ("PORT", &http),
            ("LOG_FORMAT", "json"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let env: String = variables.iter().map(|(name, value)| format!("{name}='{value}'\n")).collect();
        std::fs::write(folder.join("env"), env).expect("it is ours");
        let service = Service::ready(folder, &variables).await;
        Self { site, service }
    }

    fn examine(&self) -> Verdict {
        self.examine_with(&[])
    }

    /// With variables of the environment, which come before those of the installation.
    fn examine_with(&self, variables: &[(&str, &str)]) -> Verdict {
        Verdict::of(self.site.folder.path(), variables)
    }

    async fn sql(&self, statements: &str) {
        self.site
            .sql
            .batch_execute(statements)
            .await
            .unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    }

    /// Another certificate for the broker, of which it hears.
    fn issue_server(&self, name: &str, validity: Duration) {
        let mut authority = Authority::open(&self.site.paths.certs()).expect("nobody holds it");
        if let Some((uid, gid)) = iotflow::stack::account::Account::for_servers().expect("an account").lent() {
            authority.give_server_key_to(uid, gid).expect("root may");
        }
        authority.issue_server(&[name.to_owned()], validity).expect("a good name");
        drop(authority);
        self.site.applier.process.reload().expect("the broker runs");
    }
}

#[tokio::test]
async fn a_healthy_installation_has_no_fault_and_every_part_of_it_is_looked_at() {
    let clinic = Clinic::open().await;
    let verdict = clinic.examine();
    assert_eq!((verdict.code, verdict.of_level("fault")), (0, Vec::new()), "{:#}", verdict.json);
    // A listener of Mosquitto 2.0 for WebSockets heeds no address: a machine with a network is warned.
    let warnings = verdict.of_level("warning");
    assert!(warnings.iter().all(|warning| warning == "entry in the clear"), "{warnings:?}");
    // A broker does not tell its time, and may have nothing to say of dropped messages just now.
    let skipped = verdict.of_level("skipped");
    assert!(
        skipped
            .iter()
            .all(|it| ["clock broker", "broker dropped", "broker load"].contains(&it.as_str())),
        "{skipped:?}"
    );
    let ok = verdict.of_level("ok");
    for expected in [
        "settings installation",
        "service ready",
        "broker login",
        "broker version",
        "service broker's drops",
        "broker client ids",
        "broker window",
        "broker sharing",
        "broker max_queued",
        "certificates issued",
        "access in force",
        "access agent",
        "database schema",
        "database fsync",
        "database connections",
        "sessions leases",
        "storage telemetry ahead",
        "storage events kept",
        "storage dead letters",
        "clock database",
        "disk broker",
        "disk database",
    ] {
        assert!(ok.iter().any(|it| it == expected), "{expected}: {ok:?}");
    }
    for (subject, kinds) in [
        ("entry", &["staff", "plain", "tls", "mutual-tls", "web-sockets"][..]),
        ("leaks", &["staff", "plain", "tls", "mutual-tls", "web-sockets"]),
        ("certificates", &["tls", "mutual-tls"]),
    ] {
        for kind in kinds {
            verdict.assert("ok", (subject, &format!("{kind} ")), "");
        }
    }
    assert_eq!(verdict.find("storage", "telemetry ahead")["figures"]["ahead"], 2);

    let output = run(clinic.site.folder.path(), &[], &[]);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains(PASSWORD) && !text.contains('\u{1b}'), "{text}");
    assert!(text.starts_with("settings\n  ok ") && text.contains("\n0 faults, "), "{text}");
}

#[tokio::test]
async fn what_is_wrong_in_the_database_is_found_and_the_rest_is_asked_all_the_same() {
    let mut clinic = Clinic::open().await;
    clinic.sql("UPDATE broker_access SET alarm = 'the broker did not obey'").await;
    clinic.examine().assert("fault", ("access", "alarm"), "the broker did not obey");
    clinic.sql("UPDATE broker_access SET alarm = NULL").await;

    clinic
        .sql(
            "INSERT INTO dead_letters SELECT gen_random_uuid(), now() - number * interval '1 hour', 'iotflow/devices/d/telemetry', 1, '{', 'not_json', 'x'
             FROM generate_series(1, 30) AS number;
             INSERT INTO dead_letters VALUES (gen_random_uuid(), now(), 'iotflow/devices/d/telemetry', 1, '{', 'empty_array', 'x')",
        )
        .await;
    let verdict = clinic.examine();
    verdict.assert(
        "warning",
        ("storage", "dead letters"),
        "24 in the last 24 hours: 23 not_json, 1 empty_array",
    );
    assert_eq!(
        (verdict.code, &verdict.json["status"]),
        (0, &json!("warning")),
        "a warning is no fault"
    );
    clinic.sql("DELETE FROM dead_letters").await;

    let partitions = texts(
        &clinic.site.sql,
        "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'telemetry'::regclass ORDER BY 1",
    )
    .await;
    clinic.sql(&format!("DROP TABLE {}", partitions[2])).await;
    clinic
        .examine()
        .assert("warning", ("storage", "telemetry ahead"), "1 of 2 beyond it");
    clinic.sql(&format!("DROP TABLE {}, {}", partitions[0], partitions[1])).await;
    clinic
        .examine()
        .assert("fault", ("storage", "telemetry ahead"), "no partition takes what comes now");
    let kept = clinic.examine_with(&[("TELEMETRY_RETENTION", "1d")]);
    kept.assert("ok", ("storage", "events kept"), "0 partitions are older");
    clinic
        .sql("CREATE TABLE events_old PARTITION OF events FOR VALUES FROM ('2001-01-01') TO ('2001-01-02')")
        .await;
    let kept = clinic.examine_with(&[("TELEMETRY_RETENTION", "1d")]);
    kept.assert("warning", ("storage", "events kept"), "1 partitions are older");

    clinic.sql("DELETE FROM refinery_schema_history WHERE version = 5").await;
    clinic.examine().assert("fault", ("database", "schema"), "V5__access missing");

    clinic.sql("INSERT INTO ingest_sessions VALUES ('iotflow-other-0', '{a}')").await;
    clinic.examine().assert("warning", ("sessions", "on record"), "iotflow-other-0");
    clinic.service.terminate().await;
    eventually("nobody holds the leases", async || {
        let verdict = clinic.examine();
        (verdict.find("sessions", "leases")["level"] == "fault").then(|| {
            verdict.assert("fault", ("sessions", "leases"), "iotflow-ingest-plain");
            assert_eq!(verdict.find("service", "ready")["level"], "skipped");
        })
    })
    .await;

    clinic.site.postgres.halt(Signal::SIGINT).expect("it stops");
    let verdict = clinic.examine();
    verdict.assert("fault", ("database", "reachable"), "127.0.0.1:");
    verdict.assert("ok", ("broker", "login"), "lets the service in");
    verdict.assert("ok", ("leaks", "staff"), "refuses");
    for subject in ["access", "clock", "sessions", "storage"] {
        let skipped = verdict.all().any(|it| it["subject"] == subject && it["level"] == "skipped");
        assert!(skipped, "{subject}: {:#}", verdict.json);
    }
}

#[tokio::test]
async fn what_is_wrong_at_the_broker_is_found_and_the_rest_is_asked_all_the_same() {
    let mut clinic = Clinic::open().await;
    let shared = clinic.examine_with(&[("MQTT_SHARED", "true")]);
    shared.assert("warning", ("broker", "sharing"), "INGEST_SHARE_NAME is not set");
    let named = clinic.examine_with(&[("MQTT_SHARED", "true"), ("INGEST_SHARE_NAME", "only-we-know")]);
    named.assert("ok", ("broker", "sharing"), "name of its own");

    let small = clinic.examine_with(&[("MQTT_MAX_PACKET_BYTES", "1000000")]);
    small.assert("fault", ("broker", "our packet size"), "payloads of 1 MiB");
    small.assert("warning", ("broker", "message size"), "message_size_limit: 2 MiB");
    let conf = std::fs::read_to_string(clinic.site.paths.conf()).expect("it is ours");
    let spoilt = conf.replace("max_queued_messages 1000000000", "max_queued_messages 1000");
    assert_ne!(conf, spoilt, "the template has the setting");
    std::fs::write(clinic.site.paths.conf(), spoilt).expect("it is ours");
    clinic
        .examine()
        .assert("warning", ("broker", "max_queued"), "max_queued_messages: 1000;");
    std::fs::write(clinic.site.paths.conf(), conf).expect("it is ours");

    let staff = clinic.site.ports.staff.to_string();
    let wrong = clinic.examine_with(&[
        ("MQTT_HOST", "127.0.0.1"),
        ("MQTT_PORT", &staff),
        ("MQTT_USERNAME", SERVICE),
        ("MQTT_PASSWORD", "another"),
    ]);
    wrong.assert("fault", ("broker", "login"), "refused the connection");

    // A broker that loses its access list grants everything: by itself it says nothing of it.
    std::fs::remove_file(clinic.site.paths.access().join("acl")).expect("it is ours");
    clinic.site.applier.process.reload().expect("the broker runs");
    eventually("the broker is open", async || clinic.site.applier.prove().await.err()).await;
    let verdict = clinic.examine();
    // It stops reading lists at the first that is not there, so that the other list is not in force either.
    for kind in ["staff", "plain", "tls", "mutual-tls", "web-sockets"] {
        verdict.assert("fault", ("leaks", kind), "write where nobody may");
    }

    clinic.site.broker.halt(Signal::SIGTERM).expect("it stops");
    let verdict = clinic.examine();
    verdict.assert("fault", ("broker", "login"), "refused");
    verdict.assert("warning", ("entry", "plain"), "nobody answers");
    assert_eq!(verdict.find("entry", "in the clear")["level"], "skipped", "{:#}", verdict.json);
    verdict.assert("ok", ("database", "reachable"), "answers");
    verdict.assert("ok", ("database", "schema"), "up to date");
}

#[tokio::test]
async fn certificates_that_end_or_do_not_verify_are_found_where_they_are_shown() {
    let clinic = Clinic::open().await;
    let until = async |level: &str, words: &str| {
        eventually(&format!("the certificate is a {level}: {words}"), async || {
            let verdict = clinic.examine();
            let found = verdict.find("certificates", "tls ");
            (found["level"] == level && found["found"].as_str().is_some_and(|text| text.contains(words))).then_some(verdict)
        })
        .await
    };
    clinic.issue_server("127.0.0.1", DAY * 5);
    let verdict = until("warning", "in 4 days").await;
    verdict.assert("warning", ("certificates", "issued"), "the server's certificate ends");
    assert_eq!(verdict.code, 0);
    clinic.issue_server("elsewhere.example", LEAF_VALIDITY);
    until("fault", "does not verify").await;
    clinic.issue_server("127.0.0.1", Duration::from_secs(1));
    let verdict = until("fault", "which is past").await;
    verdict.assert("fault", ("certificates", "mutual-tls "), "which is past");
    verdict.assert("fault", ("certificates", "issued"), "the server's certificate ends");
    // It keeps out nobody who does not look.
    verdict.assert("ok", ("entry", "tls "), "refuses");

    clinic.issue_server("127.0.0.1", LEAF_VALIDITY);
    until("ok", "verifies").await;
    let port = clinic.site.ports.tls.to_string();
    let ca = clinic.site.paths.certs().join("ca.pem");
    let by_tls = clinic.examine_with(&[
        ("MQTT_HOST", "127.0.0.1"),
        ("MQTT_PORT", &port),
        ("MQTT_USERNAME", SERVICE),
        ("MQTT_PASSWORD", PASSWORD),
        ("MQTT_USE_TLS", "true"),
        ("MQTT_CA_CERT_PATH", ca.to_str().expect("UTF-8")),
    ]);
    by_tls.assert("ok", ("broker", "login"), "by TLS");
    by_tls.assert("fault", ("broker", "client ids"), "ends the first");
    by_tls.assert("ok", ("certificates", "127.0.0.1:"), "verifies");
    by_tls.assert("ok", ("certificates", "authority"), "ca.pem");
    by_tls.assert("ok", ("leaks", "127.0.0.1:"), "refuses the service");
}

#[tokio::test]
async fn a_broker_as_it_comes_out_of_its_package_is_seen_through() {
    let examine = |servers: &Servers| {
        let variables = servers.environment();
        let variables: Vec<_> = variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        Verdict::of(servers.path(), &variables)
    };
    let open = Servers::with_conf(|conf| *conf = conf.replace("allow_anonymous false", "allow_anonymous true")).await;
    let verdict = examine(&open);
    verdict.assert("fault", ("entry", "127.0.0.1:"), "no credential at all");
    verdict.assert("ok", ("leaks", "127.0.0.1:"), "refuses the service");
    verdict.assert("fault", ("database", "fsync"), "off");
    verdict.assert("fault", ("database", "schema"), "never migrated");

    let lax = Servers::with_conf(|conf| {
        *conf = conf
            .lines()
            .filter(|line| !line.starts_with("acl_file") && !line.starts_with("max_inflight_messages"))
            .map(|line| format!("{line}\n"))
            .collect();
    })
    .await;
    let verdict = examine(&lax);
    verdict.assert("ok", ("entry", "127.0.0.1:"), "refuses");
    verdict.assert("fault", ("leaks", "127.0.0.1:"), "lets the service write");
    verdict.assert("warning", ("broker", "window"), "20 messages");
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_said_and_nothing_is_asked() {
    let folder = support::servers::folder();
    let output = run(folder.path(), &["--json"], &[("MQTT_PORT", "99999")]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(String::from_utf8_lossy(&output.stderr).contains("MQTT_PORT"));
}
