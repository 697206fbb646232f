//! One connection on the wire: whose turn it is, how long its client may keep us waiting, and how it ends so that the answer arrives.
//!
//! ```text
//! accept ─► Places ─► Wire (what is not taken in time ends it; a close that loses no answer) ◄─► hyper ─► router
//!              └ all taken: whoever keeps us waiting longest gives way, else the newcomer is told to come again
//! ```
//!
//! So a crowd that reads nothing, or sends its requests byte by byte, shuts nobody out.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

/// A client that takes nothing of its answer for so long is given up. One that is merely slow takes something.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
/// Who keeps us waiting for less than this gives way to nobody: a client needs a moment to ask.
const SPARED: Duration = Duration::from_secs(1);
/// For how long the rest of a request is thrown away whose answer did not wait for it. Closed at once, the socket would take back
/// the answer from a client that is still sending (RFC 9112, 9.6).
const LINGER: Duration = Duration::from_secs(20);
/// And how much of it, in bytes.
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// Whose turn it is on a connection.
#[derive(Debug)]
pub(super) struct Pace {
    turn: Mutex<Turn>,
    given_up: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
struct Turn {
    /// Whether a request was ever read.
    asked: bool,
    /// Whether one is being answered.
    under_way: bool,
    /// Whether some of its body is still to come.
    unread: bool,
    /// Whether its answer is a stream.
    streams: bool,
    /// Whether nothing of its answer may be lost: the connection gives way to nobody then. The answer has limits of its own.
    to_its_end: bool,
    /// Since when it is the client's turn; none where it is ours.
    waits_since: Option<Instant>,
}

impl Pace {
    fn new() -> Self {
        let turn = Turn {
            asked: false,
            under_way: false,
            unread: false,
            streams: false,
            to_its_end: false,
            waits_since: Some(Instant::now()),
        };
        Self {
            turn: Mutex::new(turn),
            given_up: CancellationToken::new(),
        }
    }

    /// A request was read up to its body.
    pub(super) fn begins(self: &Arc<Self>, body: Incoming) -> Brought {
        *self.turn() = Turn {
            asked: true,
            under_way: true,
            unread: !body.is_end_stream(),
            streams: false,
            to_its_end: false,
            waits_since: None,
        };
        Brought {
            body,
            pace: Arc::clone(self),
        }
    }

    /// Its answer begins: one that is cut off anywhere or, `to_its_end`, one of which nothing may be lost.
    pub(super) fn answers(self: &Arc<Self>, body: Body, to_its_end: bool) -> Answered {
        {
            let mut turn = self.turn();
            turn.streams = body.size_hint().exact().is_none();
            turn.to_its_end = to_its_end;
        }
        Answered {
            body,
            _end: AnswerEnd(Arc::clone(self)),
        }
    }

    /// Resolves when the connection is to end, whatever it is at.
    pub(super) async fn given_up(&self) {
        self.given_up.cancelled().await;
    }

    fn waits(&self) {
        self.turn().waits_since.get_or_insert_with(Instant::now);
    }

    fn goes_on(&self) {
        let mut turn = self.turn();
        turn.waits_since = (!turn.under_way).then(Instant::now);
    }

    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request's body as it comes.
#[derive(Debug)]
pub(super) struct Brought {
    body: Incoming,
    pace: Arc<Pace>,
}

impl HttpBody for Brought {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let unread = !self.body.is_end_stream() && !matches!(polled, Poll::Ready(None));
        self.pace.turn().unread = unread;
        // Until all of it is there it is the client's turn: who sends it byte by byte keeps us waiting, too.
        if unread {
            self.pace.waits();
        } else {
            self.pace.goes_on();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer's body. With it the answer is over, but for what is still to be written.
#[derive(Debug)]
pub(super) struct Answered {
    body: Body,
    _end: AnswerEnd,
}

#[derive(Debug)]
struct AnswerEnd(Arc<Pace>);

impl Drop for AnswerEnd {
    fn drop(&mut self) {
        let mut turn = self.0.turn();
        (turn.under_way, turn.waits_since) = (false, Some(Instant::now()));
    }
}

impl HttpBody for Answered {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// All connections, and how many there may be.
#[derive(Debug)]
pub(super) struct Places {
    most: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    paces: BTreeMap<u64, Arc<Pace>>,
}

impl Places {
    /// So many.
    pub(super) fn new(most: usize) -> Arc<Self> {
        let taken = Mutex::default();
        Arc::new(Self { most, taken })
    }

    /// A place for a newcomer: a free one, or that of whoever keeps us waiting longest. None where everybody is being served.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Place> {
        let mut taken = self.taken();
        if taken.paces.len() >= self.most {
            let waiting = taken.paces.iter().filter_map(|(number, pace)| {
                let turn = *pace.turn();
                Some((turn.waits_since.filter(|_| !turn.to_its_end)?, *number))
            });
            let (_, longest) = waiting.min().filter(|(since, _)| since.elapsed() >= SPARED)?;
            taken.paces.remove(&longest)?.given_up.cancel();
        }
        let (number, pace) = (taken.next, Arc::new(Pace::new()));
        taken.next += 1;
        taken.paces.insert(number, Arc::clone(&pace));
        drop(taken);
        Some(Place {
            places: Arc::clone(self),
            number,
            pace,
        })
    }

    /// Ends those that have asked for nothing yet, and streams that are not being read: what is not polled does not hear of a stop.
    pub(super) fn end_idle(&self) {
        self.end(|turn| !turn.asked || turn.streams && !turn.to_its_end && turn.waits_since.is_some());
    }

    /// Ends all.
    pub(super) fn end_all(&self) {
        self.end(|_| true);
    }

    fn end(&self, which: impl Fn(&Turn) -> bool) {
        let taken = self.taken();
        taken
            .paces
            .values()
            .filter(|pace| which(&pace.turn()))
            .for_each(|pace| pace.given_up.cancel());
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place, free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    pace: Arc<Pace>,
}

impl Place {
    /// Whose turn it is on the connection.
    pub(super) fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.taken().paces.remove(&self.number);
    }
}

/// The socket of a connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    pace: Arc<Pace>,
    /// Runs while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs from our side's end on, and how much may still be thrown away.
    lingers: Option<(Pin<Box<Sleep>>, usize)>,
}

impl Wire {
    /// This socket.
    pub(super) fn new(stream: TcpStream, pace: Arc<Pace>) -> Self {
        Self {
            stream,
            pace,
            stalled: None,
            lingers: None,
        }
    }

    fn written(&mut self, context: &mut Context<'_>, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            self.pace.goes_on();
            return written;
        }
        self.pace.waits();
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(TAKEN_WITHIN)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Ends our side; and where the client is still sending, reads on for a while, so that it gets to read what we said.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, pace, lingers, .. } = &mut *self;
        if lingers.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
            if !pace.turn().unread {
                return Poll::Ready(Ok(()));
            }
        }
        let (until, left) = lingers.get_or_insert_with(|| (Box::pin(sleep(LINGER)), LINGER_BYTES));
        let mut thrown_away = [0; 16 * 1024];
        loop {
            if until.as_mut().poll(context).is_ready() {
                return Poll::Ready(Ok(()));
            }
            let mut into = ReadBuf::new(&mut thrown_away);
            let read = ready!(Pin::new(&mut *stream).poll_read(context, &mut into)).map(|()| into.filled().len());
            match (read, &mut *left) {
                (Ok(read @ 1..), left) if *left > read => *left -= read,
                _ => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(place: &Place, ago: Duration) {
        place.pace.turn().waits_since = Instant::now().checked_sub(ago);
    }

    #[test]
    fn who_keeps_us_waiting_longest_gives_way_and_who_is_served_does_not() {
        let places = Places::new(3);
        let (idle, longest, served) = (places.admit(), places.admit(), places.admit());
        let [idle, longest, served] = [idle, longest, served].map(|place| place.expect("there are three"));
        assert!(places.admit().is_none(), "everybody has a moment to ask");
        since(&idle, Duration::from_secs(5));
        since(&longest, Duration::from_secs(9));
        served.pace.turn().waits_since = None;
        let newcomer = places.admit().expect("somebody gives way");
        assert!(longest.pace.given_up.is_cancelled() && !idle.pace.given_up.is_cancelled());
        drop(longest);
        assert!(places.admit().is_some_and(|_| idle.pace.given_up.is_cancelled()));
        assert!(!served.pace.given_up.is_cancelled() && !newcomer.pace.given_up.is_cancelled());
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let places = Places::new(1);
        let place = places.admit();
        assert!(place.is_some() && places.admit().is_none());
        drop(place);
        assert!(places.admit().is_some());
    }
}
