//! Dead letters at the operator's door: listed, shown, published again, removed.

use axum::extract::State;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use tracing::error;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::devices::telemetry::span::moment;
use crate::ingest::dead_letter::kept::{self, Filter, Letter, Purge};
use crate::operations::dead_letters;

use super::answer::{Success, success};
use super::auth::{Admin, Operator, Viewer};
use super::error::{Kind, Problem};
use super::extract::{Path, Query};
use super::grammar;
use super::page;
use super::state::Desk;
use super::telemetry::text;

/// Which dead letters.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// Of this reason.
    #[param(inline, value_type = Option<grammar::Exactly>, example = "not_json")]
    reason: Option<String>,
    /// On topics that begin so.
    #[param(inline, value_type = Option<grammar::Exactly>, example = "iotflow/devices/sensor_001/")]
    topic_prefix: Option<String>,
    /// Received since then: RFC 3339 or epoch.
    #[param(inline, value_type = Option<grammar::Moment>)]
    since: Option<String>,
    /// The `next_cursor` of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
    /// At most so many: 1 to 1000, 100 where nothing is said.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// A page of dead letters, without what was in them.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Letters {
    /// Newest first.
    dead_letters: Vec<Letter>,
    /// Where the next page begins; null where this is the last.
    next_cursor: Option<String>,
}

/// Dead letters, newest first
#[utoipa::path(get, path = "/dead-letters", tag = "operations", operation_id = "dead_letters_list", params(ListQuery),
    responses((status = 200, description = "A page of dead letters", body = Success<Letters>)))]
pub(super) async fn list(_: Viewer, State(desk): State<Desk>, Query(query): Query<ListQuery>) -> Result<Success<Letters>, Problem> {
    let limit = page::limit(query.limit)?;
    let filter = Filter {
        reason: text("reason", query.reason.as_deref())?,
        topic_prefix: text("topic_prefix", query.topic_prefix.as_deref())?,
        since: query.since.as_deref().map(moment).transpose()?,
        before: page::read(query.cursor.as_deref())?,
        limit: limit + 1,
    };
    let client = desk.database().await?;
    let mut letters = kept::list(&**client, &filter).await?;
    Ok(success(Letters {
        next_cursor: page::cut(&mut letters, limit, |letter| letter.id),
        dead_letters: letters,
    }))
}

/// A dead letter in the path.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct OfLetter {
    /// Its id.
    id: Uuid,
}

impl OfLetter {
    fn nowhere(&self) -> Problem {
        Problem::new(Kind::NotFound, format!("there is no dead letter {}", self.id))
    }
}

/// A dead letter, whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WholeLetter {
    #[serde(flatten)]
    letter: Letter,
    /// What was in it, as `payload_encoding` says.
    payload: String,
    /// `utf8`, or `base64` where it is no text.
    #[schema(example = "utf8")]
    payload_encoding: &'static str,
}

/// A dead letter
#[utoipa::path(get, path = "/dead-letters/{id}", tag = "operations", operation_id = "dead_letters_get", params(OfLetter),
    responses((status = 200, description = "The letter with its payload", body = Success<WholeLetter>)))]
pub(super) async fn get(_: Viewer, State(desk): State<Desk>, Path(path): Path<OfLetter>) -> Result<Success<WholeLetter>, Problem> {
    let client = desk.database().await?;
    let (letter, payload) = kept::find(&**client, path.id).await?.ok_or_else(|| path.nowhere())?;
    let (payload, payload_encoding) = match String::from_utf8(payload) {
        Ok(text) => (text, "utf8"),
        Err(error) => (STANDARD.encode(error.as_bytes()), "base64"),
    };
    Ok(success(WholeLetter {
        letter,
        payload,
        payload_encoding,
    }))
}

/// The letter that was published again.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Replayed {
    /// As it was; it is no dead letter any more.
    replayed: Letter,
}

/// Publish a dead letter again
///
/// On its topic at QoS 1; once the broker has it the letter is removed. If it still breaks a rule, it becomes a new dead letter.
#[utoipa::path(post, path = "/dead-letters/{id}/replay", tag = "operations", operation_id = "dead_letters_replay", params(OfLetter),
    responses((status = 200, description = "It was published", body = Success<Replayed>)))]
pub(super) async fn replay(
    Operator(caller): Operator,
    State(desk): State<Desk>,
    Path(path): Path<OfLetter>,
) -> Result<Success<Replayed>, Problem> {
    let here = desk.clone();
    let act = async move {
        let claimed = dead_letters::claim(&**here.database().await?, path.id).await?;
        let published = claimed.publish(here.tree(), &here.parts.publisher).await;
        let client = here.database().await;
        let mut client = client.inspect_err(|_| error!(?published, "a dead letter was published and is kept, for that cannot be noted"))?;
        Ok(published.settle(&mut **client, &caller.actor()).await?)
    };
    let replayed = desk.to_its_end("replay", act).await?;
    Ok(success(Replayed { replayed }))
}

/// How many dead letters were removed.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Removed {
    /// So many.
    removed: u64,
}

/// Remove a dead letter
#[utoipa::path(delete, path = "/dead-letters/{id}", tag = "operations", operation_id = "dead_letters_remove", params(OfLetter),
    responses((status = 200, description = "It is gone", body = Success<Removed>)))]
pub(super) async fn remove(
    Admin(caller): Admin,
    State(desk): State<Desk>,
    Path(path): Path<OfLetter>,
) -> Result<Success<Removed>, Problem> {
    let mut client = desk.database().await?;
    if dead_letters::remove(&mut **client, &caller.actor(), path.id).await? {
        Ok(success(Removed { removed: 1 }))
    } else {
        Err(path.nowhere())
    }
}

/// Which dead letters are to go: all that is given must fit, and something must be given.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct PurgeQuery {
    /// Of this reason.
    #[param(inline, value_type = Option<grammar::Exactly>)]
    reason: Option<String>,
    /// On topics that begin so.
    #[param(inline, value_type = Option<grammar::Exactly>)]
    topic_prefix: Option<String>,
    /// Received before then: RFC 3339 or epoch.
    #[param(inline, value_type = Option<grammar::Moment>)]
    before: Option<String>,
}

/// Remove dead letters
#[utoipa::path(delete, path = "/dead-letters", tag = "operations", operation_id = "dead_letters_purge", params(PurgeQuery),
    responses((status = 200, description = "How many were removed", body = Success<Removed>)))]
pub(super) async fn purge(
    Admin(caller): Admin,
    State(desk): State<Desk>,
    Query(query): Query<PurgeQuery>,
) -> Result<Success<Removed>, Problem> {
    let purge = Purge {
        reason: text("reason", query.reason.as_deref())?,
        topic_prefix: text("topic_prefix", query.topic_prefix.as_deref())?,
        before: query.before.as_deref().map(moment).transpose()?,
    };
    if purge.is_everything() {
        return Err(Problem::new(
            Kind::BadRequest,
            "reason, topic_prefix or before is expected; `before` with the present removes them all",
        ));
    }
    let mut client = desk.database().await?;
    let removed = dead_letters::purge(&mut **client, &caller.actor(), &purge).await?;
    Ok(success(Removed { removed }))
}
