//! The judge: what the tables say.

use tokio_postgres::Client;

use super::eventually;

/// A single number.
pub async fn number(sql: &Client, query: &str) -> i64 {
    sql.query_one(query, &[])
        .await
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .get(0)
}

/// Waits until `query` gives `expected`.
pub async fn until_number(sql: &Client, query: &str, expected: i64) {
    eventually(&format!("{query} gives {expected}"), async || {
        (number(sql, query).await == expected).then_some(())
    })
    .await;
}

/// All rows of one text column.
pub async fn texts(sql: &Client, query: &str) -> Vec<String> {
    sql.query(query, &[])
        .await
        .unwrap_or_else(|error| panic!("{query}: {error:?}"))
        .iter()
        .map(|row| row.get(0))
        .collect()
}
