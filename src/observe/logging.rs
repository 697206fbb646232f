//! The log: for people on a terminal, or one JSON object a line for machines. It holds no payloads and no secrets.

use std::fs::OpenOptions;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Mutex;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// How a line of the log looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people.
    #[default]
    Pretty,
    /// For machines.
    Json,
}

/// What is logged, how, and where to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The least severe level that is logged.
    pub level: Level,
    /// The look of a line.
    pub format: Format,
    /// A file to append to, in place of standard error.
    pub file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            level: Level::INFO,
            format: Format::Pretty,
            file: None,
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err("`pretty` or `json` is expected".to_owned()),
        }
    }
}

/// Starts the log of this process; later calls change nothing, the first one stands.
///
/// # Errors
/// When the log file cannot be opened.
pub fn start(config: &Config) -> io::Result<()> {
    // Libraries speak up from warnings on; the level is that of our own lines.
    let filter = EnvFilter::new(format!("warn,deadpool.postgres=error,iotflow={}", config.level));
    let writer = match &config.file {
        Some(path) => BoxMakeWriter::new(Mutex::new(OpenOptions::new().create(true).append(true).open(path)?)),
        None => BoxMakeWriter::new(io::stderr),
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(config.file.is_none() && io::IsTerminal::is_terminal(&io::stderr()));
    let started = match config.format {
        Format::Pretty => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).with_span_list(false).try_init(),
    };
    drop(started);
    Ok(())
}
