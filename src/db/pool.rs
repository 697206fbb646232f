//! Connections to PostgreSQL: a pool for a part's statements, and single ones for what must keep its session.

use std::time::Duration;

use deadpool_postgres::{Hook, HookError, Manager, ManagerConfig, Pool, QueueMode, RecyclingMethod, Runtime};
use tokio_postgres::{Client, NoTls};

use super::config::Config;

/// Set on every connection. The times of a session are UTC whatever the server's zone is; a transaction that we
/// forgot, or whose answer got lost, does not hold its locks for ever.
const SESSION: &str = "SET TIME ZONE 'UTC'; SET idle_in_transaction_session_timeout = '60s'; SET lock_timeout = '20s'";

/// Why no pool could be made.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// The URL cannot be read.
    #[error("DATABASE_URL: {0}")]
    Url(tokio_postgres::Error),
    /// The pool's own settings do not fit.
    #[error("connection pool: {0}")]
    Build(#[from] deadpool_postgres::BuildError),
}

/// A pool of at most `size` connections that the server lists as `iotflow-{name}`.
///
/// # Errors
/// When the URL cannot be read.
pub fn pool(config: &Config, name: &str, size: usize) -> Result<Pool, PoolError> {
    build(config, name, size, SESSION.to_owned())
}

/// The same, where no statement may take longer than `patience`: for what somebody waits for.
///
/// # Errors
/// When the URL cannot be read.
pub fn impatient(config: &Config, name: &str, size: usize, patience: Duration) -> Result<Pool, PoolError> {
    build(
        config,
        name,
        size,
        format!("{SESSION}; SET statement_timeout = {}", patience.as_millis()),
    )
}

fn build(config: &Config, name: &str, size: usize, session: String) -> Result<Pool, PoolError> {
    let manager = Manager::from_config(
        settings(config, name).map_err(PoolError::Url)?,
        NoTls,
        ManagerConfig {
            recycling_method: RecyclingMethod::Fast,
        },
    );
    let prepare_session = Hook::async_fn(move |client: &mut deadpool_postgres::ClientWrapper, _| {
        let session = session.clone();
        Box::pin(async move { client.batch_execute(&session).await.map_err(HookError::Backend) })
    });
    Ok(Pool::builder(manager)
        .max_size(size)
        // The connection used last is the one whose caches are warm, at both ends.
        .queue_mode(QueueMode::Lifo)
        .runtime(Runtime::Tokio1)
        .create_timeout(Some(config.connect_timeout * 2))
        .recycle_timeout(Some(config.connect_timeout))
        .post_create(prepare_session)
        .build()?)
}

/// One connection of its own, and the task that drives it.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub async fn connect(config: &Config, name: &str) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = settings(config, name)?.connect(NoTls).await?;
    // Ends with the client; the client's own calls report what goes wrong here.
    tokio::spawn(async move { drop(connection.await) });
    client.batch_execute(SESSION).await?;
    Ok(client)
}

pub(super) fn settings(config: &Config, name: &str) -> Result<tokio_postgres::Config, tokio_postgres::Error> {
    let mut settings: tokio_postgres::Config = config.url.reveal().parse()?;
    settings
        .application_name(format!("iotflow-{name}"))
        .connect_timeout(config.connect_timeout)
        .keepalives(true)
        .keepalives_idle(Duration::from_secs(10))
        .keepalives_interval(Duration::from_secs(5))
        .keepalives_retries(3)
        .tcp_user_timeout(Duration::from_secs(20));
    Ok(settings)
}
