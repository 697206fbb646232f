//! A service with a broker and somebody who knows no more than the shared credential, and somebody who decides.

use std::process::{Command, Output};
use std::time::Duration;

use iotflow::identity::audit::Actor;
use iotflow::identity::principal::Role as ApiRole;
use iotflow::identity::tokens::{self, NewToken, TokenName};
use iotflow::mqtt::config::Config as MqttConfig;
use iotflow::protocol::rights::Role;
use rumqttc::v5::mqttbytes::v5::PubAckReason;
use serde_json::Value;

use super::support::eventually;
use super::support::http::Api;
use super::support::judge::number;
use super::support::person::{Person, login};
use super::support::servers::{PASSWORD, SERVICE, connect, environment};
use super::support::service::Service;
use super::support::site::{Site, tls};

/// The user that devices without credentials share.
pub const NEWCOMER: &str = "newcomer";

/// See the module's documentation.
pub struct Trial {
    pub service: Service,
    pub site: Site,
    pub operator: Api,
    environment: Vec<(String, String)>,
}

impl Trial {
    pub async fn start(provisioning: Role, variables: &[(&str, &str)]) -> Self {
        let site = Site::with_certificates().await;
        site.add(&[(SERVICE, Role::Service), (NEWCOMER, provisioning)]).await;
        site.in_force().await;
        let mut environment = environment(site.ports.staff, site.db.url.reveal());
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let service = Service::ready(site.folder.path(), &environment).await;
        let mut sql = connect(site.db.url.reveal()).await;
        let wanted = NewToken {
            name: TokenName::parse("desk").expect("a name"),
            role: ApiRole::Operator,
            expiry: None,
        };
        let token = tokens::create(&mut sql, &Actor::new("test", "test"), &wanted)
            .await
            .expect("it is made");
        let operator = Api::new(&service.address, Some(token.secret.reveal()));
        Self {
            service,
            site,
            operator,
            environment,
        }
    }

    /// Starts the service that was ended.
    pub async fn start_again(&mut self) {
        self.service = Service::ready(self.site.folder.path(), &self.environment).await;
    }

    /// A device that knows the shared credential only, on an encrypted connection or a plain one.
    pub async fn newcomer(&self, encrypted: bool) -> Person {
        let config = MqttConfig {
            // It says nothing while the test waits for something else.
            keep_alive: Duration::from_secs(3_600),
            ..self.way_in(encrypted, (NEWCOMER, PASSWORD))
        };
        Person::connect(&config, NEWCOMER)
            .await
            .expect("the shared credential is good here")
    }

    pub fn way_in(&self, encrypted: bool, who: (&str, &str)) -> MqttConfig {
        if encrypted {
            MqttConfig {
                tls: Some(tls(&self.site.paths, None)),
                ..login(self.site.ports.tls, Some(who))
            }
        } else {
            login(self.site.ports.plain, Some(who))
        }
    }

    /// `iotflow discovery …` at the database of this trial.
    pub fn cli(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_iotflow"))
            .arg("discovery")
            .args(arguments)
            .env("DATABASE_URL", self.site.db.url.reveal())
            .current_dir(self.site.folder.path())
            .output()
            .expect("it runs")
    }
}

pub fn register(device: &str) -> String {
    format!("iotflow/discovery/register/{device}")
}

pub fn response(device: &str) -> String {
    format!("iotflow/discovery/response/{device}")
}

/// Asks, and takes the answer.
pub async fn ask(person: &mut Person, device: &str, says: &Value) -> Value {
    let taken = person.publish(&register(device), &says.to_string()).await.expect("it is connected");
    assert_eq!(taken, PubAckReason::Success);
    answer(person, device).await
}

pub async fn answer(person: &mut Person, device: &str) -> Value {
    let answer: Value = serde_json::from_str(&person.take(&response(device)).await).expect("JSON");
    assert_eq!(answer["device_id"], device, "{answer}");
    assert!(answer["timestamp"].is_string());
    answer
}

/// Logs in with what it was given, and is heard.
pub async fn is_heard(trial: &Trial, device: &str, password: &str) {
    let config = trial.way_in(true, (device, password));
    let mut person = Person::connect(&config, device).await.expect("its credentials are good");
    let taken = person.publish(&format!("iotflow/devices/{device}/telemetry"), "{\"a\":1}").await;
    assert_eq!(taken.expect("it is connected"), PubAckReason::Success);
    let sql = format!("SELECT count(*) FROM readings WHERE device = '{device}'");
    eventually(&format!("{device} is heard"), async || {
        (number(&trial.site.sql, &sql).await == 1).then_some(())
    })
    .await;
}
