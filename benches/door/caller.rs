//! A program that calls the API on a schedule, over connections that it keeps; latencies count from when a request was due.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;
use http_body_util::{BodyExt as _, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use iotflow::identity::audit::Actor;
use iotflow::identity::principal::Role;
use iotflow::identity::tokens::{self, NewToken, TokenName};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_postgres::Client;

/// Requests under way at once. Those that are due beyond wait, and their waiting counts.
const CONNECTIONS: usize = 32;

/// A request to make.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) body: String,
}

/// What came of a schedule: microseconds from due to answered, and how many were not answered with 2xx.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) latency: Histogram<u64>,
    pub(crate) failed: u64,
    pub(crate) seconds: f64,
}

impl Answered {
    pub(crate) fn words(&self) -> String {
        #[expect(clippy::cast_precision_loss, reason = "microseconds of seconds")]
        let at = |quantile: f64| self.latency.value_at_quantile(quantile) as f64 / 1e3;
        format!(
            "{} answered, {} failed, p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms, max {:.1} ms",
            self.latency.len(),
            self.failed,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0)
        )
    }
}

/// A token of an operator.
pub(crate) async fn token(sql: &mut Client) -> String {
    let wanted = NewToken {
        name: TokenName::parse("bench").expect("a name"),
        role: Role::Operator,
        expiry: None,
    };
    let created = tokens::create(sql, &Actor::new("bench", "bench"), &wanted)
        .await
        .expect("it is made");
    created.secret.reveal().to_owned()
}

/// Makes `rate` calls a second for `span`, or until `enough` says so; the n-th is `call(n)`.
pub(crate) async fn schedule(address: &str, token: &str, rate: u64, span: Duration, call: impl Fn(u64) -> Call) -> Answered {
    let latency = Arc::new(Mutex::new((Histogram::<u64>::new(3).expect("3 digits"), 0_u64)));
    let (sender, receiver) = mpsc::channel::<(Instant, Call)>(100_000);
    let receiver = Arc::new(Mutex::new(receiver));
    let begun = Instant::now();
    let workers: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (address, token) = (address.to_owned(), token.to_owned());
            let (receiver, latency) = (Arc::clone(&receiver), Arc::clone(&latency));
            tokio::spawn(async move {
                let mut connection = connect(&address).await;
                loop {
                    let Some((due, call)) = receiver.lock().await.recv().await else {
                        return;
                    };
                    let succeeded = request(&mut connection, &token, call).await;
                    let micros = u64::try_from(due.elapsed().as_micros()).expect("not for ever");
                    let mut figures = latency.lock().await;
                    figures.0.record(micros.max(1)).expect("it is auto-resized or within bounds");
                    figures.1 += u64::from(!succeeded);
                }
            })
        })
        .collect();
    let count = rate * span.as_secs();
    for number in 0..count {
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let due = begun + Duration::from_secs_f64(number as f64 / rate as f64);
        sleep_until(due).await;
        sender.send((due, call(number))).await.expect("the workers live");
    }
    drop(sender);
    for worker in workers {
        worker.await.expect("no worker panics");
    }
    let seconds = begun.elapsed().as_secs_f64();
    let (latency, failed) = Arc::into_inner(latency).expect("the workers have ended").into_inner();
    Answered { latency, failed, seconds }
}

async fn connect(address: &str) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(address).await.expect("the service listens");
    stream.set_nodelay(true).expect("a TCP socket");
    let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("it speaks HTTP");
    tokio::spawn(async move { drop(connection.await) });
    sender
}

async fn request(connection: &mut SendRequest<Full<Bytes>>, token: &str, call: Call) -> bool {
    let request = Request::builder()
        .method(call.method)
        .uri(call.path)
        .header("host", "bench")
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::from(call.body))
        .expect("a sound request");
    connection.ready().await.expect("the service keeps the connection");
    let answer = connection.send_request(request).await.expect("it answers");
    let status = answer.status();
    answer.into_body().collect().await.expect("it answers whole");
    status.is_success()
}
