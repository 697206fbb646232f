//! A device's readings of a span as a stream of bytes, a page at a time: CSV, or a JSON object a line.
//!
//! By pages and not by one long statement, so that whoever reads slowly holds neither a connection nor a snapshot, and nothing
//! more than a page is ever in memory. A reading that comes late, and lies before what was sent already, is not in it.

use tokio_postgres::{Error, GenericClient};

use super::range::{self, Message, Order, Place, Wanted};
use super::span::Span;

/// Messages a page, if they are not large: enough that the way to the database and back does not count.
const PAGE: u32 = 1_000;

/// The form of the lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// RFC 4180: `time,device,metric,value`, a line a number. What is not a number is left out.
    Csv,
    /// A JSON object a line, a line a message.
    Ndjson,
}

impl Format {
    /// The format of this name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "csv" => Some(Self::Csv),
            "ndjson" => Some(Self::Ndjson),
            _ => None,
        }
    }

    /// Its media type.
    #[must_use]
    pub const fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Ndjson => "application/x-ndjson",
        }
    }

    /// The end of a file's name.
    #[must_use]
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Csv => "csv",
            Self::Ndjson => "ndjson",
        }
    }
}

/// An export under way.
#[derive(Debug, Clone)]
pub struct Export {
    device: String,
    device_id: i32,
    span: Span,
    metrics: Vec<String>,
    format: Format,
    after: Option<Place>,
    begun: bool,
    ended: bool,
}

impl Export {
    /// An export of the device with this id and number; of these metrics, or of all where there are none.
    #[must_use]
    pub fn new(device: &str, device_id: i32, span: Span, metrics: Vec<String>, format: Format) -> Self {
        Self {
            device: device.to_owned(),
            device_id,
            span,
            metrics,
            format,
            after: None,
            begun: false,
            ended: false,
        }
    }

    /// Whether there is nothing more.
    #[must_use]
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// The next bytes.
    ///
    /// # Errors
    /// The database's; the same page can be asked for again.
    pub async fn next_page(&mut self, client: &impl GenericClient) -> Result<Vec<u8>, Error> {
        let wanted = Wanted {
            span: self.span,
            after: self.after,
            order: Order::Ascending,
            metrics: &self.metrics,
            limit: PAGE,
        };
        let (messages, more) = range::messages(client, self.device_id, &wanted).await?;
        let mut bytes = Vec::new();
        if !self.begun && self.format == Format::Csv {
            bytes.extend_from_slice(b"time,device,metric,value\r\n");
        }
        write(self.format, &self.device, &messages, &mut bytes);
        self.begun = true;
        self.after = messages.last().map(|message| message.place).or(self.after);
        self.ended = !more;
        Ok(bytes)
    }
}

fn write(format: Format, device: &str, messages: &[Message], bytes: &mut Vec<u8>) {
    match format {
        Format::Csv => {
            let mut writer = csv::WriterBuilder::new()
                .has_headers(false)
                .terminator(csv::Terminator::CRLF)
                .from_writer(bytes);
            for message in messages {
                let time = message.time.to_string();
                for (metric, value) in &message.values {
                    writer
                        .serialize((&time, device, metric, value))
                        .expect("texts and numbers can be written into memory");
                }
            }
            writer.flush().expect("memory takes every write");
        }
        Format::Ndjson => {
            for message in messages {
                serde_json::to_writer(&mut *bytes, message).expect("a message is JSON, and memory takes every write");
                bytes.push(b'\n');
            }
        }
    }
}
