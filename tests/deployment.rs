//! The files that people deploy with: each says what the code says, and names nothing that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use iotflow::api::server;
use iotflow::api::state::Parts;
use iotflow::config::{Config, VARIABLES};
use iotflow::courier::tap::Taps;
use iotflow::db::pool;
use iotflow::lifecycle::readiness::Readiness;
use iotflow::lifecycle::tasks::Tasks;
use iotflow::mqtt::publisher::Publisher;
use iotflow::observe::metrics::Metrics;
use iotflow::operations::waiting::Watch;
use iotflow::protocol::rights::{self, Access, Role};
use iotflow::protocol::topic::TopicTree;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    fs::read_to_string(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// A YAML file, its anchors and merges resolved.
fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn compose() -> Value {
    yaml("docker-compose.yml")
}

fn entries(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, value)| (name.as_str(), value))
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn texts(value: &Value) -> Vec<&str> {
    items(value).map(text).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

fn has_command(name: &str) -> bool {
    iotflow::cli::command().find_subcommand(name).is_some()
}

// --- .env.example ---

/// The assignments of a `.env`, as the service reads them.
fn assignments(env: &str) -> BTreeMap<String, String> {
    dotenvy::from_read_iter(env.as_bytes())
        .map(|pair| pair.expect("a sound line"))
        .collect()
}

fn config_of(env: &str) -> Config {
    let assignments = assignments(env);
    Config::read(&|name: &str| assignments.get(name).cloned()).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn the_example_of_an_env_file_changes_nothing_when_it_is_copied_unchanged() {
    let example = read(".env.example");
    assert_eq!(config_of(&example), Config::default());
    // `iotflow up` starts servers of its own unless these are set, were it to their defaults.
    assert!(assignments(&example).is_empty());
}

#[test]
fn the_example_of_an_env_file_names_every_variable_with_its_default() {
    let uncommented: String = read(".env.example")
        .lines()
        .filter(|line| !line.starts_with("# "))
        .map(|line| line.trim_start_matches('#').to_owned() + "\n")
        .collect();
    let stated: BTreeMap<String, String> = VARIABLES
        .iter()
        .map(|variable| {
            let default = if variable.default.starts_with('<') { "" } else { variable.default };
            (variable.name.to_owned(), default.to_owned())
        })
        .collect();
    assert_eq!(assignments(&uncommented), stated);
    assert_eq!(config_of(&uncommented), Config::default());
}

// --- docker-compose.yml ---

#[test]
fn every_image_is_pinned_to_a_version() {
    let compose = compose();
    let of_compose = entries(&compose["services"]).map(|(_, service)| text(&service["image"]).to_owned());
    let dockerfile = read("Dockerfile");
    let of_dockerfile = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("FROM ")?.split(' ').next().map(str::to_owned));
    for image in of_compose.chain(of_dockerfile) {
        let (_, tag) = image.rsplit_once(':').unwrap_or_else(|| panic!("{image} has no tag"));
        assert!(tag != "latest" && !tag.is_empty(), "{image} changes under its name");
    }
    let own = text(&compose["services"]["iotflow"]["image"]);
    assert_eq!(
        own,
        concat!("iotflow:", env!("CARGO_PKG_VERSION")),
        "our own image has our own version"
    );
}

#[test]
fn every_port_is_published_on_loopback_only() {
    let compose = compose();
    let mut published = BTreeSet::new();
    for (name, service) in entries(&compose["services"]) {
        assert_ne!(service["network_mode"], "host", "{name}");
        for port in texts(&service["ports"]) {
            let [address, outside, _inside] = port.split(':').collect::<Vec<_>>()[..] else {
                panic!("{name}: {port} does not say address, port and port")
            };
            assert_eq!(address, "127.0.0.1", "{name}: {port}");
            assert!(published.insert(outside.to_owned()), "{name}: {port} is published twice");
        }
    }
}

#[test]
fn every_container_is_locked_down() {
    for (name, service) in entries(&compose()["services"]) {
        let user = service["user"].as_str().unwrap_or("root");
        assert!(!user.starts_with("0:") && user != "0" && user != "root", "{name} runs as root");
        assert_eq!(service["read_only"], true, "{name} may write into its image");
        assert_eq!(texts(&service["cap_drop"]), ["ALL"], "{name}");
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"], "{name}");
        assert!(service.get("privileged").is_none() && service.get("cap_add").is_none(), "{name}");
    }
}

#[test]
fn every_name_that_a_service_uses_is_declared() {
    let compose = compose();
    let declared = |kind: &str, name: &str| assert!(compose[kind].get(name).is_some(), "{name} is not among {kind}");
    for (_, service) in entries(&compose["services"]) {
        texts(&service["networks"]).into_iter().for_each(|name| declared("networks", name));
        entries(&service["depends_on"]).for_each(|(name, on)| {
            declared("services", name);
            assert_eq!(on["condition"], "service_healthy", "{name}");
        });
        mounted_secrets(service).for_each(|(name, _)| declared("secrets", &name));
        for volume in texts(&service["volumes"]) {
            let (source, _) = volume.split_once(':').expect("a source and a target");
            if source.starts_with("./secrets/") {
                let (_place, folder, _) = make_secrets(&["--keep-owner"]);
                assert!(
                    folder.join(source.trim_start_matches("./secrets/")).exists(),
                    "{source} is not made"
                );
            } else if source.starts_with('.') {
                assert!(path(source).exists(), "{source} is not there");
            } else {
                declared("volumes", source);
            }
        }
    }
    for kind in ["volumes", "secrets", "networks"] {
        for (name, _) in entries(&compose[kind]) {
            let used = entries(&compose["services"]).any(|(_, service)| match kind {
                "secrets" => mounted_secrets(service).any(|(secret, _)| secret == name),
                "networks" => texts(&service["networks"]).contains(&name),
                _ => texts(&service["volumes"])
                    .iter()
                    .any(|volume| volume.starts_with(&format!("{name}:"))),
            });
            assert!(used, "{name} of {kind} is used by nobody");
        }
    }
}

/// The secrets of a service, and where each is in its container.
fn mounted_secrets(service: &Value) -> impl Iterator<Item = (String, String)> {
    items(&service["secrets"]).map(|secret| {
        let name = secret.as_str().unwrap_or_else(|| text(&secret["source"]));
        let target = secret["target"].as_str().unwrap_or(name);
        let absolute = if target.starts_with('/') {
            target.to_owned()
        } else {
            format!("/run/secrets/{target}")
        };
        (name.to_owned(), absolute)
    })
}

#[test]
fn every_service_says_when_it_is_healthy() {
    for (name, service) in entries(&compose()["services"]) {
        let test = texts(&service["healthcheck"]["test"]);
        assert!(
            matches!(test[0], "CMD" | "CMD-SHELL") && test.len() > 1,
            "{name} has no health check"
        );
        let line = test.join(" ");
        // What only asks whether a port is open says yes to a server that lets nobody in.
        assert!(!line.contains("pg_isready") && !line.contains("nc "), "{name}: {line}");
        if let Some(place) = test.iter().position(|word| *word == "iotflow") {
            assert!(has_command(test[place + 1]), "{name}: iotflow has no such command: {line}");
        }
    }
}

#[test]
fn the_service_is_given_variables_that_it_knows() {
    let compose = compose();
    let service = &compose["services"]["iotflow"];
    let secrets: BTreeSet<String> = mounted_secrets(service).map(|(_, target)| target).collect();
    let known = |name: &str| VARIABLES.iter().find(|variable| variable.name == name);
    let mut environment = BTreeMap::new();
    for (name, value) in entries(&service["environment"]) {
        match name.strip_suffix("_FILE").and_then(known) {
            Some(variable) => {
                assert!(variable.secret, "{name}");
                assert!(secrets.contains(text(value)), "{name}: {value} is not mounted");
            }
            None => {
                let variable = known(name).unwrap_or_else(|| panic!("{name} is no variable of the service"));
                assert!(!variable.secret, "{name} is a secret, in a file that everybody reads");
                environment.insert(name.to_owned(), text(value).to_owned());
            }
        }
    }
    environment.insert("MQTT_PASSWORD".to_owned(), "in a file".to_owned());
    Config::read(&|name: &str| environment.get(name).cloned()).unwrap_or_else(|error| panic!("{error}"));
    assert!(compose["services"].get(&environment["MQTT_HOST"]).is_some(), "{environment:?}");
}

#[test]
fn no_password_stands_in_a_file_that_is_deployed() {
    let compose = compose();
    for (name, service) in entries(&compose["services"]) {
        let secrets: BTreeSet<String> = mounted_secrets(service).map(|(_, target)| target).collect();
        for (variable, value) in entries(&service["environment"]).filter(|(variable, _)| variable.contains("PASSWORD")) {
            assert!(variable.ends_with("_FILE") && secrets.contains(text(value)), "{name}: {variable}");
        }
    }
    let grafana: BTreeSet<String> = mounted_secrets(&compose["services"]["grafana"]).map(|(_, target)| target).collect();
    for source in items(&yaml("grafana/provisioning/datasources/iotflow.yml")["datasources"]) {
        for (name, value) in entries(&source["secureJsonData"]) {
            let file = text(value).strip_prefix("$__file{").and_then(|rest| rest.strip_suffix('}'));
            assert!(file.is_some_and(|file| grafana.contains(file)), "{name}: {value}");
        }
    }
}

// --- scripts/compose-secrets ---

/// Where the secrets' files are, below the folder that the script makes.
fn secret_files(compose: &Value) -> BTreeMap<String, String> {
    entries(&compose["secrets"])
        .map(|(name, secret)| {
            let file = text(&secret["file"]).strip_prefix("./secrets/");
            (
                name.to_owned(),
                file.unwrap_or_else(|| panic!("{name} is not below ./secrets")).to_owned(),
            )
        })
        .collect()
}

fn make_secrets(arguments: &[&str]) -> (TempDir, PathBuf, Output) {
    let place = tempfile::tempdir().expect("the temporary folder can be written");
    let folder = place.path().join("secrets");
    let output = run_script(arguments, &folder);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (place, folder, output)
}

fn run_script(arguments: &[&str], folder: &Path) -> Output {
    let mut script = Command::new(path("scripts/compose-secrets"));
    script.args(arguments).arg(folder).output().expect("the script can be started")
}

fn files_below(folder: &Path) -> BTreeSet<String> {
    fn list(folder: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).expect("it can be listed");
        entries
            .map(|entry| entry.expect("it can be listed").path())
            .flat_map(|path| if path.is_dir() { list(&path) } else { vec![path] })
            .collect()
    }
    let relative = |file: PathBuf| file.strip_prefix(folder).expect("it is below").display().to_string();
    list(folder).into_iter().map(relative).collect()
}

#[test]
fn the_script_makes_every_secret_for_its_owner_only() {
    let (_place, folder, output) = make_secrets(&["--keep-owner"]);
    let made = files_below(&folder);
    let wanted: BTreeSet<String> = secret_files(&compose()).into_values().collect();
    // Nobody's container reads what the fleet's user is for; people do.
    let for_people = "fleet/mqtt-password".to_owned();
    // A folder of the broker's, mounted whole.
    let of_the_broker = ["access/passwords", "access/staff", "access/acl", "bell"].map(|file| format!("broker/{file}"));
    let expected: BTreeSet<String> = wanted.into_iter().chain(of_the_broker).chain([for_people]).collect();
    assert_eq!(made, expected);
    let mode = |path: &Path| fs::metadata(path).expect("it is there").permissions().mode() & 0o7777;
    for file in &made {
        assert_eq!(mode(&folder.join(file)), 0o600, "{file}");
        assert_eq!(mode(folder.join(file).parent().expect("a folder")), 0o700, "{file}");
    }
    assert_eq!(mode(&folder), 0o700);
    let said = String::from_utf8_lossy(&output.stdout);
    for file in made.iter().filter(|file| file.ends_with("password")) {
        let password = fs::read_to_string(folder.join(file)).expect("it is ours");
        assert!(!said.contains(password.trim()), "{file} is printed");
    }
}

#[test]
fn the_script_gives_each_secret_to_the_user_of_its_container() {
    let compose = compose();
    let files = secret_files(&compose);
    let script = read("scripts/compose-secrets");
    let owners = script
        .lines()
        .find_map(|line| line.strip_prefix("owners='")?.strip_suffix('\''))
        .expect("it names owners");
    let owners: BTreeMap<&str, &str> = owners.split(' ').map(|owner| owner.split_once('=').expect("name=user")).collect();
    let mut readers: BTreeMap<&String, &str> = BTreeMap::new();
    for (name, service) in entries(&compose["services"]) {
        for (secret, _) in mounted_secrets(service) {
            let file = &files[&secret];
            let place = file.split('/').next().expect("a folder");
            assert_eq!(owners.get(place), Some(&text(&service["user"])), "{name} cannot read {file}");
            assert_eq!(readers.insert(file, name), None, "{file} has one owner and so one reader");
        }
    }
    if !nix::unistd::Uid::effective().is_root() {
        println!("only root can give files away: that they are given was not tried");
        return;
    }
    let (_place, folder, _) = make_secrets(&[]);
    for file in readers.keys() {
        let metadata = fs::metadata(folder.join(file)).expect("it is there");
        let owner = format!("{}:{}", metadata.uid(), metadata.gid());
        assert_eq!(
            Some(&owner.as_str()),
            owners.get(file.split('/').next().expect("a folder")),
            "{file}"
        );
        assert_eq!(metadata.permissions().mode() & 0o7777, 0o600, "{file}");
    }
}

#[test]
fn the_script_makes_logins_that_fit_each_other() {
    let (_place, folder, _) = make_secrets(&["--keep-owner"]);
    let file = |name: &str| fs::read_to_string(folder.join(name)).expect("it is ours");
    let password = |name: &str| file(name).trim_end().to_owned();
    let service = password("iotflow/mqtt-password");
    let fleet = password("fleet/mqtt-password");

    let lines = file("broker/access/passwords");
    assert_eq!(file("broker/access/staff"), lines);
    let users: BTreeMap<&str, &str> = lines.lines().map(|line| line.split_once(':').expect("user:password")).collect();
    assert_eq!(users.len(), 2);
    assert_hash_of(&service, users["iotflow"]);
    assert_hash_of(&fleet, users["fleet"]);
    // No more than the database will grant, and no less: a command must not be refused because the agent is late.
    let tree = TopicTree::new("iotflow").expect("a base topic");
    let lines_of = |user: &str, role| {
        let rights = rights::of_role(&tree, role).into_iter().map(|right| {
            let access = if right.access == Access::Read { "read" } else { "write" };
            format!("topic {access} {}", right.filter)
        });
        [format!("user {user}")].into_iter().chain(rights).collect::<Vec<_>>()
    };
    let expected = [lines_of("iotflow", Role::Service), lines_of("fleet", Role::Fleet)].concat();
    let acl = file("broker/access/acl");
    let granted: Vec<&str> = acl.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(granted, expected);
    assert_eq!(
        file("mosquitto/health"),
        format!("-h 127.0.0.1\n-p 1884\n-u iotflow\n-P {service}\n")
    );
    for (of_agent, of_other) in [
        ("mqtt-password", "iotflow/mqtt-password"),
        ("fleet-password", "fleet/mqtt-password"),
        ("database-url", "iotflow/database-url"),
    ] {
        assert_eq!(password(&format!("broker-agent/{of_agent}")), password(of_other));
    }

    let url: tokio_postgres::Config = password("iotflow/database-url").parse().expect("a URL");
    assert_eq!(url.get_user(), Some("iotflow"));
    assert_eq!(url.get_dbname(), Some("iotflow"));
    assert_eq!(
        url.get_password(),
        Some(password("timescaledb/iotflow-database-password").as_bytes())
    );
    let tokio_postgres::config::Host::Tcp(host) = &url.get_hosts()[0] else {
        panic!("no host")
    };
    assert!(compose()["services"].get(host).is_some(), "{host}");
    assert_eq!(
        password("grafana/database-password"),
        password("timescaledb/grafana-database-password")
    );

    let distinct: BTreeSet<String> = [
        "iotflow/mqtt-password",
        "fleet/mqtt-password",
        "timescaledb/postgres-password",
        "timescaledb/iotflow-database-password",
        "grafana/database-password",
        "grafana/admin-password",
        "iotflow/share-name",
    ]
    .map(password)
    .into();
    assert_eq!(distinct.len(), 7);
    assert!(
        distinct
            .iter()
            .all(|password| password.len() == 40 && password.bytes().all(|byte| byte.is_ascii_hexdigit()))
    );
}

/// Whether this is the `$7$` form of the password: PBKDF2 with HMAC-SHA-512.
fn assert_hash_of(password: &str, form: &str) {
    let ["", "7", rounds, salt, hash] = form.split('$').collect::<Vec<_>>()[..] else {
        panic!("{form}")
    };
    let decode = |text: &str| STANDARD.decode(text).expect("base64");
    let mut expected = [0; 64];
    pbkdf2::pbkdf2_hmac::<sha2::Sha512>(password.as_bytes(), &decode(salt), rounds.parse().expect("a number"), &mut expected);
    assert_eq!(decode(hash), expected);
}

#[test]
fn the_script_never_changes_what_is_there() {
    let (_place, folder, _) = make_secrets(&["--keep-owner"]);
    let contents = || -> BTreeMap<String, String> {
        let read = |file: String| (file.clone(), fs::read_to_string(folder.join(file)).expect("it is ours"));
        // A pipe has no contents, and who reads it waits for some.
        let named = files_below(&folder).into_iter();
        named.filter(|file| folder.join(file).is_file()).map(read).collect()
    };
    let before = contents();
    assert!(run_script(&["--keep-owner"], &folder).status.success());
    assert_eq!(contents(), before);
    let beside = fs::read_dir(folder.parent().expect("a folder")).expect("it can be listed").count();
    assert_eq!(beside, 1, "something half-made is left");
}

#[test]
fn secrets_and_settings_stay_out_of_the_repository_and_the_image() {
    let ignored = read(".gitignore");
    for name in ["/secrets", "/secrets.*", ".env"] {
        assert!(ignored.lines().any(|line| line == name), "{name} is not ignored by git");
    }
    assert_eq!(allowed_in_image().0, "*", "what is not named must stay out of the image");
}

// --- Dockerfile ---

/// The first rule of `.dockerignore`, and what the others let in.
fn allowed_in_image() -> (String, BTreeSet<String>) {
    let text = read(".dockerignore");
    let mut rules = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let first = rules.next().expect("it has rules").to_owned();
    let allowed = rules.map(|rule| {
        rule.strip_prefix('!')
            .unwrap_or_else(|| panic!("{rule} lets nothing in"))
            .to_owned()
    });
    (first, allowed.collect())
}

#[test]
fn the_image_is_built_from_what_is_there() {
    let (_, allowed) = allowed_in_image();
    for name in &allowed {
        assert!(path(name).exists(), "{name} is not there");
    }
    for line in read("Dockerfile").lines().filter_map(|line| line.strip_prefix("COPY ")) {
        let source = line.split(' ').next().expect("a source");
        assert!(source.starts_with("--from=build") || path(source).exists(), "{source} is not there");
    }
    // Cargo refuses a workspace without one of its members, and a manifest without one of its targets.
    let manifest = read("Cargo.toml");
    let needed = [
        ("[[bench]]", "benches"),
        ("[[test]]", "tests"),
        ("\"load-test\"", "load-test"),
        ("\"tests/models\"", "tests/models"),
    ];
    let needed = needed
        .iter()
        .filter(|(word, _)| manifest.contains(word))
        .map(|(_, folder)| (*folder).to_owned());
    let included = rust_files(&path("src")).into_iter().flat_map(|file| {
        let text = fs::read_to_string(&file).expect("it can be read");
        let names: Vec<String> = text
            .split("include_str!(\"")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()))
            .collect();
        names.into_iter().map(move |name| {
            let full = file.with_file_name(name).canonicalize().expect("what is included is there");
            let below = full.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("it is ours");
            below.iter().next().expect("a name").to_string_lossy().into_owned()
        })
    });
    let needed: BTreeSet<String> = needed
        .chain(included)
        .chain(["src", "migrations", "Cargo.toml", "Cargo.lock"].map(str::to_owned))
        .collect();
    assert!(
        needed.is_subset(&allowed),
        "{:?} is needed and stays out",
        needed.difference(&allowed)
    );
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder)
        .expect("it can be listed")
        .map(|entry| entry.expect("it can be listed").path());
    entries
        .flat_map(|path| if path.is_dir() { rust_files(&path) } else { vec![path] })
        .collect()
}

#[test]
fn the_image_runs_and_asks_what_the_command_line_offers() {
    let dockerfile = read("Dockerfile");
    let rest = |word: &str| {
        let line = dockerfile
            .lines()
            .find_map(|line| line.strip_prefix(word))
            .unwrap_or_else(|| panic!("no {word}"));
        line.trim().to_owned()
    };
    let json = |text: &str| serde_json::from_str::<Vec<String>>(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    assert_eq!(json(&rest("ENTRYPOINT ")), ["iotflow"]);
    assert!(has_command(&json(&rest("CMD "))[0]));
    let health = rest("HEALTHCHECK ");
    let health = json(health.split_once(" CMD ").expect("a command").1);
    assert_eq!(health[0], "iotflow");
    assert!(has_command(&health[1]));
    assert_eq!(text(&compose()["services"]["iotflow"]["user"]), rest("USER "));
    let variables: Vec<String> = dockerfile
        .lines()
        .filter_map(|line| Some(line.strip_prefix("ENV ")?.split_once('=')?.0.to_owned()))
        .collect();
    assert!(
        variables.iter().all(|name| VARIABLES.iter().any(|variable| variable.name == name)),
        "{variables:?}"
    );
    assert_eq!(rest("EXPOSE "), Config::default().api.port.to_string());
}

// --- prometheus.yml, grafana/provisioning ---

/// What the API needs of a service that reaches no database and no broker: its pages are served all the same.
fn parts_without_servers() -> Parts {
    let (config, metrics, readiness) = (Config::default(), Metrics::new(), Readiness::default());
    let tasks = Tasks::default();
    let (_, publisher) = Publisher::new(
        &config.mqtt,
        &config.ingest.group,
        readiness.latch("broker/publisher"),
        metrics.connection("publisher"),
        tasks.stop_token(),
    );
    let requests = pool::pool(&config.db, "api", 1).expect("a sound URL");
    Parts {
        waiting: Watch::new(requests.clone()).1,
        pool: requests,
        tree: TopicTree::new(&config.ingest.base_topic).expect("a base topic"),
        verifier: None,
        mqtt: config.mqtt.clone(),
        broker: watch::channel(Arc::default()).1,
        publisher,
        taps: Taps::new(config.mqtt, config.ingest.group, tasks.clone()),
        telemetry: Arc::default(),
        readiness,
        metrics,
        accounting: Arc::default(),
        tasks,
    }
}

#[tokio::test]
async fn prometheus_asks_for_the_pages_that_are_served() {
    let mut api = Config::default().api;
    let expected_target = format!("iotflow:{}", api.port);
    api.port = 0;
    let door = server::bind(&api).await.expect("there is a free port");
    let address = door.address().expect("it is bound");
    let running = tokio::spawn(door.run(parts_without_servers(), CancellationToken::new()));
    let mut pages = BTreeSet::new();
    let prometheus = yaml("prometheus.yml");
    for job in items(&prometheus["scrape_configs"]) {
        let page = text(&job["metrics_path"]);
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream
            .write_all(format!("GET {page} HTTP/1.0\r\n\r\n").as_bytes())
            .await
            .expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it answers");
        assert!(
            answer.starts_with("HTTP/1.0 200") && answer.contains("iotflow_"),
            "{page}: {answer}"
        );
        let targets: Vec<&str> = items(&job["static_configs"]).flat_map(|config| texts(&config["targets"])).collect();
        assert_eq!(targets, [expected_target.as_str()], "{page}");
        assert!(pages.insert(page.to_owned()), "{page} is asked for twice");
    }
    running.abort();
    assert_eq!(pages, BTreeSet::from(["/metrics".to_owned(), "/metrics/qos".to_owned()]));
    let compose = compose();
    let mounted = texts(&compose["services"]["prometheus"]["volumes"]).join("\n");
    for file in texts(&prometheus["rule_files"]) {
        assert!(
            mounted.contains(&format!("./{file}:/etc/prometheus/{file}:ro")),
            "{file} is not mounted"
        );
    }
}

#[test]
fn grafana_is_pointed_at_what_is_there() {
    let (compose, prometheus) = (compose(), yaml("prometheus.yml"));
    for source in items(&yaml("grafana/provisioning/datasources/iotflow.yml")["datasources"]) {
        let url = text(&source["url"]);
        let host = url.trim_start_matches("http://").split(':').next().expect("a host");
        let service = compose["services"].get(host).unwrap_or_else(|| panic!("{url}: no such service"));
        let shared = texts(&service["networks"])
            .iter()
            .any(|network| texts(&compose["services"]["grafana"]["networks"]).contains(network));
        assert!(shared, "grafana does not reach {host}");
        if source["type"] == "prometheus" {
            assert_eq!(source["jsonData"]["timeInterval"], prometheus["global"]["scrape_interval"]);
        }
    }
    let provider = &yaml("grafana/provisioning/dashboards/iotflow.yml")["providers"][0];
    let mount = format!("./grafana/dashboards:{}:ro", text(&provider["options"]["path"]));
    assert!(
        texts(&compose["services"]["grafana"]["volumes"]).contains(&mount.as_str()),
        "{mount}"
    );
}
