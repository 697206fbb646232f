//! The command: every subject asked, side by side, and one verdict.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use jiff::Timestamp;
use serde_json::json;

use crate::cli::{DATA, EXIT_FAILED, EXIT_OK, Sources, runtime, terminal};

use super::finding::{Finding, Level};
use super::patient::Patient;
use super::print::{self, Style};
use super::{access, broker, certificates, clock, database, disk, entry, leaks, service, sessions, settings, storage};

/// Where nobody says how wide the terminal is.
const USUAL_WIDTH: usize = 100;

pub(in crate::cli) fn command() -> Command {
    Command::new("doctor")
        .about("Look at a running installation: broker, access, certificates, database, disks; and say what to do")
        .long_about("Looks at a running installation, with the service's own settings, and says of each thing how it is, what was found, and what to do. It changes nothing. It tries to log in as nobody and as a stranger at every listener it knows, and to write what nobody may.")
        .after_help("Exit codes: 0 all is well, or warnings only; 1 a fault; 2 it could not begin.")
        .arg(
            Arg::new("data")
                .long("data")
                .value_name("FOLDER")
                .default_value(DATA)
                .help("The installation's folder, where there is one"),
        )
        .arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Answer in JSON"))
}

pub(in crate::cli) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let data = matches.get_one::<String>("data").map(PathBuf::from).expect("it has a default");
    let sources = Sources::with_installation(matches, &data)?;
    let findings = runtime()?.block_on(async {
        let patient = Patient::meet(sources, &data).await?;
        anyhow::Ok(examine(&patient).await)
    })?;
    let worst = findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok);
    if matches.get_flag("json") {
        let count = |level| findings.iter().filter(|finding| finding.level == level).count();
        let answer = json!({
            "status": match worst { Level::Skipped => Level::Ok, other => other },
            "at": Timestamp::now().to_string(),
            "faults": count(Level::Fault),
            "warnings": count(Level::Warning),
            "findings": findings,
        });
        println!("{}", terminal::json(&answer));
    } else {
        print!("{}", print::text(&findings, style()));
    }
    Ok(ExitCode::from(if worst == Level::Fault { EXIT_FAILED } else { EXIT_OK }))
}

/// All subjects, in the order in which they are read. They do not wait for each other: one that is away costs its own time only.
async fn examine(patient: &Patient) -> Vec<Finding> {
    // One after the other: where a listener takes the user's name for the client id, two of the service's would throw each other out.
    let as_service = async { (broker::look(patient).await, leaks::look(patient).await) };
    let ((broker, leaks), certificates, entry, access, clock, database, sessions, storage, disk, service) = tokio::join!(
        as_service,
        certificates::look(patient),
        entry::look(patient),
        access::look(patient),
        clock::look(patient),
        database::look(patient),
        sessions::look(patient),
        storage::look(patient),
        disk::look(patient),
        service::look(patient),
    );
    let lists = [
        settings::look(patient),
        service,
        broker,
        certificates,
        entry,
        leaks,
        access,
        database,
        sessions,
        storage,
        clock,
        disk,
    ];
    lists.concat()
}

fn style() -> Style {
    let wide = terminal_size::terminal_size().map(|(width, _)| usize::from(width.0));
    Style {
        width: wide.unwrap_or(USUAL_WIDTH),
        // https://no-color.org
        coloured: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
    }
}
