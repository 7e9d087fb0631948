//! What the client library tells a thread out of turn: rebalances, errors, log lines, delivery reports, statistics.
//! Only writes it down; what follows from it is decided where it is read.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{NoCustomPartitioner, ProducerContext};
use rdkafka::types::RDKafkaRespErr;

use super::ClientCounters;
use crate::waker::Waker;

/// A rebalance that waits for the engine's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rebalance {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    Lost(Vec<i32>),
}

/// A group member's.
pub(super) struct GroupContext {
    group: String,
    /// Set while the engine has nothing to do with rebalances, because the member leaves: they are answered here.
    leaving: AtomicBool,
    waiting: Mutex<VecDeque<Rebalance>>,
    waker: Waker,
    /// The library called here since somebody asked.
    served: AtomicBool,
    counters: Arc<ClientCounters>,
}

impl GroupContext {
    pub(super) fn new(group: String, waker: Waker, counters: Arc<ClientCounters>) -> Self {
        let (leaving, served) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { group, leaving, waiting: Mutex::default(), waker, served, counters }
    }

    pub(super) fn take(&self) -> Option<Rebalance> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    pub(super) fn set_leaving(&self, leaving: bool) {
        self.leaving.store(leaving, Ordering::SeqCst);
    }

    /// Whether the library has called here since this was last asked. A poll that only led to that gives nothing, although
    /// records may wait.
    pub(super) fn has_served(&self) -> bool {
        self.served.swap(false, Ordering::Relaxed)
    }

    fn hold(&self, rebalance: Rebalance) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(rebalance);
        self.waker.wake();
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.served.store(true, Ordering::Relaxed);
        log_line(&self.group, level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.served.store(true, Ordering::Relaxed);
        tracing::debug!(group = self.group, %error, reason, "kafka client error");
    }

    /// How far the group is behind on the partitions this member has.
    fn stats_raw(&self, statistics: &[u8]) {
        self.served.store(true, Ordering::Relaxed);
        let Ok(statistics) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let mut lag = BTreeMap::new();
        for (topic, topic_statistics) in &statistics.topics {
            for (partition, known) in &topic_statistics.partitions {
                if let (Ok(partition @ 0..), 0..) = (partition.parse::<i32>(), known.consumer_lag) {
                    lag.insert((topic.clone(), partition), known.consumer_lag);
                }
            }
        }
        self.counters.lag.lock().unwrap_or_else(PoisonError::into_inner).insert(self.group.clone(), lag);
    }
}

impl ConsumerContext for GroupContext {
    /// Writes an assignment or revocation down for the engine to answer. An empty one carries nothing and is answered
    /// at once, as is everything while the member leaves.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, what: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        self.served.store(true, Ordering::Relaxed);
        let numbers: Vec<i32> = partitions.elements().iter().map(|element| element.partition()).collect();
        let leaving = self.leaving.load(Ordering::SeqCst);
        let answered = match what {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS if leaving || numbers.is_empty() => {
                consumer.incremental_assign(&TopicPartitionList::new())
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                self.hold(Rebalance::Assigned(numbers));
                Ok(())
            }
            _ if leaving => consumer.assignment().and_then(|all| consumer.incremental_unassign(&all)),
            _ if numbers.is_empty() => consumer.incremental_unassign(&TopicPartitionList::new()),
            _ if consumer.assignment_lost() => {
                self.hold(Rebalance::Lost(numbers));
                Ok(())
            }
            _ => {
                self.hold(Rebalance::Revoked(numbers));
                Ok(())
            }
        };
        if let Err(error) = answered {
            tracing::error!(group = self.group, %error, "answering a rebalance failed");
        }
    }
}

/// Log lines and errors of a client that has nothing else to tell.
pub(super) struct QuietContext(pub(super) &'static str);

impl ClientContext for QuietContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        log_line(self.0, level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = self.0, %error, reason, "kafka client error");
    }
}

impl ConsumerContext for QuietContext {}

/// The producer's: where records landed, and every sign that a request may have been sent twice.
pub(super) struct Deliveries {
    /// The first record delivered, by slot; `i64::MAX` for none in this transaction.
    first: Box<[AtomicI64]>,
    /// One past the last record delivered, by slot; -1 for none in this transaction.
    landed: Box<[AtomicI64]>,
    /// When the first report of the transaction was taken, microseconds since `since`; `u64::MAX` for none.
    delivered: AtomicU64,
    since: Instant,
    /// A record was delivered, but the broker did not say where.
    unplaced: AtomicBool,
    failed: Mutex<Option<String>>,
    troubles: AtomicU64,
}

#[derive(serde::Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, TopicStatistics>,
}

#[derive(serde::Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: HashMap<String, PartitionStatistics>,
}

#[derive(serde::Deserialize)]
struct PartitionStatistics {
    /// Records between the last one handed out and the last stable offset; -1 while that is not known.
    #[serde(default = "unknown")]
    consumer_lag: i64,
}

fn unknown() -> i64 {
    -1
}

impl Deliveries {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            first: (0..slots).map(|_| AtomicI64::new(i64::MAX)).collect(),
            landed: (0..slots).map(|_| AtomicI64::new(-1)).collect(),
            delivered: AtomicU64::new(u64::MAX),
            since: Instant::now(),
            unplaced: AtomicBool::new(false),
            failed: Mutex::new(None),
            troubles: AtomicU64::new(0),
        }
    }

    pub(super) fn reset(&self, slots: &[usize]) {
        for slot in slots {
            self.first[*slot].store(i64::MAX, Ordering::Relaxed);
            self.landed[*slot].store(-1, Ordering::Relaxed);
        }
        self.delivered.store(u64::MAX, Ordering::Relaxed);
        self.unplaced.store(false, Ordering::Relaxed);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// From the first record delivered to one past the last.
    pub(super) fn landed(&self, slot: usize) -> Range<i64> {
        self.first[slot].load(Ordering::Relaxed)..self.landed[slot].load(Ordering::Relaxed)
    }

    /// When this transaction's first record was known to be delivered.
    pub(super) fn first_delivered(&self) -> Option<Instant> {
        let at = self.delivered.load(Ordering::Relaxed);
        (at != u64::MAX).then(|| self.since + Duration::from_micros(at))
    }

    /// Why not every record of the transaction was delivered to a known place.
    pub(super) fn failure(&self) -> Option<String> {
        let failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        failed.or_else(|| {
            self.unplaced
                .load(Ordering::Relaxed)
                .then(|| "a record was acknowledged as a repetition, without its offset".to_owned())
        })
    }

    /// How often, so far, a connection with requests on it was lost or a request timed out.
    pub(super) fn troubles(&self) -> u64 {
        self.troubles.load(Ordering::Relaxed)
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        if tells_of_lost_answer(facility, line) {
            self.troubles.fetch_add(1, Ordering::Relaxed);
        }
        log_line("producer", level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(client = "producer", %error, reason, "kafka client error");
    }
}

impl ProducerContext<NoCustomPartitioner> for Deliveries {
    /// The place of the record's partition among [`Deliveries::landed`].
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, slot: usize) {
        if self.delivered.load(Ordering::Relaxed) == u64::MAX {
            let now = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.delivered.store(now, Ordering::Relaxed);
        }
        match result {
            Ok(message) if message.offset() >= 0 => {
                self.first[slot].fetch_min(message.offset(), Ordering::Relaxed);
                self.landed[slot].fetch_max(message.offset() + 1, Ordering::Relaxed);
            }
            Ok(_) => self.unplaced.store(true, Ordering::Relaxed),
            Err((error, message)) => {
                let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
                failed.get_or_insert_with(|| {
                    format!("a record for {}-{} was not delivered: {error}", message.topic(), message.partition())
                });
            }
        }
    }
}

/// Whether a line of librdkafka's log tells that a request of a transaction may have been sent and not answered: it
/// timed out, or its connection ended. A connection that was never ready had no request on it; one to a bootstrap
/// address, given up once the brokers are known, none of a transaction.
fn tells_of_lost_answer(facility: &str, line: &str) -> bool {
    const NEVER_READY: &[&str] =
        &["TRY_CONNECT", "CONNECT", "SSL_HANDSHAKE", "APIVERSION_QUERY", "AUTH_LEGACY", "AUTH_HANDSHAKE", "AUTH_REQ"];
    match facility {
        "REQTMOUT" => true,
        "FAIL" => {
            let state = line.rsplit_once(" in state ").map_or("", |(_, rest)| rest);
            let state = state.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).next().unwrap_or_default();
            !NEVER_READY.contains(&state) && !line.contains("/bootstrap: ")
        }
        _ => false,
    }
}

/// Errors of single connections come and go; only what concerns the whole client is a warning.
fn log_line(client: &str, level: RDKafkaLogLevel, facility: &str, line: &str) {
    match level {
        RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
            tracing::error!(client, facility, "{line}");
        }
        RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(client, facility, "{line}"),
        RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(client, facility, "{line}"),
        RDKafkaLogLevel::Debug => tracing::debug!(client, facility, "{line}"),
    }
}

/// Whether an error concerns a connection only, so that the client mends it by itself.
pub(super) fn mends_itself(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::BrokerDestroy
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::RequestTimedOut
            | RDKafkaErrorCode::WaitingForCoordinator
            | RDKafkaErrorCode::CoordinatorNotAvailable
            | RDKafkaErrorCode::CoordinatorLoadInProgress
            | RDKafkaErrorCode::NotCoordinator
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::UnknownTopicOrPartition
            | RDKafkaErrorCode::UnknownPartition
            | RDKafkaErrorCode::UnknownTopic
            | RDKafkaErrorCode::PollExceeded
            | RDKafkaErrorCode::RebalanceInProgress
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines as the library writes them.
    #[test]
    fn what_cannot_have_had_a_request_on_it_is_no_trouble() {
        let up = "127.0.0.1:9092/1: Disconnected (after 5012ms in state UP)";
        let again = "127.0.0.1:9092/1: Disconnected (after 5012ms in state UP, 3 identical error(s) suppressed)";
        let refused = "127.0.0.1:9092/1: Connect to ipv4#127.0.0.1:9092 failed: refused (after 0ms in state CONNECT)";
        assert!(tells_of_lost_answer("FAIL", up) && tells_of_lost_answer("FAIL", again));
        assert!(!tells_of_lost_answer("FAIL", refused));
        let known = "127.0.0.1:9092/bootstrap: Decommissioning this broker (after 0ms in state UP) (_DESTROY_BROKER)";
        assert!(!tells_of_lost_answer("FAIL", known));
        assert!(tells_of_lost_answer("FAIL", "something new"), "what is not understood may be trouble");
        assert!(tells_of_lost_answer("REQTMOUT", "Timed out EndTxnRequest in flight"));
        assert!(!tells_of_lost_answer("STATE", up));
    }
}
