//! A TCP proxy that can cut, stall and look: between a client and a server it does to the wire what a bad network does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};

/// What the proxy does with what it reads from the client.
pub type Watcher = Arc<dyn Fn(&[u8]) -> Verdict + Send + Sync>;

/// What becomes of a chunk, and of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Forward it.
    Pass,
    /// Forward it, and cut the connection before the server's answer gets back.
    PassAndCut,
}

#[derive(Default)]
struct Controls {
    cut: Notify,
    connections: AtomicU64,
    refuse: AtomicBool,
}

/// See the module's documentation.
pub struct Proxy {
    pub port: u16,
    controls: Arc<Controls>,
    stalled: [watch::Sender<bool>; 2],
}

/// The two directions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToServer,
    ToClient,
}

impl Proxy {
    /// Before the server on this port of loopback.
    pub async fn before(server_port: u16) -> Self {
        Self::watching(server_port, Arc::new(|_| Verdict::Pass)).await
    }

    /// The same, with an eye on what the client sends.
    pub async fn watching(server_port: u16, watcher: Watcher) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let controls = Arc::new(Controls::default());
        let (up, up_stall) = watch::channel(false);
        let (down, down_stall) = watch::channel(false);
        let shared = Arc::clone(&controls);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if shared.refuse.load(Ordering::Relaxed) {
                    continue;
                }
                let Ok(server) = TcpStream::connect(("127.0.0.1", server_port)).await else {
                    continue;
                };
                shared.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(carry(
                    client,
                    server,
                    Arc::clone(&shared),
                    [up_stall.clone(), down_stall.clone()],
                    Arc::clone(&watcher),
                ));
            }
        });
        Self {
            port,
            controls,
            stalled: [up, down],
        }
    }

    /// Cuts every connection there is.
    pub fn cut(&self) {
        self.controls.cut.notify_waiters();
    }

    /// Forwards nothing in this direction until told otherwise; both directions make a connection that is open and dead.
    pub fn stall(&self, direction: Direction, stalled: bool) {
        self.stalled[direction as usize].send_replace(stalled);
    }

    /// Lets nobody in until told otherwise.
    pub fn refuse(&self, refuse: bool) {
        self.controls.refuse.store(refuse, Ordering::Relaxed);
    }

    /// How many connections were carried so far.
    pub fn connections(&self) -> u64 {
        self.controls.connections.load(Ordering::Relaxed)
    }
}

async fn carry(client: TcpStream, server: TcpStream, controls: Arc<Controls>, stall: [watch::Receiver<bool>; 2], watcher: Watcher) {
    let ((client_read, client_write), (server_read, server_write)) = (client.into_split(), server.into_split());
    let [up, down] = stall;
    let pass: Watcher = Arc::new(|_| Verdict::Pass);
    tokio::select! {
        // First, so that nothing that was held back slips through on the way out.
        biased;
        () = controls.cut.notified() => {}
        () = forward(client_read, server_write, up, watcher) => {}
        () = forward(server_read, client_write, down, pass) => {}
    }
}

async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut stall: watch::Receiver<bool>, watcher: Watcher) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read) = from.read(&mut buffer).await {
        if read == 0 || stall.wait_for(|stalled| !stalled).await.is_err() {
            return;
        }
        let verdict = watcher(&buffer[..read]);
        if to.write_all(&buffer[..read]).await.is_err() || verdict == Verdict::PassAndCut {
            return;
        }
    }
}
