//! The tables alone, and two who work on them at the same time: nobody sends anything.

use std::cell::Cell;

use iotflow::db::config::Config;
use iotflow::db::migrate::migrate;
use iotflow::devices::commands::answers::{self, Fate, Heard};
use iotflow::protocol::command::{Answer, CommandId};
use iotflow::protocol::id::DeviceIdRef;
use iotflow::stack::postgres::Postgres;
use tempfile::TempDir;
use tokio_postgres::{Client, GenericClient};

use crate::plant::{ada, group, order};
use crate::support::eventually;
use crate::support::servers::{connect, folder, start_postgres};

pub struct Base {
    pub sql: Client,
    url: String,
    _postgres: Postgres,
    _folder: TempDir,
}

/// Says over a transaction what a device would.
pub async fn answer(client: &impl GenericClient, device: &str, command: &CommandId, status: &str) -> Fate {
    let payload = format!(r#"{{"command_id":"{command}","status":"{status}"}}"#);
    let heard = Heard {
        device: DeviceIdRef::parse(device).expect("an id").to_owned(),
        answer: Answer::parse(payload.as_bytes(), None).expect("a sound answer"),
    };
    answers::apply(client, &[heard]).await.expect("it can be stored")[0]
}

impl Base {
    /// With the devices a and b, which are the group north.
    pub async fn start() -> Self {
        let folder = folder();
        let (postgres, _) = start_postgres(folder.path()).await;
        let config = Config {
            url: postgres.url().clone(),
            ..Config::default()
        };
        migrate(&config).await.expect("it migrates");
        let url = postgres.url().reveal().to_owned();
        let sql = connect(&url).await;
        sql.batch_execute(
            "INSERT INTO devices (device) VALUES ('a'), ('b');
             INSERT INTO device_groups (group_id) VALUES ('north');
             INSERT INTO device_group_members (group_id, device_id) SELECT 'north', device_id FROM devices",
        )
        .await
        .expect("they are new");
        Self {
            sql,
            url,
            _postgres: postgres,
            _folder: folder,
        }
    }

    pub async fn connect(&self) -> Client {
        connect(&self.url).await
    }

    /// A command to the group.
    pub async fn ring(&mut self) -> CommandId {
        let given = iotflow::operations::commands::send(&mut self.sql, &ada(), &group("north"), &order("ring")).await;
        given.expect("a sound order").command_id
    }

    /// Does `work` on a connection of its own, and `meanwhile` once that waits for a lock, or has ended.
    pub async fn meet(&self, work: impl AsyncFnOnce(&mut Client), meanwhile: impl AsyncFnOnce()) {
        let mut client = self.connect().await;
        let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("a number").get(0);
        let ended = Cell::new(false);
        let working = async {
            work(&mut client).await;
            ended.set(true);
        };
        let other = async {
            eventually("it waits, or has ended", async || {
                let waits = "SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event_type = 'Lock'";
                let waits = self.sql.query_opt(waits, &[&pid]).await.expect("it can be read").is_some();
                (waits || ended.get()).then_some(())
            })
            .await;
            meanwhile().await;
        };
        tokio::join!(working, other);
    }
}
