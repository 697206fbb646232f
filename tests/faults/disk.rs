//! The disk is full: that of the data, and that of the write-ahead log.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use iotflow::stack::account::Account;
use nix::sys::signal::Signal;

use super::database::{no_ack_leaves, until_unready};
use super::support::judge::number;
use super::support::size;
use super::trial::Trial;

const DISK_MIB: u64 = 96;

/// A file system of its own, in memory, that can be filled; unmounted with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(below: &Path) -> Self {
        let path = below.join("small-disk");
        std::fs::create_dir(&path).expect("the folder is ours");
        as_root(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size={DISK_MIB}m,mode=0777"),
                "tmpfs",
                &path.display().to_string(),
            ],
        );
        Self(path)
    }

    /// Leaves no byte free.
    fn fill(&self) {
        let ballast = std::fs::File::create(self.0.join("ballast")).expect("it can be made");
        // Until it says that it is full.
        drop(std::io::copy(&mut std::io::repeat(0), &mut &ballast));
    }

    fn make_room(&self) {
        std::fs::remove_file(self.0.join("ballast")).expect("it is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: what still has files open there ends with the test too.
        as_root("umount", &["--lazy", &self.0.display().to_string()]);
    }
}

/// Only root may mount. Who is not root and may not become it without a password cannot run this test.
fn as_root(program: &str, arguments: &[&str]) {
    let mut command = if nix::unistd::Uid::effective().is_root() {
        Command::new(program)
    } else {
        let mut command = Command::new("sudo");
        command.args(["--non-interactive", program]);
        command
    };
    let output = command.args(arguments).output();
    let done = output.as_ref().is_ok_and(|output| output.status.success());
    assert!(
        done || std::thread::panicking(),
        "{program} failed; a small disk needs root, or sudo without a password: run this test as root ({output:?})"
    );
}

#[tokio::test]
async fn a_full_data_disk_is_waited_out() {
    let trial = Trial::start().await;
    let disk = SmallDisk::mount(trial.servers.path());
    let place = disk.0.join("space");
    Account::for_servers()
        .expect("there is one")
        .create_folder(&place)
        .expect("it is ours");
    let sql = trial.servers.sql().await;
    sql.batch_execute(&format!("CREATE TABLESPACE small LOCATION '{}'", place.display()))
        .await
        .expect("it can be made");
    sql.batch_execute("ALTER DATABASE iotflow SET default_tablespace = small")
        .await
        .expect("it can be set");
    let service = trial.service().await;
    let fleet = trial.fleet(size(10, 20), &[]);
    fleet.until_acked(6_000).await;
    disk.fill();
    until_unready(&service).await;
    no_ack_leaves(&service, Duration::from_secs(size(2, 10))).await;
    disk.make_room();
    trial.watch.mended();
    let report = fleet.report().await;
    trial.watch.verdict("data disk full", &report);
    service.until_ready().await;
    assert!(
        service.log().contains("53100"),
        "the disk was never full for a batch:\n{}",
        service.log()
    );
    assert_eq!(number(&sql, "SELECT count(*) FROM dead_letters").await, 0, "no row was at fault");
    drop(trial.servers);
}

#[tokio::test]
async fn a_full_disk_of_the_log_stops_the_server_and_nothing_is_lost() {
    let mut trial = Trial::start().await;
    let disk = SmallDisk::mount(trial.servers.path());
    trial.servers.postgres.halt(Signal::SIGINT).expect("it stops");
    let log = trial.servers.path().join("postgres/data/pg_wal");
    let moved = disk.0.join("pg_wal");
    let output = Command::new("cp").arg("-a").arg(&log).arg(&moved).output().expect("cp is there");
    assert!(output.status.success(), "{output:?}");
    std::fs::remove_dir_all(&log).expect("it is there");
    std::os::unix::fs::symlink(&moved, &log).expect("it can be made");
    trial.servers.postgres.resume().await.expect("it starts again");

    let service = trial.service().await;
    let fleet = trial.fleet(size(12, 20), &[]);
    fleet.until_acked(6_000).await;
    disk.fill();
    // The next segment finds no room: the server panics, and cannot come back before there is some.
    let sql = trial.servers.sql().await;
    drop(sql.batch_execute("SELECT pg_switch_wal()").await);
    until_unready(&service).await;
    no_ack_leaves(&service, Duration::from_secs(size(2, 8))).await;
    disk.make_room();
    // Its operator starts it again, whether or not it has ended.
    trial.servers.postgres.halt(Signal::SIGQUIT).expect("it is our child");
    trial.servers.postgres.resume().await.expect("it recovers");
    trial.watch.mended();
    let report = fleet.report().await;
    trial.watch.verdict("disk of the write-ahead log full, server panics", &report);
    service.until_ready().await;
    let log = std::fs::read_to_string(trial.servers.path().join("postgres/postgres.log")).unwrap_or_default();
    assert!(log.contains("PANIC"), "the server never ran out of room for its log");
    drop(trial.servers);
}
