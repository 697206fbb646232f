//! The audit at the operator's door: what was done, by whom, from where.

use axum::extract::State;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::devices::telemetry::span::moment;
use crate::identity::audit::{self, Entry, Filter};

use super::answer::{Success, success};
use super::auth::Admin;
use super::error::{Kind, Problem};
use super::extract::Query;
use super::grammar;
use super::page;
use super::state::Desk;
use super::telemetry::text;

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Since then: RFC 3339 or epoch.
    #[param(inline, value_type = Option<grammar::Moment>)]
    since: Option<String>,
    /// Of this actor: an account, `token:NAME` or `jwt:SUBJECT`.
    #[param(inline, value_type = Option<grammar::Exactly>, example = "token:admin")]
    actor: Option<String>,
    /// Of this action.
    #[param(inline, value_type = Option<grammar::Action>, example = "device.create")]
    action: Option<String>,
    /// On this object.
    #[param(inline, value_type = Option<grammar::Exactly>)]
    object: Option<String>,
    /// The `next_cursor` of the page before.
    #[param(inline, value_type = Option<grammar::Cursor>)]
    cursor: Option<String>,
    /// At most so many: 1 to 1000, 100 where nothing is said.
    #[param(minimum = 1, maximum = 1000, default = 100)]
    limit: Option<u32>,
}

/// Something that was done, or tried.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    /// Ascending.
    id: i64,
    /// When.
    at: Timestamp,
    /// Who.
    actor: String,
    /// From where.
    origin: String,
    /// What.
    action: String,
    /// To what.
    object: String,
    /// `done`, `refused` or `failed`.
    outcome: String,
    /// What else there is to say.
    #[schema(value_type = Object)]
    detail: Value,
}

impl From<Entry> for Done {
    fn from(entry: Entry) -> Self {
        Self {
            id: entry.id,
            at: Timestamp::from_microsecond(entry.at).unwrap_or_default(),
            actor: entry.actor,
            origin: entry.origin,
            action: entry.action,
            object: entry.object,
            outcome: entry.outcome,
            detail: entry.detail,
        }
    }
}

/// A page of the audit.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Entries {
    /// Newest first.
    entries: Vec<Done>,
    /// Where the next page begins; null where this is the last.
    next_cursor: Option<String>,
}

/// The audit, newest first
#[utoipa::path(get, path = "/audit", tag = "operations", operation_id = "audit_list", params(AuditQuery),
    responses((status = 200, description = "A page of entries", body = Success<Entries>)))]
pub(super) async fn list(_: Admin, State(desk): State<Desk>, Query(query): Query<AuditQuery>) -> Result<Success<Entries>, Problem> {
    let limit = page::limit(query.limit)?;
    let since = query.since.as_deref().map(moment).transpose()?;
    let action = query.action.as_deref().map(str::parse).transpose();
    let filter = Filter {
        // What is yet to come has no entries; the filter knows ages only.
        since: since.map(|since| Timestamp::now().duration_since(since).try_into().unwrap_or_default()),
        actor: text("actor", query.actor.as_deref())?,
        action: action.map_err(|error: audit::BadAction| Problem::new(Kind::BadRequest, format!("action: {error}")))?,
        object: text("object", query.object.as_deref())?,
        before_id: page::read(query.cursor.as_deref())?,
        limit: limit + 1,
    };
    let client = desk.database().await?;
    let mut entries: Vec<Done> = audit::list(&**client, &filter).await?.into_iter().map(Done::from).collect();
    Ok(success(Entries {
        next_cursor: page::cut(&mut entries, limit, |entry| entry.id),
        entries,
    }))
}
