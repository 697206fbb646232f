//! The command line: one file a command, and here what they share.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgMatches, Command};

use crate::config::{Config, ConfigError, VARIABLES, Variable, environment};

mod audit;
mod broker;
mod command;
mod completions;
mod database;
mod dead_letter;
mod device;
mod discovery;
mod doctor;
mod group;
mod health;
mod installation;
mod migrate;
mod serve;
mod terminal;
mod token;
mod up;

/// The folder of the installation on this machine, unless another is named.
const DATA: &str = ".iotflow";

/// Everything that went as it should.
pub const EXIT_OK: u8 = 0;
/// It ran, and something is wrong: not ready, not balanced, a task crashed.
pub const EXIT_FAILED: u8 = 1;
/// It could not begin: the command line, the configuration, a server that is not there.
pub const EXIT_UNUSABLE: u8 = 2;
/// It stopped before everything was committed; what is unacked stays with the broker.
pub const EXIT_UNDRAINED: u8 = 3;

/// The whole command line.
#[must_use]
pub fn command() -> Command {
    Command::new("iotflow")
        .version(env!("CARGO_PKG_VERSION"))
        .about("MQTT telemetry of whole fleets into PostgreSQL, exactly once")
        .after_help("Exit codes: 0 as it should be; 1 it ran and something is wrong; 2 it could not begin; 3 stopped before everything was committed.")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(with_variables(serve::command()))
        .subcommand(with_variables(up::command()))
        .subcommand(with_variables(migrate::command()))
        .subcommand(device::command())
        .subcommand(group::command())
        .subcommand(token::command())
        .subcommand(command::command())
        .subcommand(with_variables(audit::command()))
        .subcommand(dead_letter::command())
        .subcommand(discovery::command())
        .subcommand(health::command())
        .subcommand(with_variables(doctor::command()))
        .subcommand(broker::command())
        .subcommand(completions::command())
}

/// Runs what `arguments` say.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let matches = command().get_matches_from(arguments);
    let outcome = match matches.subcommand() {
        Some(("serve", matches)) => serve::run(matches),
        Some(("up", matches)) => up::run(matches),
        Some(("migrate", matches)) => migrate::run(matches),
        Some(("device", matches)) => device::run(matches),
        Some(("group", matches)) => group::run(matches),
        Some(("token", matches)) => token::run(matches),
        Some(("command", matches)) => command::run(matches),
        Some(("audit", matches)) => audit::run(matches),
        Some(("dead-letter", matches)) => dead_letter::run(matches),
        Some(("discovery", matches)) => discovery::run(matches),
        Some(("health", matches)) => health::run(matches),
        Some(("doctor", matches)) => doctor::run(matches),
        Some(("broker", matches)) => broker::run(matches),
        Some(("completions", matches)) => completions::run(matches),
        _ => unreachable!("clap demands one of the above"),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("iotflow: {}", sentence(&error));
        ExitCode::from(EXIT_UNUSABLE)
    })
}

/// An error and its causes in one line. Many of ours name their cause already, which is not said again.
fn sentence(error: &anyhow::Error) -> String {
    error
        .chain()
        .map(ToString::to_string)
        .fold(String::new(), |said, cause| match (said.is_empty(), said.ends_with(&cause)) {
            (true, _) => cause,
            (false, true) => said,
            (false, false) => format!("{said}: {cause}"),
        })
}

/// Each variable as a flag; a secret only as the name of a file, for a command line can be read by others.
fn with_variables(command: Command) -> Command {
    VARIABLES
        .iter()
        .fold(command.next_help_heading("Configuration"), |command, variable| {
            let (id, note) = if variable.secret {
                (file_variable(variable), ", from this file")
            } else {
                (variable.name.to_owned(), "")
            };
            let help = format!(
                "{}{note} [env: {id}] [default: {}]",
                variable.help,
                variable.default.trim_matches(['<', '>'])
            );
            command.arg(
                Arg::new(id.clone())
                    .long(id.to_ascii_lowercase().replace('_', "-"))
                    .value_name("VALUE")
                    .help(help),
            )
        })
}

fn file_variable(variable: &Variable) -> String {
    format!("{}_FILE", variable.name)
}

/// Where variables come from: flags, else the environment, else `.env`, else the installation on this machine.
struct Sources {
    flags: HashMap<String, String>,
    dotenv: HashMap<String, String>,
    installation: HashMap<String, String>,
}

impl Sources {
    fn new(matches: &ArgMatches) -> anyhow::Result<Self> {
        let flags = matches
            .ids()
            .filter_map(|id| Some((id.as_str().to_owned(), matches.try_get_one::<String>(id.as_str()).ok()??.clone())))
            .collect();
        let dotenv = match dotenvy::dotenv_iter() {
            Ok(pairs) => pairs.collect::<Result<_, _>>()?,
            Err(error) if error.not_found() => HashMap::new(),
            Err(error) => return Err(anyhow::anyhow!(".env: {error}")),
        };
        Ok(Self {
            flags,
            dotenv,
            installation: HashMap::new(),
        })
    }

    /// The same, and what the installation in `data` says of its broker and its database, each where no other is named.
    fn with_installation(matches: &ArgMatches, data: &Path) -> anyhow::Result<Self> {
        Self::with_known(matches, installation::folder::variables(data)?)
    }

    /// The same, and what is `known` of a broker and a database, each where no other is named.
    fn with_known(matches: &ArgMatches, mut known: HashMap<String, String>) -> anyhow::Result<Self> {
        let mut sources = Self::new(matches)?;
        let named = |what: &[&str]| what.iter().any(|name| sources.is_set(name));
        let (broker, database) = (
            named(&["MQTT_HOST", "MQTT_PORT", "MQTT_USERNAME", "MQTT_PASSWORD"]),
            named(&["DATABASE_URL"]),
        );
        known.retain(|name, _| !if name.starts_with("DATABASE_") { database } else { broker });
        sources.installation = known;
        Ok(sources)
    }

    /// Where the variable is given, in the words of people.
    fn origin(&self, name: &str) -> Option<&'static str> {
        let found = |value: Option<&String>| value.is_some_and(|value| !value.is_empty());
        if found(self.flags.get(name)) {
            Some("flags")
        } else if environment(name).is_some_and(|value| !value.is_empty()) {
            Some("environment")
        } else if found(self.dotenv.get(name)) {
            Some(".env")
        } else {
            found(self.installation.get(name)).then_some("installation")
        }
    }

    fn get(&self, name: &str) -> Option<String> {
        self.flags
            .get(name)
            .cloned()
            .or_else(|| environment(name))
            .or_else(|| self.dotenv.get(name).cloned())
            .or_else(|| self.installation.get(name).cloned())
    }

    /// Whether the variable, or the file it may come from, is given.
    fn is_set(&self, name: &str) -> bool {
        [name, &format!("{name}_FILE")]
            .into_iter()
            .any(|name| self.get(name).is_some_and(|value| !value.is_empty()))
    }

    fn config(&self) -> Result<Config, ConfigError> {
        Config::read(&|name: &str| self.get(name))
    }
}

fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_cause_is_said_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("file: {source}")]
        struct Named {
            source: std::io::Error,
        }
        let source = std::io::Error::other("gone");
        let error = anyhow::Error::from(Named { source }).context("no broker");
        assert_eq!(super::sentence(&error), "no broker: file: gone");
    }

    #[test]
    fn the_command_line_is_sound() {
        super::command().debug_assert();
    }
}
