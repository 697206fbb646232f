//! Pages of long lists: how many, and from where on.
//!
//! A cursor is opaque to clients: base64url of the JSON of where the last page ended. It holds nothing secret and grants
//! nothing; one that was changed is refused, or begins elsewhere in the same list.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::{Kind, Problem};

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
pub(super) fn read<T: DeserializeOwned>(cursor: Option<&str>) -> Result<Option<T>, Problem> {
    let Some(cursor) = cursor else { return Ok(None) };
    let refused = || {
        Problem::new(
            Kind::BadRequest,
            "cursor: the next_cursor of an earlier answer of this list is expected",
        )
    };
    if cursor.len() > MAX_CURSOR_BYTES {
        return Err(refused());
    }
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refused())?;
    serde_json::from_slice(&bytes).map(Some).map_err(|_| refused())
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
    use super::*;

    #[test]
    fn a_cursor_comes_back_as_it_went() {
        let cursor = write(&("Ünit 7", 42_i64));
        assert_eq!(read::<(String, i64)>(Some(&cursor)), Ok(Some(("Ünit 7".to_owned(), 42))));
        assert_eq!(read::<i64>(None), Ok(None));
        for bad in ["", "*", "e30", &"a".repeat(2_000)] {
            assert!(read::<(String, i64)>(Some(bad)).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_page_says_whether_there_is_another() {
        let mut entries = vec![1, 2, 3];
        let next = cut(&mut entries, 2, |entry| *entry);
        assert_eq!((entries, read::<i32>(next.as_deref())), (vec![1, 2], Ok(Some(2))));
        assert_eq!(cut(&mut vec![1, 2], 2, |entry| *entry), None);
    }
}
