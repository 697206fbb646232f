//! `sink`: a subscriber that counts and acks and does nothing else, through rumqttc's own client. What it receives from
//! the same broker in the same run is the measure of what any subscriber could.

use std::time::Duration;

use anyhow::Context as _;
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::Packet;
use rumqttc::v5::{AsyncClient, Event, MqttOptions};
use tokio::time::{Instant, timeout};

use crate::wire::Broker;

/// The arguments of `sink`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    broker: Broker,
    /// The filter to subscribe to.
    #[arg(long, default_value = "$share/null/iotflow/devices/+/telemetry/#")]
    filter: String,
    /// 0 or 1.
    #[arg(long, default_value_t = 1)]
    qos: u8,
    /// End when nothing came for this many seconds after the first message.
    #[arg(long, default_value_t = 2.0)]
    quiet_seconds: f64,
    /// End after this many seconds at most.
    #[arg(long, default_value_t = 120.0)]
    most_seconds: f64,
}

/// Runs `sink`: prints `subscribed` when it is, and at the end what came, as JSON.
pub(crate) async fn run(args: Args) -> anyhow::Result<bool> {
    let mut options = MqttOptions::new(
        format!("null-{:08x}", fastrand::u32(..)),
        args.broker.host.clone(),
        args.broker.port,
    );
    options
        .set_keep_alive(Duration::from_secs(30))
        .set_clean_start(true)
        .set_receive_maximum(Some(u16::MAX))
        .set_max_packet_size(Some(16 * 1024 * 1024));
    if let Some(username) = &args.broker.username {
        options.set_credentials(username, args.broker.password.clone().unwrap_or_default());
    }
    let (client, mut events) = AsyncClient::new(options, 100);
    let qos = if args.qos == 0 { QoS::AtMostOnce } else { QoS::AtLeastOnce };
    client.subscribe(args.filter.clone(), qos).await?;
    let (mut count, mut bytes) = (0_u64, 0_u64);
    let (mut first, mut last): (Option<Instant>, Option<Instant>) = (None, None);
    let (end, quiet) = (
        Instant::now() + Duration::from_secs_f64(args.most_seconds),
        Duration::from_secs_f64(args.quiet_seconds),
    );
    loop {
        let patience = if first.is_some() {
            quiet
        } else {
            end.saturating_duration_since(Instant::now())
        };
        match timeout(patience, events.poll()).await {
            Err(_) => break,
            Ok(event) => match event.context("the connection broke")? {
                Event::Incoming(Packet::Publish(publish)) => {
                    let now = Instant::now();
                    first.get_or_insert(now);
                    last = Some(now);
                    count += 1;
                    bytes += publish.payload.len() as u64;
                }
                Event::Incoming(Packet::SubAck(_)) => println!("subscribed"),
                // Acks and pings are rumqttc's own affair here.
                _ => {}
            },
        }
        if Instant::now() > end {
            break;
        }
    }
    // By the clock that the publishers' start is told by.
    #[expect(clippy::cast_precision_loss, reason = "microseconds since 1970 are below 2^53")]
    let now = jiff::Timestamp::now().as_microsecond() as f64 / 1e6;
    let last_at = last.map(|last| now - last.elapsed().as_secs_f64());
    let seconds = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    #[expect(clippy::cast_precision_loss, reason = "counts are far below 2^53")]
    let rate = count as f64 / seconds.max(0.001);
    println!(
        "{}",
        serde_json::json!({"messages": count, "payload_bytes": bytes, "seconds": seconds, "rate": rate, "last_at": last_at})
    );
    Ok(count > 0)
}
