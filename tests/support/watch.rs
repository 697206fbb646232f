//! An eye on services under fault: ten times a second the account of every message and the memory of every process.
//!
//! At the end it gives its verdict with the fleet's: a line of the table that `./dev faults` prints.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::fleet::Report;
use super::service::Service;

/// Between two scrapes.
const EVERY: Duration = Duration::from_millis(100);
/// Longer than this a page is not waited for: the process is frozen, or the machine is.
const PAGE_WITHIN: Duration = Duration::from_secs(5);

/// So many messages beyond those in flight say that things flow again, and not only that what was under way arrived.
const MORE: u64 = 500;

/// See the module's documentation.
#[derive(Default)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    ended: Arc<AtomicBool>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Seen {
    scrapes: u64,
    /// Scrapes whose sum did not hold.
    imbalances: Vec<String>,
    /// Largest resident memory of any process, in KiB.
    peak_kib: u64,
    /// Messages stored, recognised or put to the dead letters so far, by all processes that were followed.
    progress: u64,
    /// Messages in flight at the last look, by process.
    in_flight: HashMap<u32, u64>,
    /// The fault that is to be recovered from: when it ended, and how far things must get.
    mended: Option<(Instant, u64)>,
    recoveries: Vec<Duration>,
}

/// What one page says of one QoS.
#[derive(Debug, Default, Clone, Copy)]
struct Account {
    received: f64,
    settled: f64,
    in_flight: f64,
    stored: f64,
}

impl Watch {
    /// Follows a process until it ends.
    pub fn follow(&self, service: &Service) {
        let (seen, ended) = (Arc::clone(&self.seen), Arc::clone(&self.ended));
        let address: SocketAddr = service.address.parse().expect("a socket address");
        let pid = service.id();
        let thread = std::thread::spawn(move || {
            let mut stored = 0;
            while !ended.load(Ordering::Relaxed) && resident_kib(pid, "VmHWM").is_some() {
                let begun = Instant::now();
                look(&seen, address, pid, &mut stored);
                std::thread::park_timeout(EVERY.saturating_sub(begun.elapsed()));
            }
            seen.lock().unwrap_or_else(PoisonError::into_inner).in_flight.remove(&pid);
        });
        self.threads.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
    }

    /// The fault is over, as of now. It is recovered from when all that was in flight is settled, and [`MORE`] beside it.
    pub fn mended(&self) {
        let mut seen = self.seen();
        let target = seen.progress + seen.in_flight.values().sum::<u64>() + MORE;
        seen.mended = Some((Instant::now(), target));
    }

    /// Whether all is settled that was in flight when the last fault was over, and [`MORE`] beside it.
    pub fn is_recovered(&self) -> bool {
        self.seen().mended.is_none()
    }

    /// The largest resident memory so far, in KiB.
    pub fn peak_kib(&self) -> u64 {
        self.seen().peak_kib
    }

    /// Fails the test unless the account held at every scrape and every acked reading is there exactly once.
    pub fn verdict(self, fault: &str, report: &Report) {
        self.print(fault, report);
        report.assert_exactly_once(fault);
    }

    /// The same, for a load that may lose what it is allowed to: `lost` readings at most.
    pub fn verdict_but(self, fault: &str, report: &Report, lost: u64) {
        self.print(fault, report);
        let [found_lost, doubled, unexpected, found] = report.verdict();
        assert!(found > 0, "{fault}: nothing arrived");
        assert!(found_lost <= lost, "{fault}: {found_lost} lost, {lost} may be");
        assert_eq!([doubled, unexpected], [0, 0], "{fault}: doubled, unexpected");
    }

    fn print(&self, fault: &str, report: &Report) {
        self.ended.store(true, Ordering::Relaxed);
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            thread.join().expect("the watch does not panic");
        }
        let seen = self.seen();
        let [lost, doubled, unexpected, found] = report.verdict();
        let recovery = seen
            .recoveries
            .iter()
            .max()
            .map_or("–".to_owned(), |longest| format!("{:.1}", longest.as_secs_f64()));
        println!(
            "| {fault} | {} | {found} | {lost} | {doubled} | {unexpected} | {recovery} | {} | {} |",
            report.number("/sent"),
            seen.peak_kib / 1024,
            seen.scrapes
        );
        assert!(seen.scrapes > 0, "{fault}: the account was never seen");
        assert!(
            seen.imbalances.is_empty(),
            "{fault}: the account did not balance at {} of {} scrapes: {:?}",
            seen.imbalances.len(),
            seen.scrapes,
            seen.imbalances.first()
        );
        assert!(seen.mended.is_none(), "{fault}: things never flowed again after the fault");
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The threads see it within a scrape, and hold nothing of the test's.
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// One look. A process that does not answer is looked at again later.
fn look(seen: &Mutex<Seen>, address: SocketAddr, pid: u32, stored: &mut u64) {
    let (page, memory) = (page(address), resident_kib(pid, "VmHWM").unwrap_or(0));
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.peak_kib = seen.peak_kib.max(memory);
    let Some(page) = page else { return };
    let accounts = Account::by_qos(&page);
    seen.scrapes += 1;
    for (qos, account) in accounts.iter().enumerate() {
        if (account.received - account.settled - account.in_flight).abs() > 0.5 {
            seen.imbalances.push(format!("QoS {qos}: {account:?}"));
        }
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
    let [now, in_flight] = [
        accounts[0].stored + accounts[1].stored,
        accounts[0].in_flight + accounts[1].in_flight,
    ]
    .map(|count| count as u64);
    seen.progress += now.saturating_sub(*stored);
    seen.in_flight.insert(pid, in_flight);
    *stored = now;
    if let Some((when, target)) = seen.mended
        && seen.progress >= target
    {
        seen.recoveries.push(when.elapsed());
        seen.mended = None;
    }
}

impl Account {
    fn by_qos(page: &str) -> [Self; 2] {
        let mut accounts = [Self::default(); 2];
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let Some((series, value)) = line.rsplit_once(' ') else { continue };
            let (family, value) = (series.split('{').next().unwrap_or_default(), value.parse().unwrap_or(0.0));
            let account = &mut accounts[usize::from(series.contains("qos=\"1\""))];
            match family {
                "iotflow_qos_received_total" => account.received += value,
                "iotflow_qos_in_flight" => account.in_flight += value,
                "iotflow_qos_committed_total" | "iotflow_qos_duplicates_total" | "iotflow_qos_dead_lettered_total" => {
                    account.settled += value;
                    account.stored += value;
                }
                "iotflow_qos_shed_total" | "iotflow_qos_abandoned_total" => account.settled += value,
                _ => {}
            }
        }
        accounts
    }
}

/// The page of the account; `None` where nobody answers, or not wholly.
fn page(address: SocketAddr) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&address, PAGE_WITHIN).ok()?;
    stream.set_read_timeout(Some(PAGE_WITHIN)).ok()?;
    stream.write_all(b"GET /metrics/qos HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let length: usize = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok())?;
    (head.starts_with("HTTP/1.0 200") && body.len() == length).then(|| body.to_owned())
}

/// A memory figure of a process (proc(5), `/proc/PID/status`); `None` once it has ended.
pub fn resident_kib(pid: u32, name: &str) -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("status")).ok()?;
    status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?
        .split_whitespace()
        .next()?
        .parse()
        .ok()
}
