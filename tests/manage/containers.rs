//! What docker-compose.yml runs of the broker, without an engine: its secrets by its script, its broker behind its bell, its
//! agent by its command, each as the user of its container; and a stand-in for `docker` that writes down what it is asked.

use std::ffi::OsString;
use std::fs::{self, File, Permissions};
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use iotflow::stack::ports;
use iotflow::stack::postgres::Postgres;
use iotflow::stack::programs;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};
use serde_json::Value;
use tokio_postgres::Client;

use crate::place::Place;
use crate::support::person::{Person, login};
use crate::support::servers::{connect, start_postgres};
use crate::support::{eventually, judge};

/// The stand-in: a line for each call, and an answer to `ps`.
const DOCKER: &str = r#"#!/bin/sh
here=$(dirname "$0")/..
printf '%s: docker %s\n' "$(pwd -P)" "$*" >>"$here/docker.calls"
if [ -e "$here/docker.fails" ]; then echo "no such engine" >&2; exit 17; fi
case "$*" in
    *" ps "*) cat "$here/docker.ps" ;;
    *) echo "said by docker" ;;
esac
"#;

/// A folder with what Compose needs, and the stand-in first on the path.
pub(crate) fn checkout() -> Place {
    let mut place = Place::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for name in ["docker-compose.yml", "scripts/compose-secrets", "mosquitto/bell.sh"] {
        let target = place.path(name);
        fs::create_dir_all(target.parent().expect("it has one")).expect("it is ours");
        fs::copy(root.join(name), target).expect("it is there");
    }
    fs::create_dir(place.path("bin")).expect("it is ours");
    fs::write(place.path("bin/docker"), DOCKER).expect("it is ours");
    fs::set_permissions(place.path("bin/docker"), Permissions::from_mode(0o755)).expect("it is ours");
    let mut path = OsString::from(place.path("bin"));
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    place.environment.push(("PATH".into(), path));
    place
}

/// What the stand-in was asked since the last look.
pub(crate) fn calls(place: &Place) -> Vec<String> {
    let path = place.path("docker.calls");
    let text = fs::read_to_string(&path).unwrap_or_default();
    drop(fs::remove_file(&path));
    let here = format!("{}: ", place.folder.path().canonicalize().expect("it is there").display());
    text.lines()
        .map(|line| line.strip_prefix(&here).unwrap_or_else(|| panic!("elsewhere: {line}")).to_owned())
        .collect()
}

/// Makes the secrets, as the script does it for whoever calls it here.
pub(crate) fn make_secrets(place: &Place) {
    let mut script = Command::new(place.path("scripts/compose-secrets"));
    if !Uid::effective().is_root() {
        script.arg("--keep-owner");
    }
    let output = script.output().expect("the script can be started");
    assert!(output.status.success(), "{output:?}");
}

/// See the module's documentation.
pub(crate) struct Containers {
    broker: Child,
    agent: Option<Child>,
    pub(crate) sql: Client,
    _postgres: Postgres,
    url: String,
    staff: u16,
    plain: u16,
    // Dropped last: all of them write into it until they end.
    pub(crate) place: Place,
}

impl Containers {
    /// All of it runs, and the first set is in force.
    pub(crate) async fn start() -> Self {
        let mut place = checkout();
        make_secrets(&place);
        // A bind mount needs no way through the folder above it.
        fs::set_permissions(place.path("secrets"), Permissions::from_mode(0o711)).expect("it is ours");
        fs::copy(env!("CARGO_BIN_EXE_iotflow"), place.path("iotflow")).expect("it is built");
        let (postgres, _) = start_postgres(place.folder.path()).await;
        let url = postgres.url().reveal().to_owned();
        let free = || ports::free().expect("there is a free port");
        let (staff, plain) = (free(), free());
        write_conf(&place, [("1884", staff), ("1883", plain), ("9001", free())]);
        place.environment.extend([
            ("DATABASE_URL".into(), url.clone().into()),
            ("MQTT_HOST".into(), "127.0.0.1".into()),
            ("MQTT_PORT".into(), staff.to_string().into()),
            ("MQTT_USERNAME".into(), "iotflow".into()),
            ("MQTT_PASSWORD_FILE".into(), place.path("secrets/iotflow/mqtt-password").into()),
        ]);
        let mut containers = Self {
            broker: start_broker(&place),
            agent: None,
            sql: connect(&url).await,
            _postgres: postgres,
            url,
            staff,
            plain,
            place,
        };
        containers.start_agent(None);
        containers.until_in_force().await;
        // What is in force at a broker that is not there yet is what it will read.
        eventually("the broker listens", async || {
            let ports = [containers.staff, containers.plain];
            assert!(!has_ended(&containers.broker), "{}", containers.place.read("broker.log"));
            ports
                .iter()
                .all(|port| TcpStream::connect(("127.0.0.1", *port)).is_ok())
                .then_some(())
        })
        .await;
        containers
    }

    pub(crate) fn access(&self) -> PathBuf {
        self.place.path("secrets/broker/access")
    }

    /// The command of docker-compose.yml, with this machine's names for things; with a limit to the size of files, if one is set.
    pub(crate) fn start_agent(&mut self, file_bytes: Option<u64>) {
        let compose: Value = serde_saphyr::from_str(&self.place.read("docker-compose.yml")).expect("YAML");
        let agent = &compose["services"]["broker-agent"];
        let secrets = self.place.path("secrets");
        let here = |text: &str| {
            text.replace("/mosquitto/broker", &secrets.join("broker").display().to_string())
                .replace("/run/secrets/", &format!("{}/", secrets.join("broker-agent").display()))
                .replace("mosquitto:1883", &format!("127.0.0.1:{}", self.plain))
        };
        let arguments = agent["command"].as_array().expect("a list").iter();
        let mut command = as_its_user(&self.place);
        if let Some(bytes) = file_bytes {
            command.args(["prlimit", &format!("--fsize={bytes}")]);
        }
        command
            .arg(self.place.path("iotflow"))
            .args(arguments.map(|text| here(text.as_str().expect("text"))));
        for (name, value) in agent["environment"].as_object().expect("a map") {
            command.env(name, here(value.as_str().expect("text")));
        }
        let log = File::create(self.place.path(&format!("agent-{:08x}.log", fastrand::u32(..)))).expect("it is ours");
        command
            .env("MQTT_HOST", "127.0.0.1")
            .env("MQTT_PORT", self.staff.to_string())
            .env_remove("DATABASE_URL_FILE")
            .env("DATABASE_URL", &self.url)
            .stderr(log);
        self.agent = Some(command.spawn().expect("setpriv (util-linux) can be started"));
    }

    /// kill -9.
    pub(crate) fn kill_agent(&mut self) {
        let mut agent = self.agent.take().expect("it was started");
        agent.kill().expect("it is our child");
        agent.wait().expect("it is our child");
    }

    pub(crate) fn agent_has_ended(&self) -> bool {
        has_ended(self.agent.as_ref().expect("it was started"))
    }

    /// kill -9, and another, as Docker would start it.
    pub(crate) async fn kill_broker(&mut self) {
        let of_the_bell = format!("/proc/{0}/task/{0}/children", self.broker.id());
        let children = fs::read_to_string(of_the_bell).expect("it runs");
        let is_broker = |pid: &&str| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim() == "mosquitto");
        let pid = children.split_whitespace().find(is_broker).expect("the broker is among them");
        kill(Pid::from_raw(pid.parse().expect("a number")), Signal::SIGKILL).expect("it is ours");
        eventually("the container ends with its broker", async || has_ended(&self.broker).then_some(())).await;
        self.broker.wait().expect("it is our child");
        self.broker = start_broker(&self.place);
    }

    pub(crate) async fn until_in_force(&self) {
        eventually("what the database says is in force", async || {
            let rows = self
                .sql
                .query("SELECT applied_version FROM broker_access WHERE version = applied_version", &[])
                .await;
            // Before the agent has made them there are no tables.
            (!rows.ok()?.is_empty()).then_some(())
        })
        .await;
    }

    pub(crate) async fn lets_in(&self, name: &str, password: &str) -> bool {
        Person::connect(&login(self.plain, Some((name, password))), name).await.is_ok()
    }

    pub(crate) async fn has_alarm(&self) -> bool {
        judge::number(&self.sql, "SELECT count(*) FROM broker_access WHERE alarm IS NOT NULL").await > 0
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        if let Some(agent) = &mut self.agent {
            drop(agent.kill());
            drop(agent.wait());
        }
        // The broker ends with the script before it.
        let _ = kill(Pid::from_raw(i32::try_from(self.broker.id()).expect("a pid")), Signal::SIGTERM);
        drop(self.broker.wait());
    }
}

/// Whether a child has ended, and waits for us to ask how.
fn has_ended(child: &Child) -> bool {
    fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| stat.contains(") Z "))
}

/// `setpriv` to the user that the files were given to, with an empty environment.
fn as_its_user(place: &Place) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]);
    if Uid::effective().is_root() {
        let owner = fs::metadata(place.path("secrets/broker")).expect("it is made");
        command
            .arg(format!("--reuid={}", owner.uid()))
            .arg(format!("--regid={}", owner.gid()))
            .arg("--clear-groups");
    }
    command
        .arg("--")
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .current_dir(place.folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

fn start_broker(place: &Place) -> Child {
    let program = programs::mosquitto().unwrap_or_else(|error| panic!("{error}"));
    as_its_user(place)
        .arg("sh")
        .arg(place.path("mosquitto/bell.sh"))
        .arg(place.path("secrets/broker/bell"))
        .arg(program)
        .arg("-c")
        .arg(place.path("mosquitto.conf"))
        .stderr(
            File::options()
                .create(true)
                .append(true)
                .open(place.path("broker.log"))
                .expect("it is ours"),
        )
        .spawn()
        .expect("setpriv (util-linux) can be started")
}

/// The container's settings with paths and ports of this machine.
fn write_conf(place: &Place, ports: [(&str, u16); 3]) {
    let data = place.path("data");
    fs::create_dir(&data).expect("it is ours");
    let owner = fs::metadata(place.path("secrets/broker")).expect("it is made");
    chown(&data, Some(owner.uid()), Some(owner.gid())).expect("it is ours, or we are root");
    let mut conf = iotflow::broker::conf::TEMPLATE
        .replace("/mosquitto/broker/", &format!("{}/", place.path("secrets/broker").display()))
        .replace("/mosquitto/data/", &format!("{}/", data.display()));
    for (published, port) in ports {
        let line = format!("listener {published} 0.0.0.0\n");
        assert!(conf.contains(&line), "{line}");
        conf = conf.replace(&line, &format!("listener {port} 127.0.0.1\n"));
    }
    assert!(!conf.contains("/mosquitto/"), "a path of the container's is left");
    fs::write(place.path("mosquitto.conf"), conf).expect("it is ours");
}
