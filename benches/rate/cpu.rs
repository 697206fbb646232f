//! Seconds of CPU that processes have used, read from `/proc`.

use std::path::Path;

/// `USER_HZ`, which is 100 on every Linux that Rust runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Of a process, user and system.
pub(crate) fn of(pid: u32) -> f64 {
    fields(pid).map_or(0.0, |fields| (fields[13] + fields[14]) / TICKS_PER_SECOND)
}

/// The same of a process and all its children, ended ones included.
pub(crate) fn of_family(parent: u32) -> f64 {
    let pids = std::fs::read_dir("/proc")
        .expect("Linux")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let children: f64 = pids
        .filter(|pid| fields(*pid).is_some_and(|fields| (fields[3] - f64::from(parent)).abs() < 0.5))
        .map(of)
        .sum();
    let own = fields(parent).map_or(0.0, |fields| (fields[13] + fields[14] + fields[15] + fields[16]) / TICKS_PER_SECOND);
    own + children
}

/// The fields of `/proc/PID/stat` (proc(5)), from 0; what is no number is NaN.
fn fields(pid: u32) -> Option<Vec<f64>> {
    let text = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat")).ok()?;
    // The second field is the name in brackets, and may hold spaces.
    let (name, rest) = text.split_once(')')?;
    let first = name.split_whitespace().next()?.parse().ok()?;
    Some(
        [first, f64::NAN]
            .into_iter()
            .chain(rest.split_whitespace().map(|field| field.parse().unwrap_or(f64::NAN)))
            .collect(),
    )
}
