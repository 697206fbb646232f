//! `generate-device`: a device is registered, gets its credentials, and the line with which to try them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::bail;
use clap::{Arg, ArgAction, Command};
use serde_json::json;

use crate::broker::certs::authority::Authority;
use crate::cli::installation::certificates::LEAF_VALIDITY;
use crate::cli::installation::folder::replace;
use crate::cli::runtime;
use crate::devices::registry;
use crate::identity::audit::Action;
use crate::identity::users;
use crate::protocol::id::{DeviceIdRef, Username};
use crate::protocol::rights::Role;

use super::Asked;
use super::access::Registry;
use super::login::{Login, Proof};
use super::users::{password_for, with_password};

pub(super) fn command() -> Command {
    with_password(
        Command::new("generate-device")
            .about("Register a device, and make its credentials")
            .arg(Arg::new("device").required(true).value_name("ID"))
            .arg(
                Arg::new("certificate")
                    .long("certificate")
                    .action(ArgAction::SetTrue)
                    .conflicts_with_all(["password", "password-file", "password-stdin"])
                    .help("A certificate in the place of a password"),
            )
            .arg(
                Arg::new("output")
                    .long("output")
                    .value_name("FOLDER")
                    .default_value(".")
                    .help("Where device_credentials_ID.txt goes"),
            ),
    )
}

pub(super) fn generate(asked: &Asked<'_>) -> anyhow::Result<ExitCode> {
    let id = asked.text("device");
    let device = DeviceIdRef::parse(id)?;
    let by_certificate = asked.matches.get_flag("certificate");
    let username = if by_certificate {
        Username::parse(id)
    } else {
        Username::with_password(id)
    }?;
    let file = Path::new(asked.text("output")).join(format!("device_credentials_{username}.txt"));
    if file.exists() {
        bail!(
            "{} is there already: the device has its credentials (iotflow broker rotate {username} gives it another password)",
            file.display()
        );
    }
    let (proof, hash) = if by_certificate {
        let certs = asked.installation()?.0.broker().certs();
        (
            Proof::Certificate(devices_file(&certs, id, "pem"), devices_file(&certs, id, "key")),
            None,
        )
    } else {
        let (password, hash, _) = password_for(asked, &username)?;
        (Proof::Password(password), Some(hash))
    };
    runtime()?.block_on(async {
        let mut registry = Registry::open(asked).await?;
        let certs = registry.installation.broker().certs();
        let login = Login::new(&registry, username.clone(), proof)?;
        let clients = registry.installation.data.join("clients").join(username.as_str());
        let (_, in_force) = registry
            .change(Action::DeviceCreate, &username, async |transaction| {
                registry::register(transaction, device).await?;
                users::create(transaction, &username, Role::Device, hash.as_ref().map(|hash| hash.as_str())).await?;
                // Before the commit: a device whose credentials could not be written down would have none.
                replace(&file, &login.variables())?;
                login.write_options(&clients)?;
                // Last, for nothing takes a certificate back but a revocation.
                if by_certificate {
                    Authority::open(&certs)?.issue_device(device, LEAF_VALIDITY)?;
                }
                Ok(())
            })
            .await?;
        let line = login.line(&asked.data.join("clients").join(username.as_str()));
        let mut answer = login.json();
        answer["status"] = json!("success");
        answer["credentials_file"] = json!(file);
        answer["try"] = json!(line);
        asked.answer(
            &format!(
                "Registered the device {username}; {}\n  credentials in {}\n  try it:\n    {line}",
                in_force.words(),
                file.display()
            ),
            &answer,
        );
        Ok(in_force.exit())
    })
}

/// Where the authority puts a device's certificate and key. A user's name begins with no dot or hyphen, so it is as it is.
fn devices_file(certs: &Path, id: &str, ending: &str) -> PathBuf {
    certs.join("devices").join(format!("{id}.{ending}"))
}
