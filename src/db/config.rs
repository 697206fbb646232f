//! Where the database is and how long to wait for it.

use std::time::Duration;

use crate::observe::secret::Secret;

/// What every connection to PostgreSQL needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// A `postgres://` URL or a `key=value` string.
    pub url: Secret,
    /// Most time for a connection to come about.
    pub connect_timeout: Duration,
    /// Most time for one batch's COPY and commit, after which it is cancelled and tried again.
    pub copy_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            url: Secret::new("postgres://localhost/iotflow"),
            connect_timeout: Duration::from_secs(5),
            // A batch takes tens of milliseconds; thirty seconds is a database that hangs.
            copy_timeout: Duration::from_secs(30),
        }
    }
}

impl Config {
    /// What is wrong with these values, each with the variable that sets it. The URL itself is not repeated.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        match self.url.reveal().parse::<tokio_postgres::Config>() {
            Err(_) => vec!["DATABASE_URL cannot be read; postgres://user:password@host:port/database is expected".to_owned()],
            Ok(parsed) if parsed.get_hosts().is_empty() => vec!["DATABASE_URL names no host".to_owned()],
            Ok(parsed) if parsed.get_ssl_mode() == tokio_postgres::config::SslMode::Require => {
                vec!["DATABASE_URL asks for sslmode=require, which this version does not speak; use a local socket, loopback or a private network".to_owned()]
            }
            Ok(_) => Vec::new(),
        }
    }
}
