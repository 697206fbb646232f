//! The router, on one page, and the listener behind it.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::lifecycle::readiness::Readiness;
use crate::observe::accounting::Accounting;
use crate::observe::metrics::Metrics;

use super::{health, metrics};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address, loopback unless told otherwise: the pages ask for no credential.
    pub host: String,
    /// TCP port; 0 takes a free one.
    pub port: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
        }
    }
}

/// The bound door, not open yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    router: Router,
}

/// Binds the door.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(config: &Config, readiness: Readiness, exposed: (Arc<Metrics>, Arc<Accounting>)) -> std::io::Result<Server> {
    let listener = TcpListener::bind((config.host.as_str(), config.port)).await?;
    let exposed = metrics::Exposed {
        metrics: exposed.0,
        accounting: exposed.1,
    };
    let health = Router::new()
        .route("/livez", get(health::live))
        .route("/readyz", get(health::ready))
        .route("/healthz", get(health::ready))
        .with_state(readiness);
    let metrics = Router::new()
        .route("/metrics/qos", get(metrics::qos))
        .route("/metrics", get(metrics::rest))
        .with_state(exposed);
    Ok(Server {
        listener,
        router: health.merge(metrics),
    })
}

impl Server {
    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until `stop`, and then what it is at.
    pub async fn run(self, stop: CancellationToken) {
        let served = axum::serve(self.listener, self.router)
            .with_graceful_shutdown(stop.cancelled_owned())
            .await;
        if let Err(error) = served {
            error!(%error, "the HTTP listener failed");
        }
    }
}
