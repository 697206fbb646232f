//! Where the broker runs: in an installation on this machine, or in the containers of Compose. What differs between the two is
//! here, in `compose`, and nowhere else.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ArgMatches;
use clap::parser::ValueSource;

use crate::broker::conf::{Kind, Listener};
use crate::cli::Sources;
use crate::cli::installation::folder::{Installation, Settings};
use crate::cli::installation::servers::SERVICE;
use crate::config::Config;

use super::Asked;
use super::compose::Compose;

/// Where docker-compose.yml publishes its listeners.
const PUBLISHED: [(Kind, u16); 3] = [(Kind::Staff, 1884), (Kind::Plain, 1883), (Kind::WebSockets, 9001)];
/// Where it publishes the database.
const DATABASE: &str = "127.0.0.1:5432/iotflow";

/// See the module's documentation.
pub(super) enum Place {
    /// In the data folder.
    Local,
    /// In containers.
    Compose(Compose),
}

impl Place {
    /// What `--compose` says; without it, Compose where no data folder is named, none is there, and Compose's secrets are made.
    pub(super) fn of(matches: &ArgMatches, data: &Path) -> anyhow::Result<Self> {
        let named = matches.try_get_one::<PathBuf>("compose").ok().flatten();
        if let Some(folder) = named {
            if !Compose::describes(folder) {
                bail!(
                    "there is no docker-compose.yml in {}; --compose=FOLDER says where it is",
                    folder.display()
                );
            }
            return Ok(Self::Compose(Compose::new(folder)));
        }
        let here = Path::new(".");
        let compose = Compose::new(here);
        // A verb that does not take the flag is not Compose's either, nor is who names a data folder.
        let open = matches.try_contains_id("compose").is_ok() && matches.value_source("data") != Some(ValueSource::CommandLine);
        if open && !data.join("broker.json").exists() && Compose::describes(here) && compose.is_set_up() {
            return Ok(Self::Compose(compose));
        }
        Ok(Self::Local)
    }
}

impl Asked<'_> {
    /// The installation and what it was told. Of Compose, what docker-compose.yml says in the same terms.
    pub(super) fn installation(&self) -> anyhow::Result<(Installation, Settings)> {
        let Place::Compose(compose) = &self.place else {
            let installation = Installation::open(&self.data)?;
            let settings = installation.settings()?.context("it is there")?;
            return Ok((installation, settings));
        };
        compose.must_be_set_up()?;
        let listener = |(kind, port)| Listener {
            kind,
            address: "127.0.0.1".to_owned(),
            port,
        };
        let installation = Installation {
            data: self.data.clone(),
            servers: self.data.clone(),
        };
        let settings = Settings {
            listeners: PUBLISHED.map(listener).to_vec(),
            // The containers take nothing from this environment.
            ..Settings::usual(&Config::default().ingest.base_topic, false)
        };
        Ok((installation, settings))
    }

    /// The configuration, with the broker and the database of the place where no others are named.
    pub(super) fn sources(&self) -> anyhow::Result<Sources> {
        match &self.place {
            Place::Local => Sources::with_installation(self.matches, &self.data),
            Place::Compose(compose) => Sources::with_known(self.matches, variables(compose)?),
        }
    }

    /// What to do where the place's database is not there.
    pub(super) fn how_to_start(&self) -> &'static str {
        match &self.place {
            Place::Local => "./mqtt_manage.sh start",
            Place::Compose(_) => "docker compose up --detach --wait",
        }
    }
}

/// How everybody on this machine reaches the containers.
fn variables(compose: &Compose) -> anyhow::Result<HashMap<String, String>> {
    let staff = PUBLISHED[0].1;
    let password = compose.secret("timescaledb/iotflow-database-password")?;
    let variables = [
        ("MQTT_HOST", "127.0.0.1".to_owned()),
        ("MQTT_PORT", staff.to_string()),
        ("MQTT_USERNAME", SERVICE.to_owned()),
        ("MQTT_PASSWORD", compose.secret("iotflow/mqtt-password")?.reveal().to_owned()),
        ("DATABASE_URL", format!("postgres://iotflow:{}@{DATABASE}", password.reveal())),
    ];
    Ok(variables.map(|(name, value)| (name.to_owned(), value)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_compose_publishes_is_where_it_is_looked_for() {
        let compose = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml");
        let compose = std::fs::read_to_string(compose).expect("it is there");
        for (_, port) in PUBLISHED {
            assert!(compose.contains(&format!("\"127.0.0.1:{port}:{port}\"")), "{port}");
        }
        let (place, name) = DATABASE.split_once('/').expect("a place and a name");
        let port = place.rsplit_once(':').expect("an address and a port").1;
        assert!(compose.contains(&format!("\"{place}:{port}\"")) && compose.contains(&format!("POSTGRES_DB: {name}\n")));
    }
}
