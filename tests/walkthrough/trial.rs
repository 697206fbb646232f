//! An installation whose broker obeys its database, with listeners for TLS, and an operator at its API.

use std::path::PathBuf;

use iotflow::identity::audit::Actor;
use iotflow::identity::principal::Role as ApiRole;
use iotflow::identity::tokens::{self, NewToken, TokenName};
use iotflow::protocol::rights::Role;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::eventually;
use crate::support::http::Api;
use crate::support::servers::{PASSWORD, SERVICE, connect, environment};
use crate::support::service::Service;
use crate::support::site::Site;

/// The user that looks over the operators' shoulders: everything, at the broker.
pub const ADMIN: &str = "ann";
/// The user that devices without credentials share.
pub const NEWCOMER: &str = "newcomer";

/// See the module's documentation.
pub struct Trial {
    pub service: Service,
    pub operator: Api,
    pub admin: Api,
    pub site: Site,
}

/// How somebody logs in at the broker, and at the API.
#[derive(Debug, Clone)]
pub struct Login {
    pub username: String,
    pub password: String,
    pub api_key: Option<String>,
}

impl Login {
    fn of_test(username: &str) -> Self {
        Self {
            username: username.to_owned(),
            password: PASSWORD.to_owned(),
            api_key: None,
        }
    }

    pub fn admin() -> Self {
        Self::of_test(ADMIN)
    }

    pub fn newcomer() -> Self {
        Self::of_test(NEWCOMER)
    }

    /// What was given as `{"username":…,"password":…}`.
    pub fn given(credentials: &Value) -> Self {
        let text = |name: &str| credentials[name].as_str().unwrap_or_else(|| panic!("no {name}")).to_owned();
        Self {
            username: text("username"),
            password: text("password"),
            api_key: None,
        }
    }
}

impl Trial {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further variables for the service.
    pub async fn with(variables: &[(&str, &str)]) -> Self {
        let site = Site::with_certificates().await;
        site.add(&[(SERVICE, Role::Service), (ADMIN, Role::Admin), (NEWCOMER, Role::Provisioning)])
            .await;
        site.in_force().await;
        let service = serve(&site, variables).await;
        let mut sql = connect(site.db.url.reveal()).await;
        let operator = Api::new(&service.address, Some(&token(&mut sql, ApiRole::Operator).await));
        let admin = Api::new(&service.address, Some(&token(&mut sql, ApiRole::Admin).await));
        Self {
            service,
            operator,
            admin,
            site,
        }
    }

    /// Stops the service and starts another, to which the broker has kept no session.
    pub async fn start_anew(&mut self) {
        self.service.terminate().await;
        let session = self.site.staff(SERVICE, "iotflow-ingest-status").await;
        session.leave().await;
        self.service = serve(&self.site, &[]).await;
        self.operator.address.clone_from(&self.service.address);
        self.admin.address.clone_from(&self.service.address);
    }

    /// Where the authority's certificate is, which clients trust.
    pub fn ca_cert(&self) -> PathBuf {
        self.site.paths.certs().join("ca.pem")
    }

    /// Registers a device with credentials for the broker and for HTTP, and waits until they are in force.
    pub async fn register(&self, device: &str, tags: &[&str]) -> Login {
        let asked = json!({"device_id": device, "tags": tags, "credentials": {"mqtt": true, "api_key": true}});
        let answer = self.operator.post("/api/v1/devices", asked).await;
        assert_eq!(answer.status, 201);
        let credentials = &answer.ok()["credentials"];
        self.site.in_force().await;
        Login {
            api_key: Some(credentials["api_key"].as_str().expect("it asked for a key").to_owned()),
            ..Login::given(&credentials["mqtt"])
        }
    }

    /// Waits until operators are told that the device is so.
    pub async fn until_presence(&self, device: &str, status: &str) -> Value {
        eventually(&format!("{device} is {status}"), async || {
            let presence = self.operator.get(&format!("/api/v1/devices/{device}/presence")).await;
            (presence.status == 200 && presence.json()["presence"]["status"] == status).then(|| presence.ok()["presence"].clone())
        })
        .await
    }

    /// Gives a command, and its id.
    pub async fn send(&self, device: &str, command: &Value) -> String {
        let sent = self
            .operator
            .post(&format!("/api/v1/mqtt/device/{device}/command"), command.clone())
            .await;
        sent.ok()["command_id"].as_str().expect("an id").to_owned()
    }

    /// A command as its history tells it, with its deliveries.
    pub async fn command(&self, id: &str) -> Value {
        self.operator.get(&format!("/api/v1/commands/{id}")).await.ok()
    }

    /// Waits until a command is in this state.
    pub async fn until_state(&self, id: &str, state: &str) -> Value {
        eventually(&format!("{id} is {state}"), async || {
            let shown = self.command(id).await;
            (shown["command"]["state"] == state).then_some(shown)
        })
        .await
    }
}

async fn serve(site: &Site, variables: &[(&str, &str)]) -> Service {
    let mut environment = environment(site.ports.staff, site.db.url.reveal());
    environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    Service::ready(site.folder.path(), &environment).await
}

async fn token(sql: &mut Client, role: ApiRole) -> String {
    let wanted = NewToken {
        name: TokenName::parse(role.as_str()).expect("a name"),
        role,
        expiry: None,
    };
    let created = tokens::create(sql, &Actor::new("test", "test"), &wanted).await.expect("it is made");
    created.secret.reveal().to_owned()
}
