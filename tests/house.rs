//! The house stands as ARCHITECTURE.md says: each floor imports lower floors only, and siblings not each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floor of each room of `src/`. Rooms on floors 3 and 4 are siblings and never import each other.
const FLOORS: &[(&str, u8)] = &[
    ("protocol", 1),
    ("observe", 1),
    ("lifecycle", 2),
    ("db", 3),
    ("mqtt", 3),
    ("broker", 4),
    ("devices", 4),
    ("identity", 4),
    ("ingest", 4),
    ("stack", 4),
    ("access", 5),
    ("operations", 5),
    ("courier", 5),
    ("api", 5),
    ("config", 6),
    ("app", 7),
    ("cli", 8),
    ("main", 9),
];

fn sources() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("src can be listed") {
            let path = entry.expect("src can be listed").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && path != root.join("lib.rs") {
                let below = path.strip_prefix(&root).expect("it is below src");
                let room = below
                    .iter()
                    .next()
                    .expect("it has a name")
                    .to_string_lossy()
                    .trim_end_matches(".rs")
                    .to_owned();
                let text = std::fs::read_to_string(&path).expect("it can be read");
                sources.push((room, path, text));
            }
        }
    }
    sources
}

#[test]
fn rooms_import_lower_floors_only() {
    let floors: BTreeMap<&str, u8> = FLOORS.iter().copied().collect();
    let mut broken = Vec::new();
    for (room, path, text) in sources() {
        let floor = floors
            .get(room.as_str())
            .unwrap_or_else(|| panic!("{room} has no floor: plan it in tests/house.rs and ARCHITECTURE.md first"));
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            for used in line
                .split("crate::")
                .skip(1)
                .map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or(""))
            {
                let Some(used_floor) = floors.get(used) else { continue };
                let sibling = used_floor == floor && used != room && (3..=4).contains(floor);
                // `observe` names the reasons that `protocol` defines; the two share the ground floor.
                if used_floor > floor || sibling {
                    broken.push(format!(
                        "{}:{}: {room} (floor {floor}) uses {used} (floor {used_floor})",
                        path.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn every_file_says_what_passes_through_it() {
    for (_, path, text) in sources() {
        assert!(text.starts_with("//! "), "{} does not open with `//!`", path.display());
    }
}

#[test]
fn what_the_models_drive_meets_by_sync_alone() {
    // A primitive that came from elsewhere would be one that loom does not see, and whose races the models would miss.
    for (_, path, text) in sources() {
        if !(path.ends_with("ingest/doorbell.rs") || path.ends_with("ingest/ledger.rs")) {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or("");
        for library in ["std::sync", "std::thread", "crossbeam::", "tokio::", "metrics::"] {
            assert!(!code.contains(library), "{} uses {library}", path.display());
        }
    }
}

#[test]
fn the_simulator_imports_nothing_of_the_server() {
    let manifest = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("load-test/Cargo.toml")).expect("it can be read");
    let dependencies = manifest.split_once("[dependencies]").expect("it has dependencies").1;
    assert!(!dependencies.lines().any(|line| line.starts_with("iotflow")), "{dependencies}");
}

#[test]
fn metric_names_stand_on_one_page() {
    for (_, path, text) in sources() {
        if path.ends_with("observe/metrics.rs") {
            continue;
        }
        let code = text.split("#[cfg(test)]").next().unwrap_or("");
        for (number, line) in code.lines().enumerate() {
            let literal = line.contains("\"iotflow_");
            assert!(!literal, "{}:{}: a metric's name as a literal: {line}", path.display(), number + 1);
        }
    }
}
