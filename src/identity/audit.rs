//! What was done, by whom, from where, and with what outcome: written with the act, read by `iotflow audit`.
//!
//! [`record`] takes the caller's own transaction, so that an act without its entry, or an entry without its act, cannot come
//! about. The table is append-only by a trigger (`migrations/V4__operators.sql`).

use std::time::Duration;

use nix::unistd::{Uid, User, gethostname};
use serde_json::{Map, Value};
use tokio_postgres::types::Type;
use tokio_postgres::{Error, GenericClient, Row};

mod action;

pub use action::{Action, BadAction, Outcome};

/// The longest name or text of an entry, in characters; what is longer is cut. Real names are far below it.
const MAX_CHARS: usize = 256;
/// The most elements of a list in an entry's detail.
const MAX_ELEMENTS: usize = 100;
/// The furthest back that [`Filter::since`] reaches: a century, for an interval of PostgreSQL has an end.
const MAX_SINCE: Duration = Duration::from_secs(36_525 * 86_400);
/// The most entries one call of [`list`] returns.
pub const MAX_LIST: u32 = 10_000;

/// Who acts, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor {
    name: String,
    origin: String,
}

impl Actor {
    /// An actor as somebody vouches for it; see [`Principal::actor`](super::principal::Principal::actor).
    pub fn new(name: impl AsRef<str>, origin: impl AsRef<str>) -> Self {
        Self {
            name: stored(name.as_ref()),
            origin: stored(origin.as_ref()),
        }
    }

    /// The account that runs this process, as the kernel has it.
    ///
    /// Who came through `sudo` or over SSH is noted in the origin and not taken for the actor: those are variables of the
    /// environment, which anybody can set for themselves.
    #[must_use]
    pub fn of_command_line() -> Self {
        let uid = Uid::current();
        let account = User::from_uid(uid).ok().flatten();
        let name = account.map_or_else(|| format!("uid {uid}"), |user| user.name);
        let host = gethostname().map_or_else(|_| "an unnamed host".to_owned(), |host| host.to_string_lossy().into_owned());
        let said = |variable: &str| std::env::var(variable).ok().filter(|value| !value.is_empty());
        Self::new(name, origin(&host, said("SUDO_USER").as_deref(), said("SSH_CONNECTION").as_deref()))
    }

    /// The account, or `token:` or `jwt:` and a name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where from.
    #[must_use]
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

fn origin(host: &str, sudo: Option<&str>, ssh: Option<&str>) -> String {
    let mut origin = host.to_owned();
    // "client-address client-port server-address server-port"
    if let Some(address) = ssh.and_then(|connection| connection.split(' ').next()) {
        origin += &format!(", ssh from {address}");
    }
    if let Some(user) = sudo {
        origin += &format!(", sudo by {user}");
    }
    origin
}

/// Something that was done, or that somebody tried to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Act<'a> {
    /// Who, and from where.
    pub actor: &'a Actor,
    /// What.
    pub action: Action,
    /// To what: a name.
    pub object: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    detail: Map<String, Value>,
}

impl<'a> Act<'a> {
    /// An act on `object`, without details.
    #[must_use]
    pub fn new(actor: &'a Actor, action: Action, object: &'a str, outcome: Outcome) -> Self {
        Self {
            actor,
            action,
            object,
            outcome,
            detail: Map::new(),
        }
    }

    /// The same, with a detail. A [`Secret`](crate::observe::secret::Secret) is no value of JSON, so it does not fit in here
    /// without being revealed on purpose.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.detail.insert(name.to_owned(), stored_value(value.into()));
        self
    }
}

/// Writes an entry, as a part of the transaction that `client` is in.
///
/// # Errors
/// The server's; the caller's transaction is then lost, and the act with it.
pub async fn record(client: &impl GenericClient, act: &Act<'_>) -> Result<(), Error> {
    let object = stored(act.object);
    let detail = Value::Object(act.detail.clone());
    client
        .execute_typed(
            "INSERT INTO audit_log (actor, origin, action, object, outcome, detail) VALUES ($1, $2, $3, $4, $5, $6)",
            &[
                (&act.actor.name, Type::TEXT),
                (&act.actor.origin, Type::TEXT),
                (&act.action.as_str(), Type::TEXT),
                (&object, Type::TEXT),
                (&act.outcome.as_str(), Type::TEXT),
                (&detail, Type::JSONB),
            ],
        )
        .await?;
    Ok(())
}

/// Which entries are wanted; all of those that are set must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter<'a> {
    /// Not older than this.
    pub since: Option<Duration>,
    /// Of this actor.
    pub actor: Option<&'a str>,
    /// Of this action.
    pub action: Option<Action>,
    /// On this object.
    pub object: Option<&'a str>,
    /// Written before this one: for the next page.
    pub before_id: Option<i64>,
    /// At most so many, the newest; [`MAX_LIST`] where more are asked for.
    pub limit: u32,
}

/// An entry as it stands in the table. Its texts are as somebody gave them: escape them before a terminal sees them.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Ascending.
    pub id: i64,
    /// Microseconds since 1970, by the database's clock.
    pub at: i64,
    /// Who.
    pub actor: String,
    /// From where.
    pub origin: String,
    /// What; a text, for a newer version may have written an action that this one does not know.
    pub action: String,
    /// To what.
    pub object: String,
    /// `done`, `refused` or `failed`.
    pub outcome: String,
    /// What else there is to say.
    pub detail: Value,
}

/// The entries that fit `filter`, newest first.
///
/// # Errors
/// The server's.
pub async fn list(client: &impl GenericClient, filter: &Filter<'_>) -> Result<Vec<Entry>, Error> {
    let seconds = filter.since.map(|span| span.min(MAX_SINCE).as_secs_f64());
    let action = filter.action.map(Action::as_str);
    let limit = i64::from(filter.limit.min(MAX_LIST));
    let rows = client
        .query(
            "SELECT id, (extract(epoch FROM at) * 1000000)::int8, actor, origin, action, object, outcome, detail
             FROM audit_log
             WHERE ($1::float8 IS NULL OR at >= now() - make_interval(secs => $1))
               AND ($2::text IS NULL OR actor = $2)
               AND ($3::text IS NULL OR action = $3)
               AND ($4::text IS NULL OR object = $4)
               AND ($5::int8 IS NULL OR id < $5)
             ORDER BY id DESC LIMIT $6",
            &[&seconds, &filter.actor, &action, &filter.object, &filter.before_id, &limit],
        )
        .await?;
    rows.iter().map(entry).collect()
}

fn entry(row: &Row) -> Result<Entry, Error> {
    Ok(Entry {
        id: row.try_get(0)?,
        at: row.try_get(1)?,
        actor: row.try_get(2)?,
        origin: row.try_get(3)?,
        action: row.try_get(4)?,
        object: row.try_get(5)?,
        outcome: row.try_get(6)?,
        detail: row.try_get(7)?,
    })
}

/// The text as PostgreSQL takes it: cut, and without NUL, which no text there can hold. An entry that could be kept out of
/// the log by a strange name would be no entry.
fn stored(text: &str) -> String {
    let mut stored: String = text
        .chars()
        .take(MAX_CHARS)
        .map(|c| if c == '\0' { char::REPLACEMENT_CHARACTER } else { c })
        .collect();
    if text.chars().nth(MAX_CHARS).is_some() {
        stored.push('…');
    }
    stored
}

fn stored_value(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(stored(&text)),
        Value::Array(elements) => elements.into_iter().take(MAX_ELEMENTS).map(stored_value).collect(),
        Value::Object(members) => members
            .into_iter()
            .take(MAX_ELEMENTS)
            .map(|(name, value)| (stored(&name), stored_value(value)))
            .collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_origin_says_where_a_session_came_from() {
        assert_eq!(origin("plant", None, None), "plant");
        assert_eq!(
            origin("plant", Some("ada"), Some("192.0.2.7 50022 192.0.2.1 22")),
            "plant, ssh from 192.0.2.7, sudo by ada"
        );
    }

    #[test]
    fn texts_are_cut_and_hold_no_nul() {
        assert_eq!(stored("a\0b"), "a\u{fffd}b");
        assert_eq!(stored(&"ü".repeat(MAX_CHARS)), "ü".repeat(MAX_CHARS));
        assert_eq!(stored(&"ü".repeat(MAX_CHARS + 1)), "ü".repeat(MAX_CHARS) + "…");
        let actor = Actor::new("ada", "plant");
        let act = Act::new(&actor, Action::GroupAdd, "x", Outcome::Done).with("devices", json!([{ "a\0": "b\0" }]));
        assert_eq!(Value::Object(act.detail), json!({ "devices": [{ "a\u{fffd}": "b\u{fffd}" }] }));
    }

    #[test]
    fn the_command_line_has_an_actor() {
        assert!(!Actor::of_command_line().name().is_empty());
    }
}
