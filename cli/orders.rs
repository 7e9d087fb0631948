//! The doors of the ingress for real: records through a producer, orders from the tracking task that owns them, here or
//! in another process.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::{Duration, Instant};

use millrace_ingress::{Answer, KnownOrder, Orders, Outgoing, PublishError, Publisher, Unavailable, WaitFor};
use millrace_processors::tracking::OrderView;
use millrace_runtime::{Query, TaskId, Topology, partition_of};
use millrace_worker::{Asks, ProduceError, RecordProducer};

/// Between two looks for a newer version.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// The processor that must have read the catalog before an order can be priced.
pub(crate) const INTAKE: &str = "intake";
/// The processor and the store that keep the readable order.
pub(crate) const TRACKING: &str = "tracking";
const VIEW: &str = "orders-view";

/// Publishes through Kafka.
pub(crate) struct KafkaPublisher(pub(crate) RecordProducer);

impl Publisher for KafkaPublisher {
    fn publish(&self, record: Outgoing) -> Answer<'_, Result<(), PublishError>> {
        Box::pin(async move {
            let headers: Vec<(&str, &str)> =
                record.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let sent = self.0.produce(record.topic, record.key.as_bytes(), Some(&record.value), &headers).await;
            sent.map_err(|error| match error {
                ProduceError::QueueFull => PublishError::QueueFull,
                other => {
                    tracing::warn!(topic = record.topic, error = %other, "a record was not acknowledged");
                    PublishError::NotAcknowledged
                }
            })
        })
    }
}

/// Where other processes' tasks answer: partition of tracking to the address of its process.
pub(crate) type Owners = Arc<RwLock<HashMap<i32, String>>>;

/// Finds orders in tracking.
pub(crate) struct Tracked {
    pub(crate) topology: Arc<Topology>,
    /// The tasks of this process, where it runs any.
    pub(crate) asks: Option<Asks>,
    pub(crate) owners: Owners,
    pub(crate) client: reqwest::Client,
}

impl Tracked {
    fn task_of(&self, order_id: &str) -> Result<TaskId, Unavailable> {
        let missing = || Unavailable("the topology has no tracking processor".into());
        let processor = self.topology.find_processor(TRACKING).ok_or_else(missing)?;
        let leading = self.topology.processor(processor).inputs.first().ok_or_else(missing)?;
        let partition = partition_of(order_id.as_bytes(), self.topology.topic(*leading).partitions);
        Ok(TaskId { processor, partition })
    }

    /// What this process has, without asking others. `None` when the task is not here.
    pub(crate) async fn find_here(&self, order_id: &str) -> Option<Result<Option<KnownOrder>, Unavailable>> {
        let asks = self.asks.as_ref()?;
        let task = match self.task_of(order_id) {
            Ok(task) => task,
            Err(error) => return Some(Err(error)),
        };
        let (answer, answered) = tokio::sync::oneshot::channel();
        asks.ask(task, TRACKING, VIEW, order_id.as_bytes(), |found| {
            // Nobody waits any more: then nobody misses the answer.
            let _ = answer.send(found);
        });
        Some(match answered.await {
            Ok(Ok(Query::NotHere)) => return None,
            Ok(Ok(Query::State(None))) => Ok(None),
            Ok(Ok(Query::State(Some(bytes)))) => readable(order_id, &bytes).map(Some),
            Ok(Ok(Query::Restoring)) => Err(Unavailable("its partition is restoring".into())),
            Ok(Err(reason)) => Err(Unavailable(reason)),
            Err(_) => Err(Unavailable("its stream thread has ended".into())),
        })
    }

    async fn find_anywhere(&self, order_id: &str) -> Result<Option<KnownOrder>, Unavailable> {
        if let Some(found) = self.find_here(order_id).await {
            return found;
        }
        let partition = self.task_of(order_id)?.partition;
        let owner = self.owners.read().ok().and_then(|owners| owners.get(&partition).cloned());
        let owner = owner.ok_or_else(|| Unavailable(format!("nobody owns partition {partition} of tracking")))?;
        let url = format!("{owner}/state/orders/{order_id}");
        let asked = self.client.get(&url).send().await.map_err(|error| Unavailable(error.to_string()))?;
        match asked.status().as_u16() {
            200 => {
                let json = asked.text().await.map_err(|error| Unavailable(error.to_string()))?;
                KnownOrder::from_json(json).map(Some).map_err(|error| Unavailable(error.to_string()))
            }
            404 => Ok(None),
            status => Err(Unavailable(format!("its owner answered {status}"))),
        }
    }
}

fn readable(order_id: &str, stored: &[u8]) -> Result<KnownOrder, Unavailable> {
    let view = OrderView::from_stored(order_id, stored).map_err(|error| Unavailable(error.to_string()))?;
    KnownOrder::from_json(view.to_json()).map_err(|error| Unavailable(error.to_string()))
}

impl Orders for Tracked {
    fn find<'a>(
        &'a self,
        order_id: &'a str,
        wait: Option<WaitFor>,
    ) -> Answer<'a, Result<Option<KnownOrder>, Unavailable>> {
        Box::pin(async move {
            let began = Instant::now();
            loop {
                let found = self.find_anywhere(order_id).await;
                let Some(wait) = wait else { return found };
                let far_enough = matches!(&found, Ok(Some(order)) if order.version >= wait.min_version);
                if far_enough || found.is_err() || began.elapsed() >= wait.at_most {
                    return found;
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        })
    }
}
