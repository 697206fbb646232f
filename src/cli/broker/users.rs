//! `setup-admin`, `create-user`, `delete-user`, `list-users`, `rotate`, `disable`, `enable`.

use std::io::Read as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Arg, ArgAction, Command};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde_json::json;

use crate::broker::certs::authority::Authority;
use crate::broker::certs::error::AuthorityError;
use crate::broker::certs::index::{Record, Which};
use crate::broker::passwords::{self, Hash};
use crate::cli::{EXIT_OK, runtime};
use crate::devices::registry;
use crate::identity::audit::{self, Act, Action, Actor, Outcome};
use crate::identity::users;
use crate::observe::secret::Secret;
use crate::operations::credentials;
use crate::protocol::id::{DeviceIdRef, Username};
use crate::protocol::rights::Role;

use super::Asked;
use super::access::Registry;

/// The admin of `setup-admin`.
const ADMIN: &str = "admin";

pub(super) fn commands() -> Vec<Command> {
    let user = || Arg::new("user").required(true).value_name("USER");
    vec![
        with_password(Command::new("setup-admin").about("Give the admin a password: the one given, or a random one, shown once")),
        with_password(Command::new("create-user").about("Add a user of the broker").arg(user())).arg(
            Arg::new("role")
                .long("role")
                .default_value("device")
                .help("device, admin, fleet, provisioning, or provisioning-plain (without TLS): what the user may read and write"),
        ),
        Command::new("delete-user").about("Remove a user; it is disconnected").arg(user()),
        Command::new("list-users").about("List the users of the broker"),
        with_password(
            Command::new("rotate")
                .about("Give a user another password; it is disconnected")
                .arg(user()),
        ),
        Command::new("disable")
            .about("Shut a user out for now; it is disconnected")
            .arg(user()),
        Command::new("enable").about("Let a user in again").arg(user()),
    ]
}

/// The three ways to give a password.
pub(super) fn with_password(command: Command) -> Command {
    command
        .arg(
            Arg::new("password")
                .value_name("PASSWORD")
                .conflicts_with_all(["password-file", "password-stdin"])
                .help("The password; others can see it here while the command runs, and the shell remembers it"),
        )
        .arg(
            Arg::new("password-file")
                .long("password-file")
                .value_name("FILE")
                .help("Take the password from this file"),
        )
        .arg(
            Arg::new("password-stdin")
                .long("password-stdin")
                .action(ArgAction::SetTrue)
                .conflicts_with("password-file")
                .help("Take the password from standard input"),
        )
}

/// The password that was given, in whichever way.
pub(super) fn given(asked: &Asked<'_>) -> anyhow::Result<Option<String>> {
    let end = |text: String| text.trim_end_matches(['\r', '\n']).to_owned();
    if let Some(file) = asked.matches.get_one::<String>("password-file") {
        let text =
            std::fs::read_to_string(file).with_context(|| format!("--password-file {file:?}: a file with the password is expected"))?;
        return Ok(Some(end(text)));
    }
    if asked.matches.get_flag("password-stdin") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .context("--password-stdin: the password is expected on standard input")?;
        return Ok(Some(end(text)));
    }
    Ok(asked.matches.get_one::<String>("password").cloned())
}

/// A password for a user, its hash, and whether it was made here and so must be shown.
pub(super) fn password_for(asked: &Asked<'_>, username: &Username) -> anyhow::Result<(Secret, Hash, bool)> {
    if let Some(text) = given(asked)? {
        let password = passwords::chosen(username, &text)?;
        let hash = Hash::of_chosen(&password)?;
        return Ok((password, hash, false));
    }
    let password = passwords::generate()?;
    let hash = Hash::of_generated(&password)?;
    Ok((password, hash, true))
}

pub(super) fn setup_admin(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let username = Username::with_password(ADMIN)?;
    let (password, hash, made) = password_for(asked, &username)?;
    runtime()?.block_on(async {
        let mut registry = Registry::open(asked).await?;
        let (new, in_force) = registry
            .change(Action::UserPassword, &username, async |transaction| {
                let new = users::get(transaction, &username).await?.is_none();
                if new {
                    users::create(transaction, &username, Role::Admin, Some(hash.as_str())).await?;
                } else {
                    users::set_password(transaction, &username, Some(hash.as_str())).await?;
                }
                Ok(new)
            })
            .await?;
        let what = if new {
            "Created the user admin"
        } else {
            "Changed the password of admin"
        };
        say(
            asked,
            &format!("{what}; {}", in_force.words()),
            &username,
            made.then_some(&password),
        );
        Ok(in_force.exit())
    })
}

pub(super) fn create(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let username = Username::with_password(asked.text("user"))?;
    let role: Role = asked.text("role").parse()?;
    if role == Role::Service {
        bail!("the service's own user is made by setup");
    }
    let (password, hash, made) = password_for(asked, &username)?;
    runtime()?.block_on(async {
        let mut registry = Registry::open(asked).await?;
        let ((), in_force) = registry
            .change(Action::UserCreate, &username, async |transaction| {
                // In the order in which all take them: the device, and then who may do what.
                if role == Role::Device {
                    registry::register(transaction, DeviceIdRef::parse(username.as_str())?).await?;
                }
                Ok(users::create(transaction, &username, role, Some(hash.as_str())).await?)
            })
            .await?;
        let what = format!("Created the user {username} ({role}); {}", in_force.words());
        say(asked, &what, &username, made.then_some(&password));
        Ok(in_force.exit())
    })
}

pub(super) fn rotate(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let username = Username::with_password(asked.text("user"))?;
    let (password, hash, made) = password_for(asked, &username)?;
    runtime()?.block_on(async {
        let mut registry = Registry::open(asked).await?;
        let ((), in_force) = registry
            .change(Action::UserPassword, &username, async |transaction| {
                Ok(users::set_password(transaction, &username, Some(hash.as_str())).await?)
            })
            .await?;
        let what = format!("Changed the password of {username}; {}", in_force.words());
        say(asked, &what, &username, made.then_some(&password));
        Ok(in_force.exit())
    })
}

pub(super) fn delete(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let username = Username::parse(asked.text("user"))?;
    runtime()?.block_on(async {
        let mut registry = Registry::open(asked).await?;
        let certs = registry.installation.broker().certs();
        let actor = Actor::of_command_line();
        let ((), in_force) = registry
            .change(Action::UserDelete, &username, async |transaction| {
                credentials::remove_user(transaction, &username).await?;
                // Before the broker is told of anything: it reads the revocations along with the rest.
                for record in revoke_certificates(&certs, &username)? {
                    let act = Act::new(&actor, Action::CertificateRevoke, username.as_str(), Outcome::Done);
                    audit::record(transaction, &act.with("serial", record.serial.to_string())).await?;
                }
                Ok(())
            })
            .await?;
        say(
            asked,
            &format!("Removed the user {username}; {}", in_force.words()),
            &username,
            None,
        );
        Ok(in_force.exit())
    })
}

/// Revokes what a device has that is still good: without the user it would open the door as before.
fn revoke_certificates(certs: &Path, username: &Username) -> anyhow::Result<Vec<Record>> {
    let device = DeviceIdRef::parse(username.as_str())?.to_owned();
    let revoked = match Authority::open(certs) {
        Err(AuthorityError::None(_)) => return Ok(Vec::new()),
        authority => authority?.revoke(&Which::Device(device)),
    };
    match revoked {
        Err(AuthorityError::Unknown(_) | AuthorityError::NothingToRevoke(_)) => Ok(Vec::new()),
        revoked => Ok(revoked?.revoked),
    }
}

pub(super) fn disable(asked: &Asked<'_>, disabled: bool) -> anyhow::Result<ExitCode> {
    let username = Username::parse(asked.text("user"))?;
    let action = if disabled { Action::UserDisable } else { Action::UserEnable };
    runtime()?.block_on(async {
        let mut registry = Registry::open(asked).await?;
        let ((), in_force) = registry
            .change(action, &username, async |transaction| {
                Ok(credentials::set_user_disabled(transaction, &username, disabled).await?)
            })
            .await?;
        let what = if disabled { "Shut out the user" } else { "Let in the user" };
        say(asked, &format!("{what} {username}; {}", in_force.words()), &username, None);
        Ok(in_force.exit())
    })
}

pub(super) fn list(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let users = runtime()?.block_on(async { anyhow::Ok(users::list(&Registry::open(asked).await?.client).await?) })?;
    if asked.json {
        let users: Vec<_> = users
            .iter()
            .map(|user| {
                json!({
                    "username": user.username.as_str(), "role": user.role.as_str(), "disabled": user.disabled,
                    "password": user.password_hash.is_some(),
                    "groups": user.groups.iter().map(ToString::to_string).collect::<Vec<_>>(),
                })
            })
            .collect();
        println!("{}", json!({"status": "success", "users": users}));
        return Ok(ExitCode::from(EXIT_OK));
    }
    let mut table = Table::new();
    table
        .load_style(UTF8_FULL_CONDENSED)
        .set_header(["user", "role", "logs in with", "groups", ""]);
    for user in &users {
        table.add_row([
            user.username.to_string(),
            user.role.to_string(),
            if user.password_hash.is_some() { "password" } else { "certificate" }.to_owned(),
            user.groups.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            if user.disabled { "shut out" } else { "" }.to_owned(),
        ]);
    }
    println!("{table}");
    Ok(ExitCode::from(EXIT_OK))
}

/// Says what was done, and the password, if it was made here: there is no other place where it can be read.
fn say(asked: &Asked<'_>, what: &str, username: &Username, password: Option<&Secret>) {
    let text = match password {
        Some(password) => format!("{what}\n  password, shown this once: {}", password.reveal()),
        None => what.to_owned(),
    };
    let mut answer = json!({"status": "success", "message": what, "username": username.as_str()});
    if let Some(password) = password {
        answer["password"] = json!(password.reveal());
    }
    asked.answer(&text, &answer);
}
