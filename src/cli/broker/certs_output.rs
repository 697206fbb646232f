//! What `iotflow broker certs` prints: what changed, and the table of all there is.

use std::path::Path;

use comfy_table::Table;
use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use jiff::Timestamp;

use crate::broker::certs::authority::Change;
use crate::broker::certs::index::{Kind, Record};
use crate::broker::certs::listing::Listing;

pub(super) fn print_change(change: &Change, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(change)?);
        return Ok(());
    }
    for record in &change.issued {
        println!(
            "issued   {}, good until {}, serial {}",
            named(record),
            day(record.not_after),
            record.serial
        );
    }
    for record in &change.revoked {
        println!("revoked  {}, serial {}", named(record), record.serial);
    }
    for file in &change.files {
        println!("wrote    {}", file.display());
    }
    if change.issued.iter().any(|record| record.kind == Kind::Ca) {
        println!("Whoever trusted an earlier certificate of the authority needs this one; the broker reads it when it is started again.");
    }
    Ok(())
}

pub(super) fn print_listing(listing: &Listing, folder: &Path, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(listing)?);
        return Ok(());
    }
    let mut table = Table::new();
    table
        .load_style(UTF8_HORIZONTAL_ONLY)
        .set_header(["kind", "name", "until", "days", "state", "serial", "file"]);
    for entry in &listing.certificates {
        let record = &entry.record;
        table.add_row([
            record.kind.as_str().to_owned(),
            record.common_name.clone(),
            day(record.not_after),
            entry.days_left.to_string(),
            entry.state.as_str().to_owned(),
            record.serial.to_string(),
            record.file.clone().unwrap_or_default(),
        ]);
    }
    println!("{}\n{table}", folder.display());
    let crl = &listing.crl;
    println!(
        "The revocation list (number {}) is good until {}, {} days more. When it is over the broker refuses every device.",
        crl.number,
        day(crl.next_update),
        crl.days_left
    );
    if crl.due {
        println!("It is due: `iotflow broker certs renew --crl`");
    }
    Ok(())
}

fn named(record: &Record) -> String {
    match record.kind {
        Kind::Ca => format!("the authority {:?}", record.common_name),
        Kind::Server => format!("the server's certificate for {}", record.names.join(", ")),
        Kind::Device => format!("the certificate of device {}", record.common_name),
    }
}

/// A day is as much as anybody plans by; JSON has the second.
fn day(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d").to_string()
}
