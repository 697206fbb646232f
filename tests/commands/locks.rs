//! Who changes deliveries does so in one order: nobody is ever a deadlock's victim.

use std::time::Duration;

use iotflow::devices::commands::answers::{self, Heard};
use iotflow::devices::commands::{cancel, dispatch, retention};
use iotflow::devices::registry;
use iotflow::protocol::command::Answer;
use iotflow::protocol::id::DeviceIdRef;
use tokio_postgres::{Client, Transaction};

use crate::base::{Base, answer};

const HOUR: Duration = Duration::from_secs(3_600);

/// Two commands for b, one for a, and one for both as a group: of b are 1, 4 and 5, of a 3 and 6; 2 is the publish to the group.
const DELIVERIES: &str = "
    TRUNCATE commands, command_deliveries, command_news, device_status RESTART IDENTITY;
    INSERT INTO commands (command_id, group_id, command_type, command, created_by, created_at, expires_at)
    SELECT id, CASE id WHEN 'f' THEN 'north' END, 'control', 'x', 'ada', now() - interval '2 hours', now() + interval '1 hour'
    FROM unnest(ARRAY['c', 'd', 'e', 'f']) AS id;
    INSERT INTO command_deliveries (command_id, device_id, expires_at)
    SELECT id, (SELECT device_id FROM devices WHERE device = name), now() + interval '1 hour'
    FROM (VALUES ('c', 'b'), ('f', NULL), ('f', 'a'), ('f', 'b'), ('d', 'b'), ('e', 'a')) AS new (id, name)";
/// The last lies first in the table, and has the lowest packet id: whoever takes them as they come takes them in the wrong order.
const TURN_ROUND: &str = "
    DO $$
    DECLARE
        last bigint;
    BEGIN
        FOR last IN SELECT seq FROM command_deliveries ORDER BY seq DESC LOOP
            UPDATE command_deliveries SET packet_id = 100 - packet_id WHERE seq = last;
        END LOOP;
    END
    $$";
const AS_THEY_LIE: &str = "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off";

async fn lock(transaction: &Transaction<'_>, seqs: std::ops::RangeInclusive<i64>) {
    for seq in seqs {
        transaction
            .execute("SELECT FROM command_deliveries WHERE seq = $1 FOR UPDATE", &[&seq])
            .await
            .expect("nobody who waits for us has it");
    }
}

/// With the deliveries as `state` leaves them, `work` begins when somebody has locked the first, who then locks the others in order.
async fn meet(base: &Base, state: &str, work: impl AsyncFnOnce(&mut Client)) {
    for statement in [DELIVERIES, state, TURN_ROUND] {
        base.sql.batch_execute(statement).await.expect(statement);
    }
    let mut first = base.connect().await;
    let transaction = first.transaction().await.expect("a transaction");
    lock(&transaction, 1..=1).await;
    let meanwhile = async || {
        lock(&transaction, 2..=6).await;
        transaction.commit().await.expect("it is whole");
    };
    let work = async |client: &mut Client| {
        client.batch_execute(AS_THEY_LIE).await.expect("sound settings");
        work(client).await;
    };
    base.meet(work, meanwhile).await;
}

async fn number(base: &Base, device: &str) -> i32 {
    let row = base
        .sql
        .query_one("SELECT device_id FROM devices WHERE device = $1", &[&device])
        .await;
    row.expect("it is registered").get(0)
}

#[tokio::test]
async fn deliveries_are_locked_in_one_order_by_whoever_changes_them() {
    let base = Base::start().await;
    let b = number(&base, "b").await;
    let away = "INSERT INTO device_status (device_id, status, since, seen_at) SELECT device_id, 'offline', now(), now() FROM devices;";

    meet(
        &base,
        "UPDATE command_deliveries SET state = 'sent', packet_id = seq",
        async |client| {
            assert_eq!(dispatch::forget_packets(client).await.expect("no deadlock"), 6);
        },
    )
    .await;

    let under_way = "UPDATE command_deliveries SET packet_id = seq WHERE seq NOT IN (3, 4);
                     UPDATE command_deliveries SET by_group = true WHERE seq IN (3, 4)";
    meet(&base, &format!("{away} {under_way}"), async |client| {
        let transaction = client.transaction().await.expect("a transaction");
        dispatch::lock(&transaction, &[5, 2, 6, 1]).await.expect("no deadlock");
        assert_eq!(dispatch::sent(&transaction, &[5, 2]).await.expect("no deadlock"), 2);
        dispatch::done(&transaction, &[6, 1]).await.expect("no deadlock");
        transaction.commit().await.expect("it is whole");
    })
    .await;

    meet(&base, away, async |client| {
        assert_eq!(dispatch::hold(client, 10).await.expect("no deadlock"), 5);
    })
    .await;

    meet(
        &base,
        &format!("{away} UPDATE command_deliveries SET held = device_id IS NOT NULL"),
        async |client| {
            let back = "UPDATE device_status SET status = 'online'";
            assert_eq!(client.execute(back, &[]).await.expect("no deadlock"), 2);
            let held = client.query_one("SELECT count(*) FROM command_deliveries WHERE held", &[]).await;
            assert_eq!(held.expect("a number").get::<_, i64>(0), 0, "all were released");
        },
    )
    .await;

    let late = "UPDATE command_deliveries SET expires_at = now()";
    meet(&base, late, async |client| {
        assert_eq!(cancel::expire(client).await.expect("no deadlock"), 6);
    })
    .await;

    meet(&base, "SELECT", async |client| {
        let heard = |device: &str, command: &str| Heard {
            device: DeviceIdRef::parse(device).expect("an id").to_owned(),
            answer: Answer::parse(format!(r#"{{"command_id":"{command}","status":"completed"}}"#).as_bytes(), None).expect("sound"),
        };
        let transaction = client.transaction().await.expect("a transaction");
        let answers = [heard("a", "e"), heard("b", "d"), heard("b", "f"), heard("a", "f"), heard("b", "c")];
        answers::apply(&transaction, &answers).await.expect("no deadlock");
        transaction.commit().await.expect("it is whole");
    })
    .await;

    let ended = "UPDATE command_deliveries SET state = 'completed', finished_at = now()";
    meet(&base, ended, async |client| {
        let transaction = client.transaction().await.expect("a transaction");
        let forgotten = retention::forget(&transaction, HOUR, None).await.expect("no deadlock");
        assert_eq!(forgotten.commands, 4);
        transaction.commit().await.expect("it is whole");
    })
    .await;

    meet(&base, away, async |client| {
        let transaction = client.transaction().await.expect("a transaction");
        registry::delete(&transaction, b).await.expect("no deadlock");
        transaction.commit().await.expect("it is whole");
    })
    .await;
}

#[tokio::test]
async fn a_device_that_answers_and_one_who_cancels_do_not_wait_for_each_other() {
    let mut base = Base::start().await;
    let id = base.ring().await;
    base.sql
        .batch_execute("UPDATE commands SET has_news = false")
        .await
        .expect("as in V6");
    let mut courier = base.connect().await;
    let transaction = courier.transaction().await.expect("a transaction");
    lock(&transaction, 2..=2).await;
    let cancelling = async |client: &mut Client| {
        let transaction = client.transaction().await.expect("a transaction");
        assert_eq!(
            cancel::cancel(&transaction, &id).await.expect("no deadlock"),
            1,
            "the other has answered"
        );
        transaction.commit().await.expect("it is whole");
    };
    let answering = async || {
        answer(&transaction, "a", &id, "completed").await;
        transaction.commit().await.expect("no deadlock");
    };
    base.meet(cancelling, answering).await;
}

#[tokio::test]
async fn a_device_that_is_back_and_a_publish_to_its_group_do_not_wait_for_each_other() {
    let base = Base::start().await;
    for statement in [
        DELIVERIES,
        "INSERT INTO device_status (device_id, status, since, seen_at) SELECT device_id, 'offline', now(), now() FROM devices WHERE device = 'a';
         UPDATE command_deliveries SET held = true WHERE seq = 3;
         UPDATE command_deliveries SET packet_id = 4 WHERE seq = 4;
         INSERT INTO commands (command_id, group_id, command_type, command, created_by, expires_at)
         VALUES ('g', 'north', 'control', 'x', 'ada', now() + interval '1 hour');
         INSERT INTO command_deliveries (command_id, device_id, by_group, packet_id, expires_at)
         VALUES ('g', NULL, false, 7, now()), ('g', (SELECT device_id FROM devices WHERE device = 'a'), true, NULL, now())",
        "UPDATE commands SET has_news = false",
    ] {
        base.sql.batch_execute(statement).await.expect(statement);
    }
    let mut courier = base.connect().await;
    let transaction = courier.transaction().await.expect("a transaction");
    dispatch::lock(&transaction, &[4]).await.expect("nobody else is there");
    dispatch::sent(&transaction, &[4]).await.expect("nobody else is there");
    let back = async |client: &mut Client| {
        client
            .execute("UPDATE device_status SET status = 'online'", &[])
            .await
            .expect("no deadlock");
    };
    let noting = async || {
        dispatch::sent(&transaction, &[7]).await.expect("no deadlock");
        transaction.commit().await.expect("it is whole");
    };
    base.meet(back, noting).await;
}
