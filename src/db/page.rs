//! A page of a long list: so many rows, or fewer where they are large.
//!
//! Rows are asked for some at a time, each time from where the last one ended, and looked at as they arrive: what is left of an
//! answer when the page is full is thrown away by the connection, and is never in memory. So a page of the largest rows takes no
//! more memory than one of small ones.

use futures_util::TryStreamExt as _;
use tokio_postgres::{Error, Row, RowStream};

/// What a page's rows may come to, in bytes as the server sends them: far more than a thousand ordinary messages have, and little
/// enough that dozens of pages at once harm nobody. A single row may be larger, and is a page of its own then.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;
/// Rows that are asked for first: of the largest ones (1 MiB each, where nothing else is set) a dozen come in vain.
const FIRST: u32 = 16;
/// The most that are asked for at once, where those before were small, and so the most that ever come in vain.
const MOST: u32 = 256;

/// A page that is being read.
///
/// ```text
/// while let Some(rows) = page.wants() { page.take(rows, query(page.rows().last(), rows)).await? }
/// ```
#[derive(Debug)]
pub struct Page {
    limit: usize,
    rows: Vec<Row>,
    bytes: usize,
    /// How many to ask for next; none when there is no need to.
    next: Option<u32>,
    more: bool,
}

impl Page {
    /// A page of at most `limit` rows.
    #[must_use]
    pub fn new(limit: u32) -> Self {
        Self {
            limit: usize::try_from(limit).unwrap_or(usize::MAX),
            rows: Vec::new(),
            bytes: 0,
            next: Some(FIRST),
            more: false,
        }
    }

    /// How many rows to ask for, behind the last one that there is; none when the page is done.
    #[must_use]
    pub fn wants(&self) -> Option<i64> {
        // One more than there is room for: it says whether there is another page.
        let left = self.limit - self.rows.len() + 1;
        self.next.map(|next| i64::from(next).min(i64::try_from(left).unwrap_or(i64::MAX)))
    }

    /// The rows so far.
    #[must_use]
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Takes the answer to a question for so many rows.
    ///
    /// # Errors
    /// The server's.
    pub async fn take(&mut self, asked: i64, answer: RowStream) -> Result<(), Error> {
        futures_util::pin_mut!(answer);
        let mut came = 0;
        while let Some(row) = answer.try_next().await? {
            if self.rows.len() == self.limit || self.bytes >= MAX_BYTES {
                (self.more, self.next) = (true, None);
                return Ok(());
            }
            came += 1;
            self.bytes += row.raw_size_bytes();
            self.rows.push(row);
        }
        // So many more of the kind that there were would fill it, and one tells whether there is another page.
        let each = self.bytes / self.rows.len().max(1);
        let fit = MAX_BYTES.saturating_sub(self.bytes) / each.max(1) + 1;
        let fit = u32::try_from(fit).unwrap_or(u32::MAX);
        self.next = self.next.filter(|_| came == asked).map(|next| (next * 2).min(MOST).min(fit));
        Ok(())
    }

    /// The rows, and whether there are more behind them.
    #[must_use]
    pub fn finish(self) -> (Vec<Row>, bool) {
        (self.rows, self.more)
    }
}
