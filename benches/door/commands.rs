//! Commands to a fleet that is online, one request each, at a rate; from due to accepted by the API, to the device, to completed.

use std::collections::HashMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use iotflow::broker::passwords::Hash;
use iotflow::observe::secret::Secret;
use iotflow::protocol::rights::Role;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::caller::{Call, schedule, token};
use super::device::Device;
use super::support::judge::{number, until_number};
use super::support::servers::{PASSWORD, SERVICE, environment};
use super::support::service::Service;
use super::support::site::Site;

const SECONDS: u64 = 20;
/// Logins at once: each costs the broker a hash.
const LOGINS: usize = 200;

pub(crate) async fn measure(devices: u64, rate: u64) {
    let mut site = Site::durable().await;
    site.add(&[(SERVICE, Role::Service)]).await;
    let hash = Hash::of_generated(&Secret::new(PASSWORD)).expect("randomness");
    let sql = "INSERT INTO devices (device) SELECT 'd' || n FROM generate_series(0, $1::int8 - 1) AS n";
    let fleet = i64::try_from(devices).expect("it fits");
    site.sql.execute(sql, &[&fleet]).await.expect("it is ours");
    let sql = "INSERT INTO broker_users (username, role, password_hash) SELECT device, 'device', $1 FROM devices WHERE device ~ '^d[0-9]'";
    site.sql.execute(sql, &[&hash.as_str()]).await.expect("it is ours");
    site.in_force().await;
    let mut environment = environment(site.ports.staff, site.db.url.reveal());
    environment.push(("API_RATE".to_owned(), "0".to_owned()));
    let service = Service::ready(site.folder.path(), &environment).await;
    let token = token(&mut site.sql).await;

    let (sender, mut arrived) = mpsc::channel(usize::try_from(rate * SECONDS).expect("it fits"));
    let names: Vec<String> = (0..devices).map(|number| format!("d{number}")).collect();
    for some in names.chunks(LOGINS) {
        let logins = some
            .iter()
            .map(|name| tokio::spawn(Device::connect(site.ports.plain, name.clone(), PASSWORD)));
        for login in logins.collect::<Vec<_>>() {
            tokio::spawn(login.await.expect("it logs in").run(sender.clone()));
        }
    }
    println!("\n{devices} devices online, a command to one after the other, {rate}/s for {SECONDS} s");
    let begun = Instant::now();
    let call = |number: u64| Call {
        method: "POST",
        path: format!("/api/v1/mqtt/device/d{}/command", number % devices),
        body: format!(
            "{{\"command_type\":\"control\",\"command\":\"ring\",\"command_id\":\"c{number}\",\"parameters\":{{\"n\":{number}}}}}"
        ),
    };
    let taking = async {
        let mut seen: HashMap<String, Instant> = HashMap::new();
        let mut doubled = 0_u64;
        while (seen.len() as u64) < rate * SECONDS {
            let Ok(Some(one)) = tokio::time::timeout(Duration::from_secs(60), arrived.recv()).await else {
                break;
            };
            doubled += u64::from(seen.insert(one.command_id, one.at).is_some());
        }
        (seen, doubled)
    };
    let (answered, (seen, doubled)) = tokio::join!(schedule(&service.address, &token, rate, Duration::from_secs(SECONDS), call), taking);
    let all = i64::try_from(rate * SECONDS).expect("it fits");
    until_number(&site.sql, "SELECT count(*) FROM command_deliveries WHERE state = 'completed'", all).await;
    let completed = begun.elapsed().as_secs_f64();
    println!(
        "API: {}, {:.0} a second",
        answered.words(),
        answered.latency.len() as f64 / answered.seconds
    );
    let mut to_device = Histogram::<u64>::new(3).expect("3 digits");
    for (command, at) in &seen {
        let sent: u64 = command.trim_start_matches('c').parse().expect("a number");
        #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
        let due = begun + Duration::from_secs_f64(sent as f64 / rate as f64);
        let micros = u64::try_from(at.saturating_duration_since(due).as_micros()).expect("not for ever");
        to_device.record(micros.max(1)).expect("within bounds");
    }
    let at = |quantile: f64| to_device.value_at_quantile(quantile) as f64 / 1e3;
    println!(
        "devices: {} of {all} arrived, {doubled} twice; from due to arrived p50 {:.0} ms, p99 {:.0} ms, max {:.0} ms",
        seen.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    let failed = number(&site.sql, "SELECT count(*) FROM command_deliveries WHERE state <> 'completed'").await;
    println!(
        "all {all} completed after {completed:.1} s ({:.0} a second), {failed} not",
        all as f64 / completed
    );
}
