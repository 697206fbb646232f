//! The listener: connections in, each bounded in time and number, and drained when the service stops.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, warn};

use super::connection::{Place, Places, Wire};
use super::error::{Kind, Problem};
use super::routes;
use super::state::{Desk, Parts};
use super::streams::EndsItself;

/// The longest wait for a request's headers: who sends them byte by byte holds a connection no longer than this.
const HEADERS_WITHIN: Duration = Duration::from_secs(15);
/// How often callers who have gone are forgotten.
const UPKEEP_EVERY: Duration = Duration::from_secs(60);
/// After a failed accept, which is mostly a want of descriptors that others are about to give back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Connections, beside all others, that are told at once that there is no place.
const MOST_REFUSALS: usize = 64;
/// And how long each may take.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);

/// Where to listen, and what is too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Address, loopback unless told otherwise.
    pub host: String,
    /// TCP port; 0 takes a free one.
    pub port: u16,
    /// Connections to the database for requests.
    pub connections: usize,
    /// Requests a second that one caller may make; 0 limits nothing.
    pub rate: u32,
    /// Wrong credentials from one address within a minute after which none from there is looked at for a minute; 0 locks nobody out.
    pub most_failures: u32,
    /// The largest body, in bytes.
    pub max_body_bytes: usize,
    /// The longest that a request may take, beside what a command's `wait` asks for. What streams is not bound by it once it has begun.
    pub timeout: Duration,
    /// HTTP connections at once.
    pub max_connections: usize,
    /// Proxies whose X-Forwarded-For is believed.
    pub trusted_proxies: Vec<IpAddr>,
    /// Where devices reach the broker, as they are told; where we reach it, where nothing is said.
    pub broker_urls: BrokerUrls,
}

/// Addresses of the broker, such as `mqtts://broker.example.org:8883`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BrokerUrls(pub Vec<String>);

/// Why a text is no list of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "addresses such as mqtts://broker.example.org:8883 are expected, parted by commas; the schemes are mqtt, mqtts, ws and wss, and none holds a password"
)]
pub struct BadBrokerUrls;

impl std::str::FromStr for BrokerUrls {
    type Err = BadBrokerUrls;

    fn from_str(text: &str) -> Result<Self, BadBrokerUrls> {
        let url = |url: &str| {
            let url = url.trim();
            let (scheme, rest) = url.split_once("://").ok_or(BadBrokerUrls)?;
            let known = ["mqtt", "mqtts", "ws", "wss"].contains(&scheme);
            let plain = !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@');
            if known && plain { Ok(url.to_owned()) } else { Err(BadBrokerUrls) }
        };
        text.split(',').map(url).collect::<Result<_, _>>().map(Self)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: 8080,
            connections: 8,
            // Far above what a person does, and above a program that sends a thousand commands a second.
            rate: 2_000,
            // A person who pastes the wrong token a few times stays below; who guesses 256 bits needs more attempts than there are.
            most_failures: 20,
            max_body_bytes: 2 * 1024 * 1024,
            timeout: Duration::from_secs(75),
            max_connections: 1_024,
            trusted_proxies: Vec::new(),
            broker_urls: BrokerUrls::default(),
        }
    }
}

impl Config {
    /// What is wrong with these values, each with the variable that sets it.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if !(1..=1_000).contains(&self.connections) {
            faults.push("API_CONNECTIONS is out of range; 1 to 1000 is expected".to_owned());
        }
        if !(1_024..=1_073_741_824).contains(&self.max_body_bytes) {
            faults.push("API_MAX_BODY_BYTES is out of range; 1024 to 1073741824 is expected".to_owned());
        }
        if self.timeout < Duration::from_secs(1) {
            faults.push("API_TIMEOUT is below a second".to_owned());
        }
        if self.max_connections == 0 {
            faults.push("API_MAX_CONNECTIONS is 0; 1 or more is expected".to_owned());
        }
        faults
    }
}

/// The bound door, not open yet.
#[derive(Debug)]
pub struct Door {
    listener: TcpListener,
    config: Config,
}

/// Binds the door.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(config: &Config) -> std::io::Result<Door> {
    let listener = TcpListener::bind((config.host.as_str(), config.port)).await?;
    Ok(Door {
        listener,
        config: config.clone(),
    })
}

/// Where a listener is found from the machine it runs on: one that listens everywhere, on loopback.
#[must_use]
pub fn from_here(listener: SocketAddr) -> SocketAddr {
    let loopback = match listener.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(loopback, listener.port())
}

impl Door {
    /// Where it listens.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the service stops, and then what it is at, unless it is told to hang up.
    pub async fn run(self, parts: Parts, hang_up: CancellationToken) {
        let stop = parts.tasks.stop_token();
        let places = Places::new(self.config.max_connections);
        let refusals = Arc::new(Semaphore::new(MOST_REFUSALS));
        let desk = Desk::new(parts, self.config);
        let router = routes::router(desk.clone());
        let graceful = GracefulShutdown::new();
        let mut upkeep = tokio::time::interval(UPKEEP_EVERY);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                _ = upkeep.tick() => {
                    desk.guard.upkeep();
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match places.admit() {
                    Some(place) => serve(stream, peer, &router, &graceful, place),
                    None => refuse(stream, &refusals),
                },
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        places.end_idle();
        tokio::select! {
            () = graceful.shutdown() => {}
            () = hang_up.cancelled() => {
                warn!("some requests were not answered in the time that a stop has");
                places.end_all();
            }
        }
    }
}

fn serve(stream: TcpStream, peer: SocketAddr, router: &Router, graceful: &GracefulShutdown, place: Place) {
    let (router, pace) = (router.clone(), Arc::clone(place.pace()));
    let service = hyper::service::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let (router, pace) = (router.clone(), Arc::clone(&pace));
        let mut request = request.map(|body| Body::new(pace.begins(body)));
        request.extensions_mut().insert(ConnectInfo(peer));
        async move {
            let answer = router.oneshot(request).await?;
            let to_its_end = EndsItself::is_on(&answer);
            Ok::<_, Infallible>(answer.map(|body| pace.answers(body, to_its_end)))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .serve_connection(TokioIo::new(Wire::new(stream, Arc::clone(place.pace()))), service);
    let connection = graceful.watch(connection);
    // Watched until it ends: a stop waits for it. What goes wrong in one is its client's affair.
    tokio::spawn(async move {
        let ended = tokio::select! {
            ended = connection => ended,
            () = place.pace().given_up() => {
                debug!(%peer, "a connection gave way, or was cut at a stop");
                return;
            }
        };
        if let Err(error) = ended {
            debug!(%error, %peer, "a connection ended early");
        }
    });
}

/// Tells a newcomer for whom there is no place to come again. Where too many are being told that already, it is not told.
fn refuse(stream: TcpStream, refusals: &Arc<Semaphore>) {
    let Ok(place) = Arc::clone(refusals).try_acquire_owned() else {
        return;
    };
    let service = hyper::service::service_fn(async |request: hyper::Request<hyper::body::Incoming>| {
        let problem = Problem::new(Kind::Unavailable, "all connections are in use (API_MAX_CONNECTIONS); try again").retry_after(1);
        Ok::<_, Infallible>(problem.render(Some(request.uri().path()), None))
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // Nobody waits for it: not told is not told.
    tokio::spawn(async move {
        let _place = place;
        drop(tokio::time::timeout(REFUSED_WITHIN, connection).await);
    });
}
