//! Where the servers' programs are.

use std::path::{Path, PathBuf};

/// A program is not there.
#[derive(Debug, thiserror::Error)]
#[error("{program} is not installed; on Debian or Ubuntu: apt-get install {package}")]
pub struct Missing {
    program: &'static str,
    package: &'static str,
}

/// The folder with PostgreSQL's server programs, the newest version's where there are several.
///
/// # Errors
/// [`Missing`].
pub fn postgres_folder() -> Result<PathBuf, Missing> {
    // Debian keeps server programs out of PATH, a folder a version.
    let mut versions: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .filter(|(_, folder)| folder.join("initdb").exists() && folder.join("postgres").exists())
        .collect();
    versions.sort();
    let on_path = || {
        find("initdb")
            .filter(|_| find("postgres").is_some())
            .and_then(|initdb| initdb.parent().map(Path::to_owned))
    };
    versions.pop().map(|(_, folder)| folder).or_else(on_path).ok_or(Missing {
        program: "PostgreSQL",
        package: "postgresql",
    })
}

/// Mosquitto's server program.
///
/// # Errors
/// [`Missing`].
pub fn mosquitto() -> Result<PathBuf, Missing> {
    // Debian puts it into sbin, which is not in everybody's PATH.
    let known = Path::new("/usr/sbin/mosquitto");
    find("mosquitto")
        .or_else(|| known.exists().then(|| known.to_owned()))
        .ok_or(Missing {
            program: "Mosquitto",
            package: "mosquitto",
        })
}

fn find(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}
