//! Pages of long lists: how many, and from where on.
//!
//! A cursor is opaque to clients: base64url of the JSON of where the last page ended. It holds nothing secret and grants
//! nothing; one that was changed is refused, or begins elsewhere in the same list. What it holds goes to the database, so a
//! [`Place`] says what can be there at all.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use uuid::Uuid;

use crate::devices::commands::read;
use crate::devices::telemetry::range;
use crate::devices::telemetry::span::is_moment;
use crate::protocol::id::DeviceIdRef;

use super::error::{Kind, Problem};

/// Where a page of some list can begin.
pub(super) trait Place: DeserializeOwned {
    /// Whether the list can have ended a page there: PostgreSQL knows no NUL in a text, and fewer years than a cursor can name.
    fn is_possible(&self) -> bool;
}

impl Place for String {
    fn is_possible(&self) -> bool {
        !self.contains('\0')
    }
}

impl Place for read::Place {
    fn is_possible(&self) -> bool {
        is_moment(self.created_at) && self.command_id.is_possible()
    }
}

macro_rules! always_possible {
    ($($place:ty),+) => {
        $(impl Place for $place {
            fn is_possible(&self) -> bool {
                true
            }
        })+
    };
}

// A place in a device's telemetry is kept within the span that is asked for, whatever it says.
always_possible!(i64, Uuid, range::Place);

/// The entries of a page where nothing else is said.
pub(super) const DEFAULT_LIMIT: u32 = 100;
/// The most entries of a page.
pub(super) const MAX_LIMIT: u32 = 1_000;
/// Longer than any cursor of ours.
const MAX_CURSOR_BYTES: usize = 1_024;

/// How many entries the page is to have.
pub(super) fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked.unwrap_or(DEFAULT_LIMIT) {
        limit @ 1..=MAX_LIMIT => Ok(limit),
        other => Err(Problem::new(
            Kind::BadRequest,
            format!("limit={other}: 1 to {MAX_LIMIT} is expected"),
        )),
    }
}

/// Where the page begins, in the words of the list's own order.
pub(super) fn read<P: Place>(cursor: Option<&str>) -> Result<Option<P>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    if cursor.len() > MAX_CURSOR_BYTES {
        return Err(refused());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
    let place = serde_json::from_slice(&bytes).ok().filter(P::is_possible);
    place.map(Some).ok_or_else(refused)
}

/// How many entries a page of devices or groups is to have, and after which id it begins; an id is of the same grammar for both.
pub(super) fn by_id(limit: Option<u32>, cursor: Option<&str>) -> Result<(usize, Option<String>), Problem> {
    let limit = usize::try_from(self::limit(limit)?).unwrap_or(usize::MAX);
    let after: Option<String> = read(cursor)?;
    match after.as_deref().map(DeviceIdRef::parse) {
        Some(Err(_)) => Err(refused()),
        _ => Ok((limit, after)),
    }
}

fn refused() -> Problem {
    Problem::new(
        Kind::BadRequest,
        "cursor: the next_cursor of an earlier answer of this list is expected",
    )
}

/// The cursor behind `last`, the last entry of a page.
pub(super) fn write(last: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(last).expect("keys of lists are texts and numbers"))
}

/// Takes the one entry too many off a list that was read with `limit + 1`, and says where the next page begins.
pub(super) fn cut<T, K: Serialize>(entries: &mut Vec<T>, limit: u32, key: impl Fn(&T) -> K) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if entries.len() <= limit {
        return None;
    }
    entries.truncate(limit);
    entries.last().map(|last| write(&key(last)))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let place = read::Place {
            created_at: Timestamp::UNIX_EPOCH,
            command_id: "Ünit 7".to_owned(),
        };
        assert_eq!(read::<read::Place>(Some(&write(&place))), Ok(Some(place)));
        assert_eq!(read::<i64>(None), Ok(None));
        for bad in ["", "*", "e30", &"a".repeat(2_000)] {
            assert!(read::<read::Place>(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_no_database_holds_is_no_cursor() {
        assert!(read::<String>(Some(&write(&"a\0b"))).is_err());
        for time in [Timestamp::MIN, Timestamp::MAX] {
            assert!(read::<read::Place>(Some(&write(&json!({"created_at": time, "command_id": "a"})))).is_err());
        }
        assert!(read::<read::Place>(Some(&write(&json!({"created_at": Timestamp::UNIX_EPOCH, "command_id": "\0"})))).is_err());
    }

    /// What every list makes of a cursor: what is taken is possible, whatever was sent.
    fn judge(cursor: &str) {
        fn possible<P: Place>(cursor: &str) -> bool {
            read::<P>(Some(cursor)).map_or(true, |place| place.is_some_and(|place| place.is_possible()))
        }
        assert!(
            possible::<String>(cursor) && possible::<i64>(cursor) && possible::<Uuid>(cursor),
            "{cursor}"
        );
        assert!(possible::<read::Place>(cursor) && possible::<range::Place>(cursor), "{cursor}");
    }

    proptest! {
        #[test]
        fn whatever_is_sent_as_a_cursor_is_refused_or_possible(
            any in ".{0,60}",
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            year in -9_999_i16..=9_999,
            text in "\\PC*|[\u{0}a]{1,3}",
            number in any::<i64>(),
        ) {
            judge(&any);
            judge(&URL_SAFE_NO_PAD.encode(bytes));
            let time = format!("{}{:04}-01-01T00:00:00Z", if year < 0 { "-00" } else { "" }, year.unsigned_abs());
            judge(&write(&json!({"time": time, "part": number})));
            judge(&write(&json!({"created_at": time, "command_id": text})));
            judge(&write(&json!(text)));
            judge(&write(&json!(number)));
        }
    }

    #[test]
    fn a_page_says_whether_there_is_another() {
        let mut entries = vec![1, 2, 3];
        let next = cut(&mut entries, 2, |entry| *entry);
        assert_eq!((entries, read::<i64>(next.as_deref())), (vec![1, 2], Ok(Some(2))));
        assert_eq!(cut(&mut vec![1, 2], 2, |entry| *entry), None);
    }
}
