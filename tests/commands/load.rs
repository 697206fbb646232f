//! Many at once: thousands of devices, a command each, and what that takes.

use std::time::Instant;

use crate::plant::Plant;
use crate::support::judge::until_number;
use crate::support::size;

#[tokio::test]
async fn commands_to_a_whole_fleet_all_go_out() {
    let devices = size(2_000, 10_000);
    let plant = Plant::start().await;
    let names: Vec<String> = (0..devices).map(|number| format!("d{number}")).collect();
    plant.register(&names.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let begun = Instant::now();
    plant
        .sql
        .batch_execute(
            "INSERT INTO commands (command_id, command_type, command, created_by, expires_at)
                 SELECT 'c-' || device, 'control', 'ring', 'ada', now() + interval '1 hour' FROM devices;
             INSERT INTO command_deliveries (command_id, device_id, expires_at)
                 SELECT 'c-' || device, device_id, now() + interval '1 hour' FROM devices",
        )
        .await
        .expect("they are sound");
    let all = "SELECT count(*) FROM command_deliveries WHERE state = 'sent' AND packet_id IS NULL";
    until_number(&plant.sql, all, i64::from(devices)).await;
    let rate = f64::from(devices) / begun.elapsed().as_secs_f64();
    println!("{devices} commands, {rate:.0} a second");
}
