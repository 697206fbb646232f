//! kill -9 of the service at any instant: no command is lost, and none goes out twice.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::device::json;
use crate::plant::{Plant, device, order};
use crate::support::judge::number;
use crate::support::service::Service;
use crate::support::{eventually, pause, size};

#[tokio::test]
async fn whenever_it_is_killed_each_command_goes_out_once() {
    let (kills, a_kill) = size((6, 40), (40, 100));
    let mut plant = Plant::start().await;
    let names: Vec<String> = (0..8).map(|number| format!("d{number}")).collect();
    plant.register(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let filters: Vec<String> = names.iter().map(|name| format!("iotflow/devices/{name}/commands/+")).collect();
    let mut watcher = crate::device::Device::subscribed(plant.servers.mqtt_port, "watcher", &filters).await;
    let mut given = 0;
    for _ in 0..kills {
        for _ in 0..a_kill {
            let to = &names[given % names.len()];
            plant.send(&device(to), &order(&format!("{given}"))).await.expect("a sound order");
            given += 1;
        }
        // Somewhere between its coming up and the last packet.
        pause(Duration::from_millis(fastrand::u64(0..400))).await;
        plant.service.kill();
        plant.service = Service::start(plant.servers.path(), &plant.servers.environment()).await;
    }
    plant.service.until_ready().await;
    eventually("all are sent", async || {
        let open = "SELECT count(*) FROM command_deliveries WHERE sent_at IS NULL OR packet_id IS NOT NULL";
        (number(&plant.sql, open).await == 0).then_some(())
    })
    .await;
    watcher.receive(given).await;
    watcher.listen(Duration::from_millis(500)).await;
    let mut seen: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for publish in &watcher.received {
        let number = json(publish)["command"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .expect("a number");
        seen.entry(String::from_utf8_lossy(&publish.topic).into_owned())
            .or_default()
            .push(number);
    }
    assert_eq!(watcher.received.len(), given, "each once: {seen:?}");
    for (topic, numbers) in seen {
        assert!(numbers.is_sorted_by(|a, b| a < b), "{topic}: in order, and none twice: {numbers:?}");
    }
}
