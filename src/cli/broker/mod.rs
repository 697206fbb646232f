//! `iotflow broker`: the broker of this machine, or of Compose, set up and looked after. `mqtt_manage.sh` hands over to it.
//!
//! ```text
//! setup, start, stop, restart, run, logs   the processes
//! create-user … generate-device            who may do what: into the database, and in force when the command returns
//! certs                                    who proves what to whom, and until when
//! status, test                             how it is
//! backup, restore                          all of it in one archive, and back
//! ```

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};

use super::{DATA, with_variables};
use place::Place;

mod access;
mod agent;
mod backup;
mod certs;
mod certs_output;
mod compose;
mod device;
mod life;
mod login;
mod logs;
mod place;
mod run;
mod setup;
mod status;
mod status_output;
mod test;
mod users;

/// What was asked of all of these commands.
struct Asked<'a> {
    matches: &'a ArgMatches,
    data: PathBuf,
    place: Place,
    json: bool,
}

pub(super) fn command() -> Command {
    let command = Command::new("broker")
        .about("Set up and look after the MQTT broker of this machine")
        .subcommand_required(true)
        .arg_required_else_help(true);
    setup::commands()
        .into_iter()
        .chain(life::commands())
        .chain([
            run::command(),
            agent::command(),
            logs::command(),
            status::command(),
            test::command(),
        ])
        .chain(users::commands())
        .chain([device::command(), backup::create::command(), backup::restore::command()])
        .fold(command, |command, subcommand| command.subcommand(with_common(subcommand)))
        .subcommand(certs::command())
}

fn with_common(command: Command) -> Command {
    // These two run the broker, and keep it, themselves.
    let command = match command.get_name() {
        "run" | "agent" => command,
        _ => command.arg(
            Arg::new("compose")
                .long("compose")
                .value_name("FOLDER")
                .value_parser(value_parser!(PathBuf))
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value(".")
                .help("The broker that Compose runs, by the docker-compose.yml of this folder; meant anyway where ./secrets is made, no --data is given, and no broker is in its default"),
        ),
    };
    with_variables(
        command
            .arg(
                Arg::new("data")
                    .long("data")
                    .value_name("FOLDER")
                    .default_value(DATA)
                    .help("The installation's folder"),
            )
            .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in JSON")),
    )
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (name, matches) = matches.subcommand().expect("clap demands one");
    if name == "certs" {
        return certs::run(matches);
    }
    let data = matches.get_one::<String>("data").map(PathBuf::from).expect("it has a default");
    let asked = Asked {
        matches,
        place: Place::of(matches, &data)?,
        data,
        json: matches.get_flag("json"),
    };
    if let Place::Compose(compose) = &asked.place
        && let Some(outcome) = compose.run(name, &asked)
    {
        return outcome;
    }
    match name {
        "setup" => setup::setup(&asked),
        "setup-admin" => users::setup_admin(&asked),
        "start" => life::start(&asked),
        "stop" => life::stop(&asked),
        "restart" => life::restart(&asked),
        "run" => run::run(&asked),
        "agent" => agent::run(&asked),
        "logs" => logs::run(&asked),
        "status" => status::run(&asked),
        "test" => test::run(&asked),
        "create-user" => users::create(&asked),
        "delete-user" => users::delete(&asked),
        "list-users" => users::list(&asked),
        "rotate" => users::rotate(&asked),
        "disable" => users::disable(&asked, true),
        "enable" => users::disable(&asked, false),
        "generate-device" => device::generate(&asked),
        "backup" => backup::create::run(&asked),
        "restore" => backup::restore::run(&asked),
        _ => unreachable!("clap knows the above only"),
    }
}

impl Asked<'_> {
    /// An argument that clap demands.
    fn text(&self, name: &str) -> &str {
        self.matches.get_one::<String>(name).expect("clap demands it")
    }

    /// Says it to people, or to programs.
    fn answer(&self, text: &str, json: &serde_json::Value) {
        if self.json {
            println!("{json}");
        } else {
            println!("{text}");
        }
    }
}
