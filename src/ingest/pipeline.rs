//! Builds the pipeline, last stage first, and hands out its inlets.

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use foldhash::fast::FixedState;
use metrics::Gauge;
use tokio::sync::mpsc;

use crate::lifecycle::tasks::Tasks;
use crate::protocol::topic::{BadBaseTopic, TopicTree};

use super::batch::Batch;
use super::config::Config;
use super::copy::{Store, Writer};
use super::hearing::Hearing;
use super::parse::{Handover, ParseStage};
use super::queue::{Delivery, ShardQueue};
use super::status::StatusStage;

/// Where the subscribers put what they receive. The queues close when the last clone is gone.
#[derive(Debug, Clone)]
pub struct Inlet {
    shards: Arc<Shards>,
    tree: TopicTree,
}

#[derive(Debug)]
struct Shards {
    queues: Vec<Arc<ShardQueue>>,
    hash: FixedState,
}

impl Drop for Shards {
    fn drop(&mut self) {
        for queue in &self.queues {
            queue.close();
        }
    }
}

impl Inlet {
    /// Puts a delivery into its device's shard. The consumer is woken by [`Inlet::wake`].
    ///
    /// # Errors
    /// Returns the delivery where it is to be shed.
    pub fn push(&self, delivery: Delivery) -> Result<(), Delivery> {
        let queues = &self.shards.queues;
        let shard = if queues.len() == 1 {
            0
        } else {
            let mut hasher = self.shards.hash.build_hasher();
            hasher.write(self.tree.shard_key(&delivery.topic));
            usize::try_from(hasher.finish() % queues.len() as u64).expect("less than the number of shards")
        };
        queues[shard].push(delivery)
    }

    /// Wakes the shards after a burst.
    pub fn wake(&self) {
        for queue in &self.shards.queues {
            queue.wake();
        }
    }
}

/// The pipeline's entrances.
#[derive(Debug)]
pub struct Pipeline {
    /// For telemetry.
    pub telemetry: Inlet,
    /// For status topics: it has room for a whole Receive Maximum and as much QoS 0.
    pub status: mpsc::Sender<Delivery>,
    /// Whether devices are heard by them.
    pub hearing: Arc<Hearing>,
    /// For watching the queues.
    pub gauges: QueueGauges,
}

/// The depth of each shard's queue, as of the last look.
#[derive(Debug)]
pub struct QueueGauges(Vec<(std::sync::Weak<ShardQueue>, [Gauge; 2])>);

impl QueueGauges {
    /// Looks.
    #[expect(clippy::cast_precision_loss, reason = "queues hold far fewer than 2^53")]
    pub fn update(&self) {
        for (queue, [depth, capacity]) in &self.0 {
            if let Some(queue) = queue.upgrade() {
                depth.set(queue.len() as f64);
                capacity.set(queue.capacity() as f64);
            }
        }
    }
}

/// Starts every stage behind the subscribers. `receive_maximum` times `connections` QoS 1 messages always find a place.
///
/// # Errors
/// [`BadBaseTopic`].
pub fn start(config: &Config, store: &Store, tasks: &Tasks, receive_maximum: u16, connections: usize) -> Result<Pipeline, BadBaseTopic> {
    let tree = TopicTree::new(&config.base_topic)?;

    let window = usize::from(receive_maximum);
    let (status, status_inbox) = mpsc::channel(2 * window);
    let hearing = Arc::new(Hearing::default());
    let status_stage = StatusStage::new(config, tree.clone(), store.clone(), Arc::clone(&hearing));
    tasks.spawn("status", status_stage.run(status_inbox));

    let (mut queues, mut gauges) = (Vec::new(), Vec::new());
    for shard in 0..config.shards {
        let queue = Arc::new(ShardQueue::new(config.queue_qos0, window * connections));
        let handover = Handover::new();
        let (outbox, inbox) = mpsc::channel::<Batch>(1);
        tasks.spawn(
            format!("writer-{shard}"),
            Writer::new(store.clone()).run(inbox, Arc::clone(&handover), Arc::clone(&queue)),
        );
        let parse = ParseStage::new(config, tree.clone(), Arc::clone(&queue), outbox, handover);
        tasks.spawn_thread(format!("parse-{shard}"), move || parse.run());
        gauges.push((Arc::downgrade(&queue), store.metrics.queue(shard)));
        queues.push(queue);
    }
    let shards = Arc::new(Shards {
        queues,
        hash: FixedState::with_seed(0),
    });
    Ok(Pipeline {
        telemetry: Inlet { shards, tree },
        status,
        hearing,
        gauges: QueueGauges(gauges),
    })
}
