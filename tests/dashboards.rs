//! The dashboards and alerts, on a service at work: every SQL in its PostgreSQL, every PromQL in a real Prometheus.

mod support;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use iotflow::observe::metrics::FAMILIES;
use iotflow::stack::ports;
use jiff::{SignedDuration, Timestamp};
use rumqttc::v5::mqttbytes::QoS;
use serde_json::{Value, json};
use support::eventually;
use support::fleet::Fleet;
use support::judge::until_number;
use support::publisher::Publisher;
use support::servers::Servers;
use support::service::Service;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

const DASHBOARDS: [&str; 2] = ["pipeline", "fleet"];

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn dashboard(name: &str) -> Value {
    serde_json::from_str(&read(&format!("grafana/dashboards/{name}.json"))).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// Title, query and target of everything a dashboard asks.
fn queries<'a>(dashboard: &'a Value, field: &'a str) -> impl Iterator<Item = (&'a str, &'a str, &'a Value)> {
    items(&dashboard["panels"])
        .flat_map(move |panel| items(&panel["targets"]).map(move |target| (text(&panel["title"]), text(&target[field]), target)))
}

// --- as files ---

#[test]
fn panels_stay_on_the_grid_and_off_each_other() {
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        let (mut taken, mut ids) = (BTreeMap::new(), BTreeSet::new());
        for panel in items(&dashboard["panels"]) {
            let title = text(&panel["title"]);
            assert!(
                ids.insert(panel["id"].as_u64().expect("a number")),
                "{name}: {title} has the id of another"
            );
            let [x, y, w, h] = ["x", "y", "w", "h"].map(|side| panel["gridPos"][side].as_u64().expect("a number"));
            assert!(w > 0 && h > 0 && x + w <= 24, "{name}: {title} leaves the grid");
            for place in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
                assert_eq!(taken.insert(place, title), None, "{name}: {title} lies on it");
            }
        }
    }
}

#[test]
fn every_panel_says_what_it_shows_in_which_unit_and_whence() {
    let provisioned: Value = serde_saphyr::from_str(&read("grafana/provisioning/datasources/iotflow.yml")).expect("YAML");
    let sources: BTreeSet<(&str, &str)> = items(&provisioned["datasources"])
        .map(|source| (text(&source["type"]), text(&source["uid"])))
        .collect();
    let known = |reference: &Value| sources.contains(&(text(&reference["type"]), text(&reference["uid"])));
    for name in DASHBOARDS {
        let dashboard = dashboard(name);
        assert_eq!(text(&dashboard["title"]).to_lowercase(), name);
        for panel in items(&dashboard["panels"]).filter(|panel| panel["type"] != "row") {
            let title = text(&panel["title"]);
            assert!(text(&panel["description"]).ends_with('.'), "{name}: {title} is not described");
            assert!(
                !text(&panel["fieldConfig"]["defaults"]["unit"]).is_empty(),
                "{name}: {title} has no unit"
            );
            assert!(items(&panel["targets"]).count() > 0, "{name}: {title} asks nothing");
            assert!(
                known(&panel["datasource"]) && items(&panel["targets"]).all(|target| known(&target["datasource"])),
                "{name}: {title}"
            );
        }
        let variables = items(&dashboard["templating"]["list"]).filter(|variable| variable["type"] == "query");
        variables.for_each(|variable| assert!(known(&variable["datasource"]), "{name}: {variable}"));
    }
}

/// The names of series in a PromQL expression, by what ours begin with.
fn series_names(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    words
        .filter(|word| word.starts_with("iotflow_") || word.starts_with("process_"))
        .map(str::to_owned)
        .collect()
}

fn is_declared(name: &str) -> bool {
    let declared = |name: &str| FAMILIES.iter().any(|family| family.name == name);
    let part = ["_bucket", "_sum", "_count"].iter().find_map(|part| name.strip_suffix(part));
    // The process's own series are metrics-process's; that they are there is seen in Prometheus.
    name.starts_with("process_") || declared(name) || part.is_some_and(declared)
}

#[test]
fn every_metric_that_is_asked_for_is_declared() {
    let pipeline = dashboard("pipeline");
    let rules: Value = serde_saphyr::from_str(&read("prometheus.rules.yml")).expect("YAML");
    let alerts = items(&rules["groups"])
        .flat_map(|group| items(&group["rules"]))
        .map(|rule| (text(&rule["alert"]), text(&rule["expr"])));
    let panels = queries(&pipeline, "expr").map(|(title, expression, _)| (title, expression));
    for (what, expression) in panels.chain(alerts) {
        let names = series_names(expression);
        assert!(!names.is_empty() || expression.starts_with("up{"), "{what}: {expression}");
        for name in names {
            assert!(is_declared(&name), "{what}: {name} is not declared in observe/metrics.rs");
        }
    }
}

#[test]
fn promtool_finds_nothing_wrong() {
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "prometheus.rules.yml"],
        ["test", "rules", "tests/prometheus.rules.test.yml"],
    ] {
        let output = Command::new("promtool")
            .args(arguments)
            .current_dir(path(""))
            .output()
            .expect("promtool (package prometheus) is installed");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "promtool {arguments:?}: {said}");
    }
}

// --- at work ---

/// Gives the dashboards something to show: a fleet at QoS 1, and single messages of every other kind and fate.
async fn play(servers: &Servers) {
    let arguments = [
        "--devices",
        "5",
        "--connections",
        "2",
        "--rate",
        "200",
        "--duration",
        "2",
        "--prefix",
        "demo-",
    ];
    let fleet = Fleet::start(servers.mqtt_port, servers.postgres.url().reveal(), &arguments);
    let mut device = Publisher::new(servers.mqtt_port);
    let now = Timestamp::now();
    let long_ago = now - SignedDuration::from_hours(48);
    let messages: [(&str, String, QoS); 12] = [
        (
            "loud/telemetry/sensors",
            json!({"timestamp": now.to_string(), "temperature": 21.5, "door": true}).to_string(),
            QoS::AtLeastOnce,
        ),
        // The same again: a duplicate.
        (
            "loud/telemetry/sensors",
            json!({"timestamp": now.to_string(), "temperature": 21.5, "door": true}).to_string(),
            QoS::AtLeastOnce,
        ),
        (
            "loud/telemetry",
            json!({"humidity": 40, "spare": null}).to_string(),
            QoS::AtMostOnce,
        ),
        (
            "loud/telemetry/events",
            json!({"event": "opened", "by": "a hand"}).to_string(),
            QoS::AtLeastOnce,
        ),
        ("loud/telemetry", "{nope".to_owned(), QoS::AtLeastOnce),
        ("loud/telemetry", "[]".to_owned(), QoS::AtLeastOnce),
        ("loud/telemetry/nowhere", "{}".to_owned(), QoS::AtMostOnce),
        ("loud/status/online", String::new(), QoS::AtLeastOnce),
        ("loud/status/heartbeat", String::new(), QoS::AtMostOnce),
        (
            "gone/telemetry",
            json!({"timestamp": long_ago.to_string(), "temperature": -3}).to_string(),
            QoS::AtLeastOnce,
        ),
        (
            "gone/status/offline",
            json!({"timestamp": long_ago.to_string()}).to_string(),
            QoS::AtLeastOnce,
        ),
        ("off/status/offline", String::new(), QoS::AtLeastOnce),
    ];
    for (topic, payload, qos) in messages {
        device.send(&format!("iotflow/devices/{topic}"), payload, qos, false).await;
    }
    fleet.report().await.assert_exactly_once("for the dashboards");
    let sql = servers.sql().await;
    for (query, expected) in [
        ("SELECT count(*) FROM dead_letters", 3),
        ("SELECT count(*) FROM events", 1),
        ("SELECT count(*) FROM device_status", 3),
        ("SELECT count(*) FROM readings WHERE device = 'loud'", 3),
        ("SELECT count(DISTINCT device_id) FROM latest", 7),
    ] {
        until_number(&sql, query, expected).await;
    }
}

/// Expands variables and macros as Grafana does: variables, then the interval, then `pkg/tsdb/.../macros.go`.
struct Grafana {
    from: Timestamp,
    to: Timestamp,
    variables: BTreeMap<&'static str, Vec<String>>,
}

/// The interval that Grafana would choose for a picture of an hour.
const INTERVAL: (&str, u64) = ("1m", 60_000);

impl Grafana {
    fn last_hour() -> Self {
        let to = Timestamp::now();
        let variables = BTreeMap::from([("silence", vec!["15 minutes".to_owned()])]);
        Self {
            from: to - SignedDuration::from_hours(1),
            to,
            variables,
        }
    }

    fn expand(&self, sql: &str) -> String {
        let mut sql = sql.replace("$__searchFilter", "%");
        for (name, values) in &self.variables {
            let quoted: Vec<String> = values.iter().map(|value| format!("'{}'", value.replace('\'', "''"))).collect();
            sql = sql.replace(&format!("${{{name}:sqlstring}}"), &quoted.join(","));
        }
        sql = sql
            .replace("$__interval_ms", &INTERVAL.1.to_string())
            .replace("$__interval", INTERVAL.0);
        let mut expanded = String::new();
        let mut rest = sql.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            let (name, after) = after.split_once('(').unwrap_or_else(|| panic!("no macro behind the $ in {sql}"));
            let (arguments, after) = after.split_once(')').unwrap_or_else(|| panic!("${name} does not end in {sql}"));
            let arguments: Vec<&str> = arguments.split(',').map(str::trim).collect();
            expanded.push_str(before);
            expanded.push_str(&self.evaluate(name, &arguments));
            rest = after;
        }
        expanded + rest
    }

    fn evaluate(&self, name: &str, arguments: &[&str]) -> String {
        match (name, arguments) {
            ("__time", [column]) => format!("{column} AS \"time\""),
            ("__timeFilter", [column]) => format!("{column} BETWEEN '{}' AND '{}'", self.from, self.to),
            ("__timeFrom", [""]) => format!("'{}'", self.from),
            ("__timeTo", [""]) => format!("'{}'", self.to),
            ("__timeGroup", [column, interval]) => {
                let seconds = seconds(interval.trim_matches('\''));
                format!("floor(extract(epoch from {column})/{seconds})*{seconds}")
            }
            ("__timeGroupAlias", arguments) => self.evaluate("__timeGroup", arguments) + " AS \"time\"",
            _ => panic!("a macro that this test does not know: {name} of {arguments:?}"),
        }
    }
}

fn seconds(interval: &str) -> u64 {
    let (number, unit) = interval.split_at(interval.len() - 1);
    let each = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => panic!("{interval} is no interval"),
    };
    number.parse::<u64>().unwrap_or_else(|_| panic!("{interval} is no interval")) * each
}

#[test]
fn macros_are_expanded_as_grafana_does() {
    let mut grafana = Grafana::last_hour();
    grafana.from = Timestamp::UNIX_EPOCH;
    grafana.variables.insert("device", vec!["a".to_owned(), "b'c".to_owned()]);
    assert_eq!(grafana.expand("d IN (${device:sqlstring})"), "d IN ('a','b''c')");
    assert_eq!(
        grafana.expand("$__timeGroupAlias(t.\"time\", $__interval), 1"),
        "floor(extract(epoch from t.\"time\")/60)*60 AS \"time\", 1"
    );
    assert!(
        grafana
            .expand("$__timeFilter(t)")
            .starts_with("t BETWEEN '1970-01-01T00:00:00Z' AND '")
    );
}

async fn variable(sql: &Client, grafana: &Grafana, dashboard: &Value, name: &str) -> Vec<String> {
    let variable = items(&dashboard["templating"]["list"])
        .find(|variable| variable["name"] == name)
        .expect("it has the variable");
    let query = grafana.expand(text(&variable["query"]));
    let rows = sql
        .query(&query, &[])
        .await
        .unwrap_or_else(|error| panic!("{name}: {error:?}: {query}"));
    let values: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(!values.is_empty(), "{name} offers nothing");
    values
}

#[tokio::test]
async fn every_query_of_the_fleet_dashboard_answers_on_plain_postgresql() {
    let servers = Servers::start().await;
    let _service = Service::ready(servers.path(), &servers.environment()).await;
    play(&servers).await;
    let sql = servers.sql().await;
    // As Grafana's role has it: postgres/roles.sh.
    sql.batch_execute("SET default_transaction_read_only = on; SET statement_timeout = '30s'")
        .await
        .expect("sound settings");
    let dashboard = dashboard("fleet");
    let mut grafana = Grafana::last_hour();
    for name in ["device", "metric"] {
        let values = variable(&sql, &grafana, &dashboard, name).await;
        grafana.variables.insert(name, values);
    }
    assert!(grafana.variables["device"].contains(&"loud".to_owned()) && grafana.variables["metric"].contains(&"temperature".to_owned()));

    for (title, query, target) in queries(&dashboard, "rawSql") {
        let query = grafana.expand(query);
        let rows = sql
            .query(&query, &[])
            .await
            .unwrap_or_else(|error| panic!("{title}: {error:?}\n{query}"));
        assert!(!rows.is_empty(), "{title} shows nothing:\n{query}");
        let columns: Vec<(&str, &Type)> = rows[0].columns().iter().map(|column| (column.name(), column.type_())).collect();
        println!("{title}: {} rows of {columns:?}", rows.len());
        if target["format"] == "time_series" {
            // Grafana wants the time first, a number, and makes the texts between them the series' labels.
            let number = |kind: &Type| [Type::INT8, Type::FLOAT8, Type::NUMERIC].contains(kind);
            assert_eq!(columns[0].0, "time", "{title}");
            assert!(
                columns.last().is_some_and(|(name, kind)| *name == "value" && number(kind)),
                "{title}: {columns:?}"
            );
            assert!(
                columns[1..columns.len() - 1].iter().all(|(_, kind)| **kind == Type::TEXT),
                "{title}: {columns:?}"
            );
        }
    }
    assert_what_the_main_panels_show(&sql, &grafana, &dashboard).await;
}

async fn assert_what_the_main_panels_show(sql: &Client, grafana: &Grafana, dashboard: &Value) {
    let rows = async |wanted: &str| {
        let (_, query, _) = queries(dashboard, "rawSql")
            .find(|(title, _, _)| *title == wanted)
            .expect("it has the panel");
        sql.query(&grafana.expand(query), &[]).await.expect("it answered before")
    };
    let devices = rows("Devices").await;
    let counts: Vec<i64> = (0..5).map(|column| devices[0].get(column)).collect();
    // Five of the fleet and `loud` report; `gone` and `off` are offline, `off` never sent a reading.
    assert_eq!(counts, [8, 6, 1, 2, 5], "known, reporting, online, offline, without status");
    let silent: Vec<String> = rows("Silent devices").await.iter().map(|row| row.get("device")).collect();
    assert_eq!(silent, ["gone"]);
    let latest: BTreeMap<String, f64> = rows("Latest values")
        .await
        .iter()
        .filter(|row| row.get::<_, &str>("device") == "loud")
        .map(|row| (row.get("metric"), row.get("value")))
        .collect();
    assert_eq!(
        latest,
        BTreeMap::from([
            ("door".to_owned(), 1.0),
            ("humidity".to_owned(), 40.0),
            ("temperature".to_owned(), 21.5)
        ])
    );
    let refused: BTreeSet<String> = rows("Newest dead letters").await.iter().map(|row| row.get("reason")).collect();
    assert_eq!(refused, ["not_json", "empty_array", "unknown_topic"].map(str::to_owned).into());
    let messages: f64 = rows("Messages per minute").await.iter().map(|row| row.get::<_, f64>("value")).sum();
    let stored: i64 = sql
        .query_one("SELECT count(*) FROM telemetry WHERE \"time\" > now() - interval '1 hour'", &[])
        .await
        .expect("it answers")
        .get(0);
    #[expect(clippy::cast_precision_loss, reason = "a few hundred")]
    let stored = stored as f64;
    assert!((messages - stored).abs() < 0.001, "{messages} messages shown, {stored} stored");
}

/// A Prometheus of the repository's configuration, which asks more often.
struct Prometheus {
    child: RefCell<Child>,
    log: PathBuf,
    address: String,
}

impl Prometheus {
    async fn start(folder: &Path, service: &str) -> Self {
        let place = folder.join("prometheus");
        fs::create_dir(&place).expect("the folder is ours");
        let mut config = read("prometheus.yml");
        for (theirs, ours) in [
            ("iotflow:8080", service),
            ("scrape_interval: 5s", "scrape_interval: 1s"),
            ("scrape_timeout: 4s", "scrape_timeout: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
        ] {
            assert!(config.contains(theirs), "prometheus.yml has no {theirs}");
            config = config.replace(theirs, ours);
        }
        fs::write(place.join("prometheus.yml"), config).expect("the folder is ours");
        fs::copy(path("prometheus.rules.yml"), place.join("prometheus.rules.yml")).expect("the folder is ours");
        let address = format!("127.0.0.1:{}", ports::free().expect("there is a free port"));
        let log = place.join("prometheus.log");
        let child = Command::new("setpriv")
            .args([
                "--pdeathsig",
                "KILL",
                "--",
                "prometheus",
                "--config.file=prometheus.yml",
                "--storage.tsdb.path=data",
            ])
            .arg(format!("--web.listen-address={address}"))
            .current_dir(&place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).expect("the folder is ours"))
            .spawn()
            .expect("setpriv (util-linux) can be started");
        let prometheus = Self {
            child: RefCell::new(child),
            log,
            address,
        };
        eventually("Prometheus is ready (is package prometheus installed?)", async || {
            let ended = prometheus.child.borrow_mut().try_wait().expect("it is our child");
            assert!(
                ended.is_none(),
                "Prometheus ended ({ended:?}):\n{}",
                fs::read_to_string(&prometheus.log).unwrap_or_default()
            );
            prometheus.get("/-/ready").await.filter(|(status, _)| *status == 200)
        })
        .await;
        prometheus
    }

    async fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).await.ok()?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes())
            .await
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// The values of all series that an expression gives.
    async fn query(&self, expression: &str) -> Vec<f64> {
        let encoded: String = expression
            .bytes()
            .map(|byte| {
                if byte.is_ascii_alphanumeric() {
                    char::from(byte).to_string()
                } else {
                    format!("%{byte:02X}")
                }
            })
            .collect();
        let (status, body) = self
            .get(&format!("/api/v1/query?query={encoded}"))
            .await
            .expect("Prometheus answers");
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert!(status == 200 && answer["status"] == "success", "{expression}: {answer}");
        items(&answer["data"]["result"])
            .map(|series| text(&series["value"][1]).parse().expect("a number, or NaN"))
            .collect()
    }

    /// The same, once there is a series with a number.
    async fn shown(&self, title: &str, expression: &str) -> Vec<f64> {
        eventually(&format!("panel {title} shows something: {expression}"), async || {
            Some(self.query(expression).await).filter(|values| values.iter().any(|value| value.is_finite()))
        })
        .await
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        // It may have ended already.
        drop(self.child.get_mut().kill());
        drop(self.child.get_mut().wait());
    }
}

#[tokio::test]
async fn every_query_of_the_pipeline_dashboard_answers_in_prometheus() {
    let servers = Servers::start().await;
    let service = Service::ready(servers.path(), &servers.environment()).await;
    let prometheus = Prometheus::start(servers.path(), &service.address).await;
    // Both pages, before anything happens: a rate is what comes after.
    eventually("Prometheus has both pages", async || {
        (prometheus.query("up").await == [1.0, 1.0]).then_some(())
    })
    .await;
    play(&servers).await;

    let dashboard = dashboard("pipeline");
    let mut asked = 0;
    for (title, expression, _) in queries(&dashboard, "expr") {
        let expression = expression.replace("$__rate_interval", "1m").replace("$__range", "1h");
        assert!(!expression.contains('$'), "{title}: {expression}");
        // There are no exceptions: what `play` sends gives every panel something to show.
        let values = prometheus.shown(title, &expression).await;
        println!("{title}: {values:?} of {expression}");
        if title.starts_with("Unaccounted for") || title == "Connections down" {
            assert!(values.iter().all(|value| *value == 0.0), "{title}: {values:?}");
        }
        asked += 1;
    }
    assert!(asked > 0);
    assert_what_the_fleet_left_behind(&prometheus).await;

    let (_, rules) = prometheus.get("/api/v1/rules").await.expect("Prometheus answers");
    let rules: Value = serde_json::from_str(&rules).expect("JSON");
    let rules: Vec<&Value> = items(&rules["data"]["groups"]).flat_map(|group| items(&group["rules"])).collect();
    assert!(!rules.is_empty());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
}

async fn assert_what_the_fleet_left_behind(prometheus: &Prometheus) {
    // Of 400 of the fleet at most some are under way; those of `play` itself are exact.
    for (expression, expected) in [
        ("sum(iotflow_qos_duplicates_total)", 1.0),
        ("sum(iotflow_qos_dead_lettered_total)", 3.0),
        ("sum(iotflow_ingest_rejected_total)", 3.0),
        // slot-0, status, the courier and the publisher.
        ("sum(iotflow_mqtt_connected)", 4.0),
        ("sum(iotflow_qos_in_flight)", 0.0),
    ] {
        eventually(&format!("{expression} is {expected}"), async || {
            (prometheus.query(expression).await == [expected]).then_some(())
        })
        .await;
    }
}
