//! Which sessions the installation has at the broker, and which it had: a session that nobody resumes would gather
//! messages for nobody, so what is no longer wanted is drained and ended.

use deadpool_postgres::{Pool, PoolError};

use crate::protocol::topic::{BadBaseTopic, TopicTree};

use super::config::Config;
use super::subscribe::{BROKER_DROPPED_TOPIC, BROKER_VERSION_TOPIC, Purpose};

/// What was ever asked for stays on record: that it was taken back is known only to the broker.
const REGISTER: &str = "
    INSERT INTO ingest_sessions AS known (client_id, filters) VALUES ($1, $2)
    ON CONFLICT (client_id) DO UPDATE
        SET filters = ARRAY(SELECT DISTINCT filter FROM unnest(known.filters || excluded.filters) AS filter)
    RETURNING filters";

/// A session to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// The name in logs and metrics.
    pub name: String,
    /// The client id, and the name of its lease.
    pub client_id: String,
    /// What it is for.
    pub purpose: Purpose,
    /// Whether its messages go to the status stage.
    pub status: bool,
}

/// The sessions that `config` asks for.
///
/// # Errors
/// [`BadBaseTopic`].
pub fn wanted(config: &Config) -> Result<Vec<Session>, BadBaseTopic> {
    let tree = TopicTree::new(&config.base_topic)?;
    let client_id = |what: &str| format!("iotflow-{}-{what}", config.group);
    let mut status_filters = vec![tree.status_filter(), BROKER_DROPPED_TOPIC.to_owned()];
    if config.shared {
        // Some versions forget shared subscriptions when they are restarted, which somebody should know.
        status_filters.push(BROKER_VERSION_TOPIC.to_owned());
    }
    let status = Session {
        name: "status".to_owned(),
        client_id: client_id("status"),
        // Status in a plain subscription: shares get no retained messages, and keep no order.
        purpose: Purpose::Subscribe(status_filters),
        status: true,
    };
    let telemetry = |what: String, filter: String| Session {
        client_id: client_id(&what),
        name: if config.shared { format!("slot-{what}") } else { what },
        purpose: Purpose::Subscribe(vec![filter]),
        status: false,
    };
    let mut sessions: Vec<Session> = if config.shared {
        (0..config.slots)
            .map(|slot| telemetry(slot.to_string(), format!("$share/{}/{}", config.share(), tree.telemetry_filter())))
            .collect()
    } else {
        vec![telemetry("plain".to_owned(), tree.telemetry_filter())]
    };
    sessions.insert(0, status);
    Ok(sessions)
}

/// The sessions on record that are wanted no more.
///
/// # Errors
/// The server's.
pub async fn retired(pool: &Pool, wanted: &[Session], group: &str) -> Result<Vec<Session>, PoolError> {
    let known: Vec<&str> = wanted.iter().map(|session| session.client_id.as_str()).collect();
    let client = pool.get().await?;
    let rows = client
        .query(
            "SELECT client_id, filters FROM ingest_sessions WHERE client_id ~ $1 AND client_id <> ALL ($2)",
            &[&format!("^iotflow-{group}-([0-9]+|status|plain)$"), &known],
        )
        .await?;
    let retire = |client_id: String, filters| Session {
        name: format!("retired-{}", client_id.rsplit('-').next().unwrap_or_default()),
        status: client_id.ends_with("-status"),
        client_id,
        purpose: Purpose::Retire(filters),
    };
    Ok(rows.iter().map(|row| retire(row.get(0), row.get(1))).collect())
}

/// Records that the session exists, before it does. Returns the filters that it may have from before and should have no more:
/// a subscription to a share of another name would bring every message a second time.
///
/// # Errors
/// The server's.
pub async fn register(pool: &Pool, session: &Session) -> Result<Vec<String>, PoolError> {
    let (Purpose::Subscribe(filters) | Purpose::Retire(filters)) = &session.purpose;
    let client = pool.get().await?;
    let row = client.query_one(REGISTER, &[&session.client_id, filters]).await?;
    let mut known: Vec<String> = row.get(0);
    known.retain(|filter| !filters.contains(filter));
    Ok(known)
}

/// Strikes an ended session off the record.
///
/// # Errors
/// The server's.
pub async fn forget(pool: &Pool, session: &Session) -> Result<(), PoolError> {
    pool.get()
        .await?
        .execute("DELETE FROM ingest_sessions WHERE client_id = $1", &[&session.client_id])
        .await?;
    Ok(())
}
