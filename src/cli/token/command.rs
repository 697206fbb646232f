//! The command line of `iotflow token`, and which part answers it.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::builder::PossibleValuesParser;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::cli::{DATA, Sources, runtime, with_variables};
use crate::config::parse_span;
use crate::identity::principal::Role;
use crate::identity::tokens::{DEFAULT_EXPIRY, NewToken, TokenName, Which};
use crate::observe::logging;

use super::{inspect, manage};

pub(in crate::cli) fn command() -> Command {
    let json = || {
        Arg::new("json")
            .long("json")
            .action(ArgAction::SetTrue)
            .help("JSON in place of text")
    };
    let roles = PossibleValuesParser::new(Role::ALL.map(Role::as_str));
    let create = Command::new("create")
        .about("Make a token; it is shown once, on standard output")
        .arg(
            Arg::new("name")
                .value_name("NAME")
                .required(true)
                .help("1 to 64 of A-Z a-z 0-9 _ . @ -"),
        )
        .arg(
            Arg::new("role")
                .long("role")
                .value_name("ROLE")
                .required(true)
                .value_parser(roles)
                .help("What its bearer may do"),
        )
        .arg(
            Arg::new("expires")
                .long("expires")
                .value_name("SPAN")
                .help(format!("When it ends [default: {}d]", DEFAULT_EXPIRY.as_secs() / 86_400)),
        )
        .arg(
            Arg::new("never")
                .long("never")
                .action(ArgAction::SetTrue)
                .conflicts_with("expires")
                .help("It never expires by itself"),
        )
        .arg(json());
    let list = Command::new("list").about("Show all tokens, without their secrets").arg(json());
    let revoke = Command::new("revoke")
        .about("Revoke a token; it is refused from then on")
        .arg(Arg::new("which").value_name("NAME|ID").required(true).help("Its name, or its id"));
    let inspect = Command::new("inspect")
        .about("Read a token or a JWT from standard input, and say who it is or why it is refused")
        .long_about("Reads a token or a JWT from standard input (a command line can be read by others), and says who it is, or exactly why it is refused. Nothing is noted as a use. Exits 0 if it is taken, 1 if it is refused.")
        .arg(json());
    Command::new("token")
        .about("Make, list, revoke and inspect the tokens of operators and programs")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommands([create, list, revoke, inspect].map(with_variables))
}

pub(in crate::cli) fn run(matches: &ArgMatches) -> anyhow::Result<ExitCode> {
    let (name, matches) = matches.subcommand().context("clap demands one")?;
    let config = Sources::with_installation(matches, DATA.as_ref())?.config()?;
    logging::start(&config.log)?;
    let runtime = runtime()?;
    let text = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    match name {
        "create" => {
            let expiry = match text("expires") {
                _ if matches.get_flag("never") => None,
                None => Some(DEFAULT_EXPIRY),
                Some(span) => {
                    Some(parse_span(span).with_context(|| format!("--expires {span:?}: a time span such as 12h or 90d is expected"))?)
                }
            };
            let wanted = NewToken {
                name: TokenName::parse(text("name").context("clap demands it")?)?,
                role: text("role").context("clap demands it")?.parse()?,
                expiry,
            };
            runtime.block_on(manage::create(&config, &wanted, matches.get_flag("json")))
        }
        "list" => runtime.block_on(manage::list(&config, matches.get_flag("json"))),
        "revoke" => {
            let which = Which::parse(text("which").context("clap demands it")?)?;
            runtime.block_on(manage::revoke(&config, &which))
        }
        "inspect" => runtime.block_on(inspect::run(&config, matches.get_flag("json"))),
        _ => unreachable!("clap demands one of the above"),
    }
}
