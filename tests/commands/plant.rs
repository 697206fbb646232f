//! A service on servers of its own, and an operator at its database.

use std::time::Duration;

use iotflow::devices::commands::read::{self, Command, Delivery};
use iotflow::devices::commands::state::State;
use iotflow::identity::audit::Actor;
use iotflow::operations::commands::{self, Given, Order, Recipient, SendError};
use iotflow::protocol::command::{CommandId, Kind};
use iotflow::protocol::id::{DeviceIdRef, GroupId};
use tokio_postgres::Client;

use crate::device::Device;
use crate::support::eventually;
use crate::support::servers::Servers;
use crate::support::service::Service;

pub struct Plant {
    pub service: Service,
    pub sql: Client,
    pub servers: Servers,
}

pub fn ada() -> Actor {
    Actor::new("ada", "192.0.2.7")
}

pub fn device(id: &str) -> Recipient {
    Recipient::Device(DeviceIdRef::parse(id).expect("an id").to_owned())
}

pub fn group(id: &str) -> Recipient {
    Recipient::Group(GroupId::parse(id).expect("an id"))
}

pub fn order(command: &str) -> Order<'_> {
    Order {
        ttl: Duration::from_secs(600),
        ..Order::new(Kind::Control, command)
    }
}

impl Plant {
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// With these settings beside the usual ones.
    pub async fn with(settings: &[(&str, &str)]) -> Self {
        let servers = Servers::start().await;
        let mut environment = servers.environment();
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let service = Service::ready(servers.path(), &environment).await;
        let sql = servers.sql().await;
        Self { service, sql, servers }
    }

    pub async fn register(&self, devices: &[&str]) {
        self.sql
            .execute(
                "INSERT INTO devices (device) SELECT unnest($1::text[]) ON CONFLICT DO NOTHING",
                &[&devices],
            )
            .await
            .expect("they are new");
    }

    pub async fn group(&self, id: &str, members: &[&str]) {
        self.register(members).await;
        self.sql
            .execute("INSERT INTO device_groups (group_id) VALUES ($1)", &[&id])
            .await
            .expect("it is new");
        self.sql
            .execute(
                "INSERT INTO device_group_members (group_id, device_id) SELECT $1, device_id FROM devices WHERE device = ANY ($2)",
                &[&id, &members],
            )
            .await
            .expect("they are none yet");
    }

    pub async fn send(&mut self, to: &Recipient, order: &Order<'_>) -> Result<Given, SendError> {
        commands::send(&mut self.sql, &ada(), to, order).await
    }

    pub async fn give(&mut self, to: &Recipient, command: &str) -> CommandId {
        self.send(to, &order(command)).await.expect("it is a sound order").command_id
    }

    pub async fn command(&self, id: &CommandId) -> Command {
        read::get(&self.sql, id).await.expect("it can be read").expect("it is there")
    }

    pub async fn delivery(&self, id: &CommandId) -> Delivery {
        let deliveries = read::deliveries(&self.sql, id, None, 0, 10).await.expect("they can be read");
        let [delivery] = <[Delivery; 1]>::try_from(deliveries).expect("one device");
        delivery
    }

    pub async fn until(&self, id: &CommandId, state: State) -> Delivery {
        eventually(&format!("{id} is {state}"), async || {
            let delivery = self.delivery(id).await;
            (delivery.state == state).then_some(delivery)
        })
        .await
    }

    /// A device with a session of its own at the broker.
    pub async fn device(&self, id: &str) -> Device {
        Device::connect(self.servers.mqtt_port, id).await
    }

    /// What the status topics say of a device, as it is in the database.
    pub async fn until_status(&self, device: &str, status: &str) {
        eventually(&format!("{device} is {status}"), async || {
            let row = self
                .sql
                .query_opt(
                    "SELECT FROM device_status JOIN devices USING (device_id) WHERE device = $1 AND status = $2",
                    &[&device, &status],
                )
                .await
                .expect("it can be read");
            row.map(drop)
        })
        .await;
    }
}
