//! A service with its servers, and somebody of each role.

use iotflow::identity::audit::Actor;
use iotflow::identity::principal::Role;
use iotflow::identity::tokens::{self, NewToken, TokenName};
use tokio_postgres::Client;

use super::support::http::Api;
use super::support::servers::Servers;
use super::support::service::Service;

/// See the module's documentation.
pub(crate) struct Trial {
    pub(crate) service: Service,
    pub(crate) servers: Servers,
    pub(crate) admin: Api,
    pub(crate) operator: Api,
    pub(crate) viewer: Api,
    pub(crate) nobody: Api,
}

impl Trial {
    pub(crate) async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With further variables for the service.
    pub(crate) async fn with(variables: &[(&str, &str)]) -> Self {
        Self::on(Servers::start().await, variables).await
    }

    /// The same, on these servers.
    pub(crate) async fn on(servers: Servers, variables: &[(&str, &str)]) -> Self {
        let mut environment = servers.environment();
        environment.extend(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let service = Service::ready(servers.path(), &environment).await;
        let mut sql = servers.sql().await;
        let api = async |sql: &mut Client, role| Api::new(&service.address, Some(&token(sql, role).await));
        Self {
            admin: api(&mut sql, Role::Admin).await,
            operator: api(&mut sql, Role::Operator).await,
            viewer: api(&mut sql, Role::Viewer).await,
            nobody: Api::new(&service.address, None),
            service,
            servers,
        }
    }

    /// Somebody of this role.
    pub(crate) fn of_role(&self, role: Role) -> &Api {
        match role {
            Role::Admin => &self.admin,
            Role::Operator => &self.operator,
            Role::Viewer => &self.viewer,
        }
    }
}

async fn token(sql: &mut Client, role: Role) -> String {
    let wanted = NewToken {
        name: TokenName::parse(role.as_str()).expect("a name"),
        role,
        expiry: None,
    };
    let created = tokens::create(sql, &Actor::new("test", "test"), &wanted).await.expect("it is made");
    created.secret.reveal().to_owned()
}
