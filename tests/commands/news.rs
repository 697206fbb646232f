//! What is told of a group is the truth in the end, whoever changes it while it is being told; and nothing is told of one that is gone.

use iotflow::devices::commands::fleet::{self, Aggregate};
use iotflow::operations::groups;
use iotflow::protocol::id::GroupId;
use iotflow::protocol::topic::TopicTree;
use tokio_postgres::Client;

use crate::base::{Base, answer};
use crate::plant::ada;
use crate::support::judge::{number, texts};

/// What the courier would publish.
async fn told(client: &mut Client) -> Vec<Aggregate> {
    let transaction = client.transaction().await.expect("a transaction");
    let told = fleet::take_news(&transaction).await.expect("it can be read");
    transaction.commit().await.expect("it is whole");
    told
}

fn tree() -> TopicTree {
    TopicTree::new("iotflow").expect("a base topic")
}

fn north() -> GroupId {
    GroupId::parse("north").expect("an id")
}

#[tokio::test]
async fn what_is_committed_while_the_sum_is_taken_is_told_the_next_time() {
    let mut base = Base::start().await;
    let id = base.ring().await;
    let mut device = base.connect().await;
    let transaction = device.transaction().await.expect("a transaction");
    answer(&transaction, "a", &id, "completed").await;
    let first = told(&mut base.sql).await;
    assert_eq!((first[0].command_id.as_str(), first[0].counts.completed), (id.as_str(), 0));
    transaction.commit().await.expect("it is whole");
    let next = told(&mut base.sql).await;
    let counts = next.first().expect("there is news").counts;
    assert_eq!((counts.completed, counts.queued, counts.total), (1, 1, 2));
    assert_eq!(told(&mut base.sql).await, [], "and then there is none");
}

#[tokio::test]
async fn what_changes_between_two_who_tell_is_told_last() {
    let mut base = Base::start().await;
    let id = base.ring().await;
    let mut first = base.connect().await;
    let transaction = first.transaction().await.expect("a transaction");
    assert_eq!(fleet::take_news(&transaction).await.expect("it can be read").len(), 1);
    let mut device = base.connect().await;
    let one = device.transaction().await.expect("a transaction");
    answer(&one, "a", &id, "completed").await;
    one.commit().await.expect("it is whole");
    // Who comes second waits until the first has put theirs down, and reads after that.
    let second = async |client: &mut Client| {
        let transaction = client.transaction().await.expect("a transaction");
        let told = fleet::take_news(&transaction).await.expect("it can be read");
        assert_eq!(told[0].counts.completed, 1);
        let put = "SELECT FROM outbox WHERE topic = 'first'";
        assert!(transaction.query_opt(put, &[]).await.expect("it can be read").is_some());
        transaction.commit().await.expect("it is whole");
    };
    let put = async || {
        let put = "INSERT INTO outbox (topic, payload) VALUES ('first', '')";
        transaction.execute(put, &[]).await.expect("it is sound");
        transaction.commit().await.expect("it is whole");
    };
    base.meet(second, put).await;
}

#[tokio::test]
async fn nothing_is_told_of_a_group_that_was_deleted_nor_of_its_name_when_another_has_it() {
    let mut base = Base::start().await;
    let id = base.ring().await;
    // Somebody is about to tell of it when it is deleted.
    let mut courier = base.connect().await;
    let transaction = courier.transaction().await.expect("a transaction");
    assert_eq!(fleet::take_news(&transaction).await.expect("it can be read").len(), 1);
    let deleting = async |client: &mut Client| {
        groups::delete(client, &ada(), &tree(), &north(), None).await.expect("it is there");
    };
    let telling = async || {
        let put = "INSERT INTO outbox (topic, payload, retain) VALUES ('iotflow/fleet/status/north', 'told', true)";
        transaction.execute(put, &[]).await.expect("it is sound");
        transaction.commit().await.expect("it is whole");
    };
    base.meet(deleting, telling).await;
    let letters = "SELECT convert_from(payload, 'UTF8') FROM outbox WHERE topic = 'iotflow/fleet/status/north' ORDER BY id";
    assert_eq!(
        texts(&base.sql, letters).await,
        ["told", ""],
        "what is said last is that there is nothing"
    );

    for (device, again) in [("a", false), ("b", true)] {
        if again {
            let made = groups::create(&mut base.sql, &ada(), &north(), &Default::default()).await;
            made.expect("there is none of the name");
        }
        answer(&base.sql, device, &id, "completed").await;
        assert_eq!(told(&mut base.sql).await, []);
    }
    assert_eq!(number(&base.sql, "SELECT count(*) FROM command_news").await, 0);
}
