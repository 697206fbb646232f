//! Commands are history, and history ends.

use std::time::Duration;

use iotflow::devices::commands::retention::{self, Forgotten};
use iotflow::devices::commands::state::State;

use crate::base::Base;
use crate::plant::{Plant, device};
use crate::support::judge::{texts, until_number};
use crate::support::service::Service;

const DAY: Duration = Duration::from_secs(86_400);

#[tokio::test]
async fn only_what_is_old_and_has_come_to_its_end_is_forgotten() {
    let mut base = Base::start().await;
    base.sql
        .batch_execute(
            "INSERT INTO commands (command_id, group_id, command_type, command, created_by, created_at, expires_at, idempotency_key)
             SELECT id, fleet, 'control', 'x', 'ada', now() - age, now() - age + interval '30 days', id
             FROM (VALUES ('done', NULL, interval '2 days'), ('fleet-done', 'north', '2 days'), ('young', NULL, '1 hour'),
                          ('open', NULL, '3 days'), ('fleet-open', 'north', '3 days'), ('under-way', NULL, '4 days')) AS new (id, fleet, age);
             INSERT INTO command_deliveries (command_id, device_id, state, packet_id, expires_at)
             SELECT id, (SELECT device_id FROM devices WHERE device = name), state, packet, now()
             FROM (VALUES ('done', 'a', 'completed', NULL), ('fleet-done', NULL, 'sent', NULL), ('fleet-done', 'a', 'failed', NULL),
                          ('fleet-done', 'b', 'cancelled', NULL), ('young', 'a', 'completed', NULL), ('open', 'a', 'accepted', NULL),
                          ('fleet-open', NULL, 'sent', NULL), ('fleet-open', 'a', 'completed', NULL), ('fleet-open', 'b', 'sent', NULL),
                          ('under-way', 'a', 'completed', 7)) AS new (id, name, state, packet)",
        )
        .await
        .expect("they are sound");
    let (mut commands, mut place) = (0, None);
    loop {
        let transaction = base.sql.transaction().await.expect("a transaction");
        let Forgotten {
            commands: some,
            place: last,
        } = retention::forget(&transaction, DAY, place.as_ref()).await.expect("it works");
        transaction.commit().await.expect("it is whole");
        (commands, place) = (commands + some, last);
        if place.is_none() {
            break;
        }
    }
    assert_eq!(commands, 2);
    let kept = "SELECT command_id || ' ' || count(seq) FROM commands LEFT JOIN command_deliveries USING (command_id) GROUP BY command_id ORDER BY 1";
    assert_eq!(texts(&base.sql, kept).await, ["fleet-open 3", "open 1", "under-way 1", "young 1"]);
}

#[tokio::test]
async fn the_service_forgets_what_is_older_than_it_is_told_to_keep() {
    let kept = [("COMMAND_RETENTION", "1d")];
    let mut plant = Plant::with(&kept).await;
    plant.register(&["pump"]).await;
    let mut pump = plant.device("pump").await;
    let id = plant.give(&device("pump"), "open").await;
    pump.receive(1).await;
    pump.answer(&format!(r#"{{"command_id":"{id}","status":"completed"}}"#)).await;
    plant.until(&id, State::Completed).await;
    until_number(&plant.sql, "SELECT count(*) FROM command_deliveries WHERE packet_id IS NOT NULL", 0).await;
    let older = "UPDATE commands SET created_at = created_at - interval '2 days'";
    plant.sql.execute(older, &[]).await.expect("it is there");
    // It looks when it comes up, and then now and then.
    plant.service.kill();
    let mut environment = plant.servers.environment();
    environment.extend(kept.map(|(name, value)| (name.to_owned(), value.to_owned())));
    plant.service = Service::ready(plant.servers.path(), &environment).await;
    until_number(&plant.sql, "SELECT count(*) FROM commands", 0).await;
    until_number(&plant.sql, "SELECT count(*) FROM command_deliveries", 0).await;
}
