//! Devices page by page, in the order of their ids, those that fit a filter.

use jiff::Timestamp;
use tokio_postgres::{Error, GenericClient};

use super::device::{self, Device, ENABLED, LAST_SEEN, Status, TABLES};

/// The most devices of one page.
pub const MAX_PAGE: usize = 1_000;

// A NULL leaves its line out; the planner knows the values, so what is left out costs nothing.
const FILTER: &str = "
    d.deleted_at IS NULL
    AND ($1::text IS NULL OR d.device > $1)
    AND ($2::text IS NULL OR coalesce(s.status, 'unknown') = $2)
    AND ($3::text IS NULL OR d.device_type = $3)
    AND ($4::text IS NULL OR d.device_id IN (SELECT m.device_id FROM device_group_members m WHERE m.group_id = $4))
    AND ($5::text IS NULL OR d.tags @> ARRAY[$5])
    AND ($6::text IS NULL OR d.device ILIKE $6 OR d.display_name ILIKE $6)";

/// Which devices are wanted; all of those that are set must fit.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Of this status.
    pub status: Option<Status>,
    /// Of this type.
    pub device_type: Option<String>,
    /// In this group.
    pub group: Option<String>,
    /// With this tag.
    pub tag: Option<String>,
    /// With this text in their id or their name, in upper or lower case.
    pub text: Option<String>,
    /// Seen before this, or never.
    pub last_seen_before: Option<Timestamp>,
    /// Seen at this time or after it.
    pub last_seen_after: Option<Timestamp>,
    /// Enabled, or not.
    pub enabled: Option<bool>,
}

/// A page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// After which id the next page begins; none at the end.
    pub next: Option<String>,
}

impl<T> Page<T> {
    /// Of one item more than the page holds, where there is a next one.
    pub(super) fn new(mut items: Vec<T>, limit: usize, id: impl Fn(&T) -> String) -> Self {
        let more = items.len() > limit;
        items.truncate(limit);
        let next = if more { items.last().map(id) } else { None };
        Self { items, next }
    }
}

/// The devices that fit `filter`, those after the id `after`, at most `limit` and [`MAX_PAGE`].
///
/// # Errors
/// The database's.
pub async fn list(client: &impl GenericClient, filter: &Filter, after: Option<&str>, limit: usize) -> Result<Page<Device>, Error> {
    let limit = limit.clamp(1, MAX_PAGE);
    // Constants alone: what people look for is bound.
    let statement = format!(
        "SELECT {} FROM {TABLES} WHERE {FILTER}
         AND ($7::timestamptz IS NULL OR coalesce({LAST_SEEN} < $7, true))
         AND ($8::timestamptz IS NULL OR {LAST_SEEN} >= $8)
         AND ($9::bool IS NULL OR {ENABLED} = $9)
         ORDER BY d.device LIMIT $10",
        device::columns()
    );
    let rows = client
        .query(
            &statement,
            &[
                &after,
                &filter.status.map(Status::as_str),
                &filter.device_type,
                &filter.group,
                &filter.tag,
                &filter.text.as_deref().map(contains),
                &filter.last_seen_before,
                &filter.last_seen_after,
                &filter.enabled,
                &i64::try_from(limit + 1).unwrap_or(i64::MAX),
            ],
        )
        .await?;
    let devices = rows.iter().map(device::device).collect::<Result<_, _>>()?;
    Ok(Page::new(devices, limit, |device: &Device| device.id.as_str().to_owned()))
}

/// The pattern of what holds `text`, whatever signs are in it.
fn contains(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 2);
    pattern.push('%');
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_patterns_stand_for_themselves() {
        assert_eq!(contains("100%_\\"), "%100\\%\\_\\\\%");
    }
}
