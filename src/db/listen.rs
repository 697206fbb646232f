//! Being told of changes: one connection that LISTENs, and opens again when it is lost.

use std::future::poll_fn;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};
use tracing::warn;

use crate::lifecycle::backoff::Backoff;

use super::config::Config;
use super::error::describe;
use super::pool;

const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Sends a word into `changes` for each notification on `channel`, and one whenever it has begun to listen: what happened before
/// that nobody was told. A full inbox is as good as a word. Runs until the receiver is gone.
pub async fn listen(config: Config, channel: &'static str, changes: mpsc::Sender<()>) {
    let mut backoff = Backoff::new(BACKOFF.0, BACKOFF.1);
    while !changes.is_closed() {
        let ended = tokio::select! {
            ended = once(&config, channel, &changes, &mut backoff) => ended,
            () = changes.closed() => return,
        };
        if let Err(error) = ended {
            warn!(channel, error = describe(&error), "cannot listen for changes; trying again");
        }
        tokio::time::sleep(backoff.next_wait()).await;
    }
}

async fn once(config: &Config, channel: &str, changes: &mpsc::Sender<()>, backoff: &mut Backoff) -> Result<(), tokio_postgres::Error> {
    let (client, mut connection) = pool::settings(config, "listen")?.connect(NoTls).await?;
    let told = async {
        while let Some(message) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notification(_) = message? {
                // Full: the word that is in it has not been taken yet, and says the same.
                let _ = changes.try_send(());
            }
        }
        Ok(())
    };
    let asked = async {
        client.batch_execute(&format!("LISTEN {channel}")).await?;
        backoff.reset();
        let _ = changes.try_send(());
        // The client is kept: without it the connection would end.
        std::future::pending().await
    };
    tokio::select! {
        ended = told => ended,
        failed = asked => failed,
    }
}
