//! The disks under the broker and the database, where they are on this machine: a full one stops both.

use std::path::{Path, PathBuf};

use nix::sys::statvfs::statvfs;
use tokio_postgres::config::Host;

use super::finding::{Finding, Findings, Level};
use super::patient::{Patient, is_loopback};
use super::print::bytes;

const LEAST_BYTES: u64 = 1024 * 1024 * 1024;
const LEAST_PERCENT: u64 = 10;

pub(super) async fn look(patient: &Patient) -> Vec<Finding> {
    let mut findings = Findings::of("disk");
    match &patient.installation {
        Some((installation, _)) => judge(&mut findings, "broker", &installation.broker().data()),
        None => {
            findings.skipped("broker", "its folder is not known here");
        }
    }
    match database_folder(patient).await {
        Ok(folder) => judge(&mut findings, "database", &folder),
        Err(why) => {
            findings.skipped("database", why);
        }
    }
    findings.into_list()
}

fn judge(findings: &mut Findings, check: &str, folder: &Path) {
    // Servers keep their folders to themselves; what is above is on the same disk unless somebody mounted one right there.
    let asked = folder.ancestors().find_map(|folder| Some((folder, statvfs(folder).ok()?)));
    let Some((folder, disk)) = asked else {
        findings.skipped(check, format!("{} cannot be looked at", folder.display()));
        return;
    };
    let (free, all) = (disk.blocks_available() * disk.fragment_size(), disk.blocks() * disk.fragment_size());
    let percent = free.saturating_mul(100).checked_div(all).unwrap_or(0);
    findings
        .judge(
            check,
            is_enough(free, all),
            Level::Fault,
            format!("{} free of {} ({percent} %), at {}", bytes(free), bytes(all), folder.display()),
            "make room, or a larger disk: at the end the database stops, and the broker cannot save what it holds. TELEMETRY_RETENTION and old dead_letters are where rows go",
        )
        .figure("free_bytes", free)
        .figure("bytes", all);
}

fn is_enough(free: u64, all: u64) -> bool {
    free >= LEAST_BYTES && free >= all / 100 * LEAST_PERCENT
}

async fn database_folder(patient: &Patient) -> Result<PathBuf, String> {
    if let Some((installation, _)) = patient.installation.as_ref().filter(|(_, settings)| settings.own_database) {
        return Ok(installation.servers.join("postgres"));
    }
    let config: tokio_postgres::Config = patient
        .config
        .db
        .url
        .reveal()
        .parse()
        .map_err(|_| "DATABASE_URL is none".to_owned())?;
    let local = |host: &Host| match host {
        Host::Tcp(host) => is_loopback(host),
        Host::Unix(_) => true,
    };
    if !config.get_hosts().iter().all(local) {
        return Err("the database is on another machine".to_owned());
    }
    let client = patient.database.as_ref().map_err(|_| "the database does not answer".to_owned())?;
    let row = client
        .query_one("SELECT current_setting('data_directory')", &[])
        .await
        .map_err(|error| crate::db::error::describe(&error))?;
    let folder = PathBuf::from(row.get::<_, String>(0));
    // A port of a container's looks like a server on this machine, and its folder is elsewhere.
    let there = folder.ancestors().skip(1).take(1).any(Path::exists);
    there
        .then_some(folder)
        .ok_or_else(|| "the database's folder is not on this machine".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * 1024 * 1024;

    #[test]
    fn a_tenth_and_a_gibibyte_are_the_least() {
        assert!(is_enough(20 * GIB, 100 * GIB));
        assert!(!is_enough(9 * GIB, 100 * GIB), "below a tenth");
        assert!(!is_enough(GIB / 2, GIB), "below a gibibyte");
    }
}
