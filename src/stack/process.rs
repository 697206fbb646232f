//! A server as a child process: started as an account, ended with its handle.

use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::account::Account;

/// A running server.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stop_signal: Signal,
    log: PathBuf,
}

impl Process {
    /// Starts `program` as `account`, its output appended to `log`. It gets `stop_signal` when it is to end, and also when
    /// the thread that started it ends, however that comes about.
    ///
    /// # Errors
    /// When the program, or `setpriv` of util-linux, cannot be started.
    pub fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        account: Account,
        log: &Path,
        stop_signal: Signal,
    ) -> io::Result<Self> {
        // Logs tell who is there, and at times more than their writers meant to.
        let output = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
        let child = as_account(program, account, Some(stop_signal))
            .args(arguments)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C on our terminal is ours to hand on.
            .process_group(0)
            .spawn()?;
        Ok(Self {
            child,
            stop_signal,
            log: log.to_owned(),
        })
    }

    /// The process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let pid = i32::try_from(self.child.id()).map_err(io::Error::other)?;
        Ok(kill(Pid::from_raw(pid), signal)?)
    }

    /// The exit status, once it has ended.
    ///
    /// # Errors
    /// The system's.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Asks it to end, and after `patience` makes it.
    ///
    /// # Errors
    /// The system's.
    pub fn stop(&mut self, patience: Duration) -> io::Result<()> {
        if self.ended()?.is_some() {
            return Ok(());
        }
        self.signal(self.stop_signal)?;
        let deadline = Instant::now() + patience;
        while self.ended()?.is_none() {
            if Instant::now() > deadline {
                return self.kill();
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Ends it at once.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// The end of its log, for an error that is about it.
    #[must_use]
    pub fn last_words(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to hear of an error.
        drop(self.stop(Duration::from_secs(10)));
    }
}

/// A command that runs as `account`, and with `death_signal` ends with the thread that starts it.
#[must_use]
pub fn as_account(program: &Path, account: Account, death_signal: Option<Signal>) -> Command {
    if account.lent().is_none() && death_signal.is_none() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    if let Some(signal) = death_signal {
        command.arg("--pdeathsig").arg(signal.as_str().trim_start_matches("SIG"));
    }
    if let Some((uid, gid)) = account.lent() {
        command.args(["--reuid", &uid.to_string(), "--regid", &gid.to_string(), "--clear-groups"]);
    }
    command.arg("--").arg(program);
    command
}
