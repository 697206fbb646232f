//! `iotflow broker certs`: the authority in a folder, and what it issues.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Command, value_parser};
use jiff::Timestamp;

use crate::broker::certs::authority::{Authority, Change, Existing, Old};
use crate::broker::certs::error::AuthorityError;
use crate::broker::certs::index::{Kind, Which};
use crate::broker::certs::serial::Serial;
use crate::cli::installation::certificates::{CA_DAYS, LEAF_DAYS};
use crate::cli::installation::folder::Installation;
use crate::cli::{DATA, EXIT_FAILED, EXIT_OK, Sources, database, runtime};
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::users::is_reserved;
use crate::protocol::id::{DeviceId, DeviceIdRef, Username};
use crate::stack::account::Account;

use super::place::Place;
use super::{Asked, certs_output};

const SOON_DAYS: u64 = 30;
const SECONDS_PER_DAY: u64 = 86_400;

pub(super) fn command() -> Command {
    Command::new("certs")
        .about("Certificates: the authority, the broker's, the devices'")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .arg(
            Arg::new("folder")
                .long("folder")
                .global(true)
                .value_parser(value_parser!(PathBuf))
                .help("Folder of an authority that is no installation's"),
        )
        .arg(
            Arg::new("data")
                .long("data")
                .global(true)
                .value_name("FOLDER")
                .default_value(DATA)
                .help("The installation's folder"),
        )
        .arg(
            Arg::new("json")
                .long("json")
                .global(true)
                .action(ArgAction::SetTrue)
                .help("Print JSON"),
        )
        .subcommand(
            Command::new("ca")
                .about("Make a certificate authority, with an empty revocation list")
                .arg(
                    Arg::new("common-name")
                        .long("common-name")
                        .default_value("IoTFlow broker CA")
                        .help("What it is called"),
                )
                .arg(days(CA_DAYS))
                .arg(
                    Arg::new("replace")
                        .long("replace")
                        .action(ArgAction::SetTrue)
                        .help("Destroy the one that is there, and with it all it issued"),
                ),
        )
        .subcommand(
            Command::new("server")
                .about("Issue what the broker shows its clients")
                .arg(
                    Arg::new("name")
                        .long("name")
                        .required(true)
                        .action(ArgAction::Append)
                        .help("Host name or address by which clients reach the broker; as often as it has some"),
                )
                .arg(days(LEAF_DAYS)),
        )
        .subcommand(
            Command::new("device")
                .about("Issue what devices show the broker")
                .arg(
                    Arg::new("id")
                        .required(true)
                        .action(ArgAction::Append)
                        .value_parser(device_id)
                        .help("Device ids"),
                )
                .arg(days(LEAF_DAYS)),
        )
        .subcommand(
            which(Command::new("renew").about("Issue a new certificate in the place of one that ends"))
                .arg(flag("ca", "The authority's own; it keeps its key, and all it issued stays good"))
                .arg(flag("crl", "The revocation list"))
                .group(
                    ArgGroup::new("which")
                        .args(["ca", "crl", "server", "device", "serial"])
                        .required(true),
                )
                .arg(
                    Arg::new("days")
                        .long("days")
                        .value_parser(value_parser!(u64).range(1..))
                        .help(format!("Days that it is good [default: {LEAF_DAYS}, the authority {CA_DAYS}]")),
                )
                .arg(flag(
                    "revoke-old",
                    "Revoke the one it replaces, instead of leaving it good until it ends",
                )),
        )
        .subcommand(
            which(Command::new("revoke").about("Revoke certificates"))
                .group(ArgGroup::new("which").args(["server", "device", "serial"]).required(true)),
        )
        .subcommand(
            Command::new("list")
                .about("List all certificates and the revocation list, and when they end")
                .arg(
                    Arg::new("soon")
                        .long("soon")
                        .value_name("DAYS")
                        .default_value(SOON_DAYS.to_string())
                        .value_parser(value_parser!(u64))
                        .help("What has fewer days left is called expiring"),
                )
                .after_help(
                    "Exit code 1 where the authority, the server's certificate or the revocation list has ended: then nobody can connect.",
                ),
        )
}

fn days(default: u64) -> Arg {
    Arg::new("days")
        .long("days")
        .default_value(default.to_string())
        .value_parser(value_parser!(u64).range(1..))
        .help("Days that it is good")
}

fn flag(name: &'static str, help: &'static str) -> Arg {
    Arg::new(name).long(name).action(ArgAction::SetTrue).help(help)
}

fn which(command: Command) -> Command {
    command
        .arg(flag("server", "The broker's"))
        .arg(
            Arg::new("device")
                .long("device")
                .value_name("ID")
                .value_parser(device_id)
                .help("A device's"),
        )
        .arg(
            Arg::new("serial")
                .long("serial")
                .value_parser(str::parse::<Serial>)
                .help("The one with this number"),
        )
}

fn device_id(text: &str) -> Result<DeviceId, String> {
    if Username::parse(text).is_ok_and(|name| is_reserved(&name)) {
        return Err(format!("{text}: names that begin with iotflow- are the service's own"));
    }
    DeviceIdRef::parse(text)
        .map(DeviceIdRef::to_owned)
        .map_err(|error| error.to_string())
}

pub(super) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (name, matches) = matches.subcommand().context("clap demands a subcommand")?;
    let json = matches.get_flag("json");
    let asked = Asked {
        matches,
        data: matches.get_one::<String>("data").map(PathBuf::from).context("it has a default")?,
        place: Place::Local,
        json,
    };
    let installation = match matches.get_one::<PathBuf>("folder") {
        Some(_) => None,
        None => Some(Installation::open(&asked.data)?),
    };
    let folder = match &installation {
        Some(installation) => installation.broker().certs(),
        None => matches.get_one::<PathBuf>("folder").context("one of the two is there")?.clone(),
    };
    if name == "list" {
        return list(&folder, matches, json);
    }
    let change = change(&folder, name, matches)?;
    certs_output::print_change(&change, json)?;
    match &installation {
        Some(installation) => runtime()?.block_on(after(&asked, installation, &change))?,
        None if change.concerns_broker && !json => {
            println!("A broker that uses these files reads them at its next SIGHUP. A connection that is open stays open.");
        }
        None => {}
    }
    Ok(ExitCode::from(EXIT_OK))
}

/// Tells the broker of a change, ends the sessions of who was revoked, and puts it on record.
async fn after(asked: &Asked<'_>, installation: &Installation, change: &Change) -> anyhow::Result<()> {
    let mut settings = installation.settings()?.context("it is there")?;
    if let Some(server) = change.issued.iter().find(|record| record.kind == Kind::Server) {
        // What it is reached by, from now on: the supervisor renews for these names.
        settings.names.clone_from(&server.names);
        installation.remember(&settings)?;
    }
    let applier = installation.applier(&settings)?;
    // Without a broker's certificate its listeners would be left without one.
    if change.issued.iter().any(|record| record.kind == Kind::Ca)
        && let Some(certificates) = installation.certificates(&settings)
    {
        certificates.keep()?;
    }
    if change.concerns_broker && applier.reload().await? {
        let devices = change.revoked.iter().filter(|record| record.kind == Kind::Device);
        let left = applier
            .end_sessions(devices.map(|record| record.common_name.clone()).collect())
            .await;
        if !left.is_empty() {
            eprintln!(
                "iotflow: connections of these are still open: {}",
                left.into_iter().collect::<Vec<_>>().join(", ")
            );
        }
        if !asked.json {
            println!("The broker has read it, and was proven to.");
        }
    }
    let entries = change
        .issued
        .iter()
        .map(|record| (Action::CertificateIssue, record))
        .chain(change.revoked.iter().map(|record| (Action::CertificateRevoke, record)));
    let config = Sources::with_installation(asked.matches, &asked.data)?.config()?;
    let recorded = async {
        let client = database::connect(&config.db, "certs").await?;
        let actor = Actor::of_command_line();
        for (action, record) in entries {
            let act = Act::new(&actor, action, &record.common_name, Outcome::Done).with("serial", record.serial.to_string());
            audit::record(&client, &act).await?;
        }
        anyhow::Ok(())
    };
    if let Err(error) = recorded.await {
        // The certificates are files, and may be needed to get the database going; that the record has a gap is said.
        eprintln!("iotflow: not in the audit: {error:#}");
    }
    Ok(())
}

/// Does what the command line says, and returns what is different now.
fn change(folder: &Path, name: &str, matches: &ArgMatches) -> anyhow::Result<Change> {
    if name == "ca" {
        let existing = if matches.get_flag("replace") {
            Existing::Destroy
        } else {
            Existing::Keep
        };
        let common_name: &String = matches.get_one("common-name").context("it has a default")?;
        let made = Authority::create(folder, common_name, validity(matches, CA_DAYS), existing);
        return match made {
            Err(error @ AuthorityError::Exists { .. }) => Err(anyhow::anyhow!("{error}; --replace does it all the same")),
            made => Ok(made?.1),
        };
    }
    let mut authority = Authority::open(folder)?;
    if let Some((uid, gid)) = Account::for_servers()?.lent() {
        authority.give_server_key_to(uid, gid)?;
    }
    Ok(match name {
        "server" => {
            let names: Vec<String> = matches.get_many("name").context("it is required")?.cloned().collect();
            authority.issue_server(&names, validity(matches, LEAF_DAYS))?
        }
        "device" => {
            let ids: Vec<&DeviceId> = matches.get_many("id").context("it is required")?.collect();
            let ids: Vec<DeviceIdRef<'_>> = ids.iter().map(|id| DeviceIdRef::parse(id.as_str())).collect::<Result<_, _>>()?;
            authority.issue_devices(&ids, validity(matches, LEAF_DAYS))?
        }
        "renew" if matches.get_flag("crl") => authority.refresh_crl()?,
        "renew" => {
            let which = named(matches, matches.get_flag("ca"))?;
            let default = if which == Which::Ca { CA_DAYS } else { LEAF_DAYS };
            let old = if matches.get_flag("revoke-old") { Old::Revoke } else { Old::Keep };
            authority.renew(&which, validity(matches, default), old)?
        }
        "revoke" => authority.revoke(&named(matches, false)?)?,
        _ => unreachable!("clap demands one of the above"),
    })
}

fn validity(matches: &ArgMatches, default: u64) -> Duration {
    let days = matches.get_one::<u64>("days").copied().unwrap_or(default);
    Duration::from_secs(days.saturating_mul(SECONDS_PER_DAY))
}

fn named(matches: &ArgMatches, ca: bool) -> anyhow::Result<Which> {
    if ca {
        return Ok(Which::Ca);
    }
    if matches.get_flag("server") {
        return Ok(Which::Server);
    }
    let device = matches.get_one::<DeviceId>("device").cloned().map(Which::Device);
    device
        .or_else(|| matches.get_one::<Serial>("serial").cloned().map(Which::Serial))
        .context("clap demands one of the above")
}

fn list(folder: &Path, matches: &ArgMatches, json: bool) -> anyhow::Result<ExitCode> {
    let days = matches.get_one::<u64>("soon").copied().unwrap_or(SOON_DAYS);
    let soon = Duration::from_secs(days.saturating_mul(SECONDS_PER_DAY));
    let (authority, now) = (Authority::open(folder)?, Timestamp::now());
    certs_output::print_listing(&authority.list(now, soon), folder, json)?;
    let nobody_connects = authority
        .expires_soon(now, soon)
        .iter()
        .any(|ending| ending.for_all && ending.at < now);
    Ok(ExitCode::from(if nobody_connects { EXIT_FAILED } else { EXIT_OK }))
}
