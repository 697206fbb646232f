//! Answers without an end that is known beforehand: exports and live tails. They have places of their own, and a stop ends them.

use std::io;
use std::sync::Arc;

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::{StreamExt as _, stream};
use hyper::body::Body as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::error::{Kind, Problem};

/// Of all connections, every how-many-th may be a stream: the others are for requests that are answered and gone.
const PART_OF_CONNECTIONS: usize = 4;
/// When to come again where all places are taken, in seconds.
const COME_AGAIN: u64 = 5;

/// On an answer that ends by itself at a stop, having said so, and of which nothing may be lost until then.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndsItself;

impl EndsItself {
    /// Whether an answer does.
    pub(super) fn is_on(answer: &Response) -> bool {
        answer.extensions().get::<Self>().is_some()
    }
}

/// The places of streams.
#[derive(Debug)]
pub(super) struct Streams {
    places: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Streams {
    /// A part of so many connections.
    pub(super) fn new(connections: usize, stop: CancellationToken) -> Self {
        Self {
            places: Arc::new(Semaphore::new((connections / PART_OF_CONNECTIONS).max(1))),
            stop,
        }
    }

    /// The answer as it is, with a place where it is a stream; a refusal where there is none.
    pub(super) fn admit(&self, answer: Response) -> Response {
        if answer.body().size_hint().exact().is_some() {
            return answer;
        }
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            return Problem::new(
                Kind::Unavailable,
                "too many exports and live tails are being read already; try again",
            )
            .retry_after(COME_AGAIN)
            .into_response();
        };
        // And so does a live tail.
        let is_tail = answer.headers().get(CONTENT_TYPE).is_some_and(|kind| kind == "text/event-stream");
        let ends_itself = is_tail || EndsItself::is_on(&answer);
        let stop = self.stop.clone();
        answer.map(|body| {
            let bytes = stream::unfold(Some((body.into_data_stream(), place)), move |state| {
                let stop = stop.clone();
                async move {
                    let (mut bytes, place) = state?;
                    let next = tokio::select! {
                        biased;
                        () = stop.cancelled(), if !ends_itself => Err(io::Error::other("the service is stopping")),
                        next = bytes.next() => next?.map_err(io::Error::other),
                    };
                    let rest = next.is_ok().then_some((bytes, place));
                    Some((next, rest))
                }
            });
            Body::from_stream(bytes)
        })
    }
}
