//! Programs that the tests run as a user would: started where they end with the test, heard line by line, secrets in files and
//! not on their command lines.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::trial::{Login, Trial};

/// A program that is running.
pub struct Program {
    child: Child,
    name: String,
    lines: Lines<BufReader<ChildStdout>>,
    errors: PathBuf,
    pub stdin: Option<ChildStdin>,
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub struct Ended {
    pub success: bool,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    /// What a program said that must have succeeded.
    pub fn ok(self) -> String {
        assert!(self.success, "{self:?}");
        self.stdout
    }
}

/// The programs that are not in every system, and the packages of Debian that hold them.
const PACKAGES: &[(&str, &str)] = &[
    ("curl", "curl"),
    ("mosquitto_pub", "mosquitto-clients"),
    ("mosquitto_sub", "mosquitto-clients"),
];

fn demand(name: &str) {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let package = PACKAGES.iter().find(|(program, _)| *program == name).map(|(_, package)| package);
    if let Some(package) = package
        && !std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
    {
        panic!("{name} is not installed: apt-get install {package}, or run ./dev test");
    }
}

/// `name`, which the system ends when this test's thread ends, however that comes about.
pub fn command(name: &str) -> Command {
    demand(name);
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", name]);
    command.kill_on_drop(true);
    command
}

impl Program {
    /// Starts it. What it says on standard error is kept for the failure's message.
    pub fn start(folder: &Path, name: &str, mut command: Command) -> Self {
        let errors = folder.join(format!("{name}-{:08x}.err", fastrand::u32(..)));
        let mut child = command
            .current_dir(folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&errors).expect("the folder is ours"))
            .spawn()
            .expect("setpriv (util-linux) can be started");
        let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
        Self {
            stdin: child.stdin.take(),
            child,
            name: name.to_owned(),
            lines,
            errors,
        }
    }

    /// The next line that it says; `None` when it has ended.
    pub async fn line(&mut self) -> Option<String> {
        let line = timeout(PATIENCE, self.lines.next_line());
        let line = line
            .await
            .unwrap_or_else(|_| panic!("{} says nothing more; {}", self.name, self.errors()));
        line.expect("its output can be read")
    }

    /// The next line that fits, which must come.
    pub async fn until(&mut self, fits: impl Fn(&str) -> bool) -> String {
        let name = self.name.clone();
        let found = async {
            loop {
                match self.line().await {
                    Some(line) if fits(&line) => return line,
                    Some(_) => {}
                    None => panic!("{} has ended; {}", self.name, self.errors()),
                }
            }
        };
        timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| panic!("{name} does not say what is expected"))
    }

    /// What it said on standard error.
    pub fn errors(&self) -> String {
        std::fs::read_to_string(&self.errors).unwrap_or_default()
    }

    /// Waits until it ends by itself, and takes what it still said.
    pub async fn end(mut self) -> Ended {
        drop(self.stdin.take());
        let mut stdout = String::new();
        while let Some(line) = self.line().await {
            stdout.push_str(&line);
            stdout.push('\n');
        }
        let ended = timeout(PATIENCE, self.child.wait());
        let status = ended.await.unwrap_or_else(|_| panic!("{} does not end", self.name));
        Ended {
            success: status.expect("it is our child").success(),
            stdout,
            stderr: self.errors(),
        }
    }
}

impl Trial {
    /// `mosquitto_pub` or `mosquitto_sub` of this user, by TLS and in MQTT 5.
    pub fn mosquitto(&self, name: &str, login: &Login, arguments: &[&str]) -> Program {
        let folder = self.site.folder.path().join(format!("home-of-{}", login.username));
        std::fs::create_dir_all(&folder).expect("it is ours");
        // The clients read options from here; so the password is on no command line.
        let options = format!(
            "-h 127.0.0.1\n-p {}\n--cafile {}\n-V 5\n-u {}\n-P {}\n",
            self.site.ports.tls,
            self.ca_cert().display(),
            login.username,
            login.password,
        );
        std::fs::write(folder.join(name), options).expect("it is ours");
        demand(name);
        // They write to a pipe by the block, and a test waits for lines.
        let mut command = command("stdbuf");
        command.args(["--output=L", name]).args(arguments).env("XDG_CONFIG_HOME", &folder);
        Program::start(&folder, name, command)
    }

    /// Publishes at QoS 1 with `mosquitto_pub`.
    pub async fn mosquitto_pub(&self, login: &Login, topic: &str, payload: &str) -> Ended {
        self.mosquitto("mosquitto_pub", login, &["-q", "1", "-t", topic, "-m", payload])
            .end()
            .await
    }

    /// `mosquitto_sub`, which is subscribed when this returns. Its deliveries come as lines of JSON.
    pub async fn mosquitto_sub(&self, login: &Login, arguments: &[&str]) -> Program {
        let mut program = self.mosquitto("mosquitto_sub", login, &[&["-d", "-F", "%J"], arguments].concat());
        program.until(|line| line.starts_with("Subscribed")).await;
        program
    }

    /// `curl` at the service, with this header.
    pub fn curl(&self, header: &str, path: &str, arguments: &[&str]) -> Program {
        let folder = self.site.folder.path();
        let options = folder.join(format!("curl-{:08x}", fastrand::u32(..)));
        std::fs::write(&options, format!("header = \"{header}\"\n")).expect("it is ours");
        let mut command = command("curl");
        let limit = (PATIENCE + Duration::from_secs(5)).as_secs().to_string();
        command
            .args(["--silent", "--show-error", "--fail-with-body", "--max-time", &limit, "--config"])
            .arg(&options)
            .args(arguments)
            .arg(format!("http://{}/api/v1{path}", self.service.address));
        Program::start(folder, "curl", command)
    }
}
