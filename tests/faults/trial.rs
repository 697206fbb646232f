//! What every fault is done to: servers, a service that is watched, a fleet that never stops.

use super::support::fleet::Fleet;
use super::support::servers::Servers;
use super::support::service::Service;
use super::support::watch::Watch;

/// A load that keeps every part busy and leaves the machine room for the fault.
const LOAD: [[&str; 2]; 4] = [["--devices", "200"], ["--rate", "3000"], ["--qos", "1"], ["--connections", "4"]];

/// See the module's documentation.
pub(crate) struct Trial {
    pub(crate) servers: Servers,
    pub(crate) watch: Watch,
}

impl Trial {
    pub(crate) async fn start() -> Self {
        Self::on(Servers::start().await)
    }

    pub(crate) fn on(servers: Servers) -> Self {
        Self {
            servers,
            watch: Watch::default(),
        }
    }

    /// A service that is ready, and watched.
    pub(crate) async fn service(&self) -> Service {
        self.service_with(&[]).await
    }

    /// The same, with these variables changed.
    pub(crate) async fn service_with(&self, changes: &[(&str, &str)]) -> Service {
        let service = self.service_soon(changes).await;
        service.until_ready().await;
        service
    }

    /// A service that listens, whether or not it is ready yet.
    pub(crate) async fn service_soon(&self, changes: &[(&str, &str)]) -> Service {
        let service = Service::start(self.servers.path(), &with(self.servers.environment(), changes)).await;
        self.watch.follow(&service);
        service
    }

    /// A fleet that publishes for so many seconds; `arguments` go before those of the usual load.
    pub(crate) fn fleet(&self, seconds: u64, arguments: &[&str]) -> Fleet {
        let seconds = seconds.to_string();
        let url = self.servers.postgres.url();
        let usual = LOAD.iter().filter(|[name, _]| !arguments.contains(name)).flatten().copied();
        let all: Vec<&str> = usual.chain(["--duration", &seconds]).chain(arguments.iter().copied()).collect();
        Fleet::start(self.servers.mqtt_port, url.reveal(), &all)
    }
}

/// Variables, some of them changed.
pub(crate) fn with(mut environment: Vec<(String, String)>, changes: &[(&str, &str)]) -> Vec<(String, String)> {
    environment.retain(|(name, _)| !changes.iter().any(|(changed, _)| changed == name));
    environment.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    environment
}
