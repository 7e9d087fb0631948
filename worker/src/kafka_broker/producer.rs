//! One transactional producer and its life: begin, send, commit, abort, replaced when it cannot be trusted. Owns the
//! rule that a commit is reported only when it is known to have happened; never looks at groups or records.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use millrace_runtime::{BrokerError, Landed, OutgoingRecord, TopicId, TopicPartition, Topology};
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, PurgeConfig};

use super::ClientCounters;
use super::completion::Completion;
use super::context::Deliveries;
use super::errors::{Member, Verdict, judge, member, say};
use super::library_thread::LibraryThread;
use super::raw;

/// Where a producer stands.
///
/// ```text
/// Gone ──recreate──▶ Ready ──begin──▶ Open ──commit, abort──▶ Ready
///   ▲                  │               │
///   └── suspect, broken, fenced, outcome unknown ──┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is none, or one that must not be used: only `recreate` helps.
    Gone,
    Ready,
    Open,
}

/// How long one call of a resumable function may block before it is resumed.
const SLICE: Duration = Duration::from_millis(1_000);
/// How long `init_transactions` may be resumed before the engine gets its turn again.
const INIT_DEADLINE: Duration = Duration::from_secs(20);
/// How long an abort may wait for records in flight before they are purged and the producer given up.
const ABORT_DRAIN: Duration = Duration::from_secs(2);
/// How long the library's log may take to be read after a transaction, with nothing in flight.
const LOG_DRAIN: Duration = Duration::from_millis(500);
/// How long positions may be refused because of an old generation before the member counts as lost: two heartbeats.
const OVERTAKEN_MAX: Duration = Duration::from_secs(5);
/// How long the library may take to add positions before it is asked again: a coordinator's move to another node.
const OFFSETS_SLICE: Duration = Duration::from_secs(6);
/// How late it may be with saying that this took too long, before it is taken to hang (librdkafka issues 5456 and 5511: it
/// waits for a broker that is no more).
const OFFSETS_LATE: Duration = Duration::from_secs(1);
/// First pause between two looks at what is in flight, and the longest: most drains take a few milliseconds.
const PAUSE_FIRST: Duration = Duration::from_micros(50);
const PAUSE_MOST: Duration = Duration::from_micros(400);
/// Old producers that may still be closing, at most.
const CLOSING_MAX: usize = 4;

pub(super) struct TransactionalProducer {
    config: ClientConfig,
    names: Vec<Arc<str>>,
    /// Place of each topic's partition 0 among the delivery slots.
    bases: Vec<usize>,
    slots: usize,
    producer: Option<Arc<BaseProducer<Deliveries>>>,
    state: State,
    deadline: Duration,
    /// Records sent in the open transaction, by slot, and which slots those are.
    sent: Vec<u32>,
    touched: Vec<usize>,
    /// When the transaction began, and when the one before ended.
    began: Instant,
    ended: Option<Instant>,
    completion: Completion,
    /// Troubles of the producer when the transaction began.
    troubles: u64,
    /// Why a request of the last transaction may still be on its way.
    suspect: Option<String>,
    /// Since when positions are refused because of an old generation.
    overtaken: Option<Instant>,
    library: LibraryThread,
    #[cfg(feature = "testing")]
    trusting: bool,
    closing: Arc<AtomicUsize>,
    counters: Arc<ClientCounters>,
}

impl TransactionalProducer {
    pub(super) fn new(
        config: ClientConfig,
        topology: &Topology,
        transaction_timeout: Duration,
        counters: Arc<ClientCounters>,
    ) -> Self {
        let mut slots = 0;
        let bases = topology
            .topics
            .iter()
            .map(|topic| {
                let base = slots;
                slots += usize::try_from(topic.partitions).unwrap_or(0);
                base
            })
            .collect();
        Self {
            config,
            names: topology.topics.iter().map(|topic| topic.name.clone()).collect(),
            bases,
            slots,
            producer: None,
            state: State::Gone,
            deadline: transaction_timeout,
            sent: vec![0; slots],
            touched: Vec::new(),
            began: Instant::now(),
            ended: None,
            completion: Completion::default(),
            troubles: 0,
            suspect: None,
            overtaken: None,
            library: LibraryThread::default(),
            #[cfg(feature = "testing")]
            trusting: false,
            closing: Arc::default(),
            counters,
        }
    }

    /// Serves what waits: delivery reports, errors, statistics, log lines. Never blocks.
    pub(super) fn serve(&self) {
        if let Some(producer) = &self.producer {
            let mut before = producer.in_flight_count();
            loop {
                producer.poll(Duration::ZERO);
                let now = producer.in_flight_count();
                // No progress: what is left is still at the broker.
                if now == 0 || now >= before {
                    break;
                }
                before = now;
            }
        }
    }

    pub(super) fn recreate(&mut self) -> Result<(), BrokerError> {
        self.counters.asked.fetch_add(1, Ordering::Relaxed);
        self.replace()
    }

    /// Starts the first producer, or a new one in place of the old.
    pub(super) fn replace(&mut self) -> Result<(), BrokerError> {
        self.state = State::Gone;
        self.suspect = None;
        self.close_old()?;
        let producer: BaseProducer<Deliveries> = self
            .config
            .create_with_context(Deliveries::new(self.slots))
            .map_err(|error| BrokerError::Fatal(format!("the producer cannot be made: {error}")))?;
        self.await_broker(&producer);
        let producer = Arc::new(producer);
        self.producer = Some(producer.clone());
        self.forget_transaction();
        let since = Instant::now();
        loop {
            let result = producer.init_transactions(SLICE);
            producer.poll(Duration::ZERO);
            let Err(error) = result else {
                self.state = State::Ready;
                return Ok(());
            };
            let text = format!("init_transactions: {}", say(&error));
            match judge(&error) {
                Verdict::Refused => return Err(BrokerError::Fatal(text)),
                Verdict::Fenced => return Err(BrokerError::Fenced(text)),
                _ if since.elapsed() > INIT_DEADLINE => return Err(BrokerError::Retry(text)),
                Verdict::Again => {}
                Verdict::Abort | Verdict::Broken => return Err(BrokerError::Retry(text)),
            }
        }
    }

    /// Waits until a broker of the cluster is connected, for a moment: the library looks for its coordinator at once and,
    /// without a connection, next after half a second. That to a bootstrap server does not count: it is given up as soon as
    /// the brokers are known. Nothing is lost when nobody answers but that half second.
    fn await_broker(&self, producer: &BaseProducer<Deliveries>) {
        let Some(topic) = self.names.first() else { return };
        let since = Instant::now();
        while since.elapsed() < SLICE {
            match producer.client().fetch_metadata(Some(topic), SLICE) {
                Ok(metadata) if metadata.orig_broker_id() >= 0 => return,
                _ => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Dropping a producer has been seen to hang, so a thread of its own does it; a few may hang, then it is fatal.
    fn close_old(&mut self) -> Result<(), BrokerError> {
        let Some(old) = self.producer.take() else {
            return Ok(());
        };
        let since = Instant::now();
        while self.closing.load(Ordering::SeqCst) >= CLOSING_MAX {
            if since.elapsed() > Duration::from_secs(10) {
                return Err(BrokerError::Fatal(format!("{CLOSING_MAX} old producers do not close")));
            }
            thread::sleep(Duration::from_millis(10));
        }
        let closing = self.closing.clone();
        closing.fetch_add(1, Ordering::SeqCst);
        let spawned = thread::Builder::new().name("close-producer".into()).spawn(move || {
            drop(old);
            closing.fetch_sub(1, Ordering::SeqCst);
        });
        spawned.map(drop).map_err(|error| BrokerError::Fatal(format!("no thread: {error}")))
    }

    fn forget_transaction(&mut self) {
        if let Some(producer) = &self.producer {
            producer.client().context().reset(&self.touched);
        }
        for slot in self.touched.drain(..) {
            self.sent[slot] = 0;
        }
    }

    fn producer(&self, wanted: State) -> Result<Arc<BaseProducer<Deliveries>>, BrokerError> {
        match &self.producer {
            Some(producer) if self.state == wanted => Ok(producer.clone()),
            _ => Err(BrokerError::Unknown(format!("the producer is {:?}, not {wanted:?}", self.state))),
        }
    }

    /// An error after which only a new producer helps.
    fn give_up(&mut self, what: &str, verdict: Verdict, text: &str) -> BrokerError {
        self.state = State::Gone;
        let text = format!("{what}: {text}");
        match verdict {
            Verdict::Fenced => BrokerError::Fenced(text),
            Verdict::Refused => BrokerError::Fatal(text),
            Verdict::Abort | Verdict::Again | Verdict::Broken => BrokerError::Unknown(text),
        }
    }

    pub(super) fn begin(&mut self) -> Result<(), BrokerError> {
        self.serve();
        #[cfg(feature = "testing")]
        if self.trusting {
            self.suspect = None;
        }
        if let Some(why) = self.suspect.take() {
            tracing::warn!(why, "the producer is replaced before the next transaction");
            self.counters.suspect.fetch_add(1, Ordering::Relaxed);
            self.replace()?;
        }
        if self.state == State::Gone {
            self.replace()?;
        }
        let producer = self.producer(State::Ready)?;
        if let Some(ended) = self.ended.take() {
            thread::sleep(self.completion.before_next(ended.elapsed()));
        }
        match producer.begin_transaction() {
            Ok(()) => {
                self.began = Instant::now();
                self.forget_transaction();
                self.troubles = producer.client().context().troubles();
                self.state = State::Open;
                Ok(())
            }
            Err(error) => Err(self.give_up("begin_transaction", judge(&error), &say(&error))),
        }
    }

    pub(super) fn send(&mut self, record: OutgoingRecord<'_>) -> Result<(), BrokerError> {
        let producer = self.producer(State::Open)?;
        let TopicPartition { topic: TopicId(topic), partition } = record.to;
        let name = &self.names[usize::from(topic)];
        let slot = self.bases[usize::from(topic)] + usize::try_from(partition).unwrap_or(0);
        let mut outgoing =
            BaseRecord::with_opaque_to(name, slot).partition(partition).key(record.key).timestamp(record.timestamp);
        if let Some(value) = record.value {
            outgoing = outgoing.payload(value);
        }
        if !record.headers.is_empty() {
            let mut headers = OwnedHeaders::new_with_capacity(record.headers.len());
            for (key, value) in record.headers {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            outgoing = outgoing.headers(headers);
        }
        let mut full_since = None;
        loop {
            match producer.send(outgoing) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    if full_since.get_or_insert_with(Instant::now).elapsed() > self.deadline {
                        return Err(BrokerError::Abort("the producer's queue stays full".into()));
                    }
                    outgoing = back;
                    producer.poll(Duration::from_millis(1));
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), _)) => {
                    let bytes = record.value.map_or(0, <[u8]>::len);
                    return Err(BrokerError::Fatal(format!(
                        "a record of {bytes} bytes for {name}-{partition} is too large"
                    )));
                }
                Err((error, _)) => {
                    let (verdict, text) = match producer.client().fatal_error() {
                        Some((code, text)) => (
                            super::errors::verdict(code, super::errors::Flags { abort: false, retriable: false }),
                            text,
                        ),
                        // Not fatal: the transaction failed already, as an abort will confirm.
                        None => return Err(BrokerError::Abort(format!("{name}-{partition}: {error}"))),
                    };
                    return Err(self.give_up("send", verdict, &text));
                }
            }
        }
        if self.sent[slot] == 0 {
            self.touched.push(slot);
        }
        self.sent[slot] += 1;
        Ok(())
    }

    /// Serves the producer until nothing is in flight; what waits for a batch to fill is sent at once. The library must be
    /// told so as long as anything waits (it may not send to a partition before the coordinator knows of it), while
    /// this thread takes the reports; so another tells it.
    fn drain(&self, producer: &BaseProducer<Deliveries>, limit: Duration) -> bool {
        self.serve();
        if producer.in_flight_count() == 0 {
            return true;
        }
        let since = Instant::now();
        thread::scope(|scope| {
            let telling = thread::Builder::new().name("flush".into());
            // Without a thread it takes until the batches have waited long enough.
            if let Err(error) = telling.spawn_scoped(scope, || raw::flush(producer, limit)) {
                tracing::error!(%error, "no thread to flush the producer");
            }
            let mut pause = PAUSE_FIRST;
            let mut before = producer.in_flight_count();
            while before > 0 {
                producer.poll(Duration::ZERO);
                let now = producer.in_flight_count();
                if now < before {
                    pause = PAUSE_FIRST;
                } else {
                    if since.elapsed() > limit {
                        return false;
                    }
                    // A poll that may wait would wait for all of its time, whatever comes.
                    thread::sleep(pause);
                    pause = (pause * 2).min(PAUSE_MOST);
                }
                before = now;
            }
            true
        })
    }

    /// Waits until every record of the transaction is delivered to a known place.
    pub(super) fn deliver(&mut self) -> Result<Landed, BrokerError> {
        let producer = self.producer(State::Open)?;
        let filled = self.began.elapsed();
        if !self.drain(&producer, self.deadline) {
            return Err(BrokerError::Abort(format!(
                "{} records were not delivered in {:?}",
                producer.in_flight_count(),
                self.deadline
            )));
        }
        let context = producer.client().context();
        if let Some(failure) = context.failure() {
            return Err(BrokerError::Abort(failure));
        }
        if let Some(delivered) = context.first_delivered() {
            self.completion.learn(filled, delivered.saturating_duration_since(self.began));
        }
        let mut landed: Vec<_> =
            self.touched.iter().map(|slot| (self.partition_of(*slot), context.landed(*slot))).collect();
        landed.sort_unstable_by_key(|(at, _)| *at);
        Ok(Landed(landed))
    }

    fn partition_of(&self, slot: usize) -> TopicPartition {
        let topic = self.bases.partition_point(|base| *base <= slot) - 1;
        TopicPartition {
            topic: TopicId(u16::try_from(topic).unwrap_or(u16::MAX)),
            partition: i32::try_from(slot - self.bases[topic]).unwrap_or(i32::MAX),
        }
    }

    /// Adds a group's positions. Repeated as it is while the library calls it retriable. Fenced when they are refused
    /// because the group does not know the member.
    pub(super) fn send_offsets(
        &mut self,
        offsets: TopicPartitionList,
        group: ConsumerGroupMetadata,
    ) -> Result<(), BrokerError> {
        let producer = self.producer(State::Open)?;
        let since = Instant::now();
        let positions = Arc::new((offsets, group));
        let slice = OFFSETS_SLICE.min(self.deadline);
        loop {
            let (producer, positions) = (producer.clone(), positions.clone());
            let call = move || producer.send_offsets_to_transaction(&positions.0, &positions.1, slice);
            let error = match self.library.call(slice + OFFSETS_LATE, call)? {
                Some(Ok(())) => {
                    self.overtaken = None;
                    return Ok(());
                }
                Some(Err(error)) => error,
                None => {
                    let text = "it did not come back in time; it may be waiting for a broker that is gone";
                    return Err(self.give_up("send_offsets_to_transaction", Verdict::Broken, text));
                }
            };
            // Without this a member whose heartbeats do not come through would do the same work again and again.
            let overtaken = match member(&error) {
                Member::Gone => return Err(self.give_up("offsets", Verdict::Fenced, &say(&error))),
                Member::Overtaken => self.overtaken.get_or_insert(since).elapsed() > OVERTAKEN_MAX,
                Member::Unmentioned => false,
            };
            match judge(&error) {
                Verdict::Abort if overtaken => return Err(self.give_up("offsets", Verdict::Fenced, &say(&error))),
                Verdict::Abort => return Err(BrokerError::Abort(format!("offsets: {}", say(&error)))),
                Verdict::Again => {
                    // The library may have given up waiting for a request that still arrives.
                    self.suspect = Some(format!("positions were sent again after {}", say(&error)));
                    if since.elapsed() >= self.deadline {
                        return Err(BrokerError::Abort(format!("offsets: {}", say(&error))));
                    }
                }
                verdict => return Err(self.give_up("send_offsets_to_transaction", verdict, &say(&error))),
            }
        }
    }

    pub(super) fn commit(&mut self) -> Result<(), BrokerError> {
        let producer = self.producer(State::Open)?;
        let since = Instant::now();
        loop {
            let Err(error) = producer.commit_transaction(SLICE) else {
                break;
            };
            match judge(&error) {
                // The library knows that nothing was committed.
                Verdict::Abort => return Err(BrokerError::Abort(format!("commit: {}", say(&error)))),
                Verdict::Again if since.elapsed() < self.deadline => {
                    self.suspect = Some(format!("a commit was resumed after {}", say(&error)));
                }
                verdict => return Err(self.give_up("commit_transaction", verdict, &say(&error))),
            }
        }
        self.end(&producer);
        Ok(())
    }

    pub(super) fn abort(&mut self) -> Result<(), BrokerError> {
        if self.state != State::Open {
            return if self.state == State::Ready {
                Ok(())
            } else {
                Err(BrokerError::Unknown("there is no producer".into()))
            };
        }
        let producer = self.producer(State::Open)?;
        // Nothing may be in flight when the abort goes out: the broker would refuse what arrives after it, and the
        // library waits for reports that only this thread can serve.
        if !self.drain(&producer, ABORT_DRAIN) {
            producer.purge(PurgeConfig::default().queue().inflight());
            self.drain(&producer, ABORT_DRAIN);
            return Err(self.give_up("abort", Verdict::Broken, "records in flight were never answered"));
        }
        let since = Instant::now();
        loop {
            let Err(error) = producer.abort_transaction(SLICE) else {
                break;
            };
            match judge(&error) {
                Verdict::Again | Verdict::Abort if since.elapsed() < self.deadline => {
                    self.suspect = Some(format!("an abort was resumed after {}", say(&error)));
                }
                verdict => return Err(self.give_up("abort_transaction", verdict, &say(&error))),
            }
        }
        self.end(&producer);
        self.forget_transaction();
        Ok(())
    }

    /// The coordinator has said how the transaction ended.
    fn end(&mut self, producer: &BaseProducer<Deliveries>) {
        self.state = State::Ready;
        self.ended = Some(Instant::now());
        self.look_for_repetition(producer);
    }

    /// A request that was sent twice may arrive once more in the next transaction and end it, or move positions back.
    /// The library does not say that it repeated one, but it repeats only what got no answer, and that is in its log
    /// before the repetition is sent: a connection ended, or a request timed out. All of the log is taken in here.
    fn look_for_repetition(&mut self, producer: &BaseProducer<Deliveries>) {
        let heard = self.drain(producer, LOG_DRAIN);
        let troubles = producer.client().context().troubles() - self.troubles;
        if troubles > 0 {
            self.suspect = Some("a connection was lost or a request timed out, so one may have been repeated".into());
        } else if !heard {
            self.suspect = Some("the client library does not come to an end with what it has to say".into());
        }
    }

    /// Takes the library's word that a request arrives once, as it is wrong to do: for tests that show the damage.
    #[cfg(feature = "testing")]
    pub(super) fn trust(&mut self) {
        self.trusting = true;
    }
}

impl Drop for TransactionalProducer {
    fn drop(&mut self) {
        if let Err(error) = self.close_old() {
            tracing::error!(%error, "closing the producer");
        }
        let since = Instant::now();
        while self.closing.load(Ordering::SeqCst) > 0 && since.elapsed() < Duration::from_secs(3) {
            thread::sleep(Duration::from_millis(2));
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_runtime::Headers;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::{MockCluster, MockCoordinator};

    use super::*;

    const TOPOLOGY: &str = include_str!("../../../topology.toml");

    /// The library waits for a coordinator that is down for as long as it is down, whatever time-out it was given.
    #[test]
    fn a_coordinator_that_is_gone_costs_the_producer_and_not_the_thread() {
        let cluster = MockCluster::new(3).unwrap();
        cluster.create_topic("orders.placed", 4, 1).unwrap();
        cluster.coordinator(MockCoordinator::Transaction("tx".into()), 1).unwrap();
        cluster.coordinator(MockCoordinator::Group("g".into()), 2).unwrap();
        for partition in 0..4 {
            cluster.partition_leader("orders.placed", partition, Some(1)).unwrap();
        }
        let of = |key: &str, value: &str| {
            let mut config = ClientConfig::new();
            config.set("bootstrap.servers", cluster.bootstrap_servers()).set(key, value);
            config
        };
        let member: BaseConsumer = of("group.id", "g").create().unwrap();
        let topology = millrace_runtime::parse(TOPOLOGY).unwrap();
        let topic = topology.find_topic("orders.placed").unwrap();
        let at = TopicPartition { topic, partition: 0 };
        let mut producer =
            TransactionalProducer::new(of("transactional.id", "tx"), &topology, Duration::from_secs(3), Arc::default());
        let transaction = |producer: &mut TransactionalProducer| {
            producer.begin()?;
            let (key, value) = (b"key".as_slice(), Some(b"value".as_slice()));
            producer.send(OutgoingRecord { to: at, key, value, headers: &Headers::new(), timestamp: 1 })?;
            producer.deliver()?;
            let mut offsets = TopicPartitionList::new();
            offsets.add_partition_offset("orders.placed", 0, rdkafka::Offset::Offset(1)).unwrap();
            producer.send_offsets(offsets, member.group_metadata().unwrap())?;
            producer.commit()
        };
        producer.replace().unwrap();
        transaction(&mut producer).unwrap();
        cluster.broker_down(2).unwrap();
        let given_up = transaction(&mut producer).unwrap_err();
        assert!(matches!(&given_up, BrokerError::Unknown(text) if text.contains("did not come back")), "{given_up}");
        cluster.broker_up(2).unwrap();
        let since = Instant::now();
        while let Err(error) = transaction(&mut producer) {
            assert!(since.elapsed() < Duration::from_secs(60), "with the coordinator back: {error}");
            let _ = producer.abort();
        }
    }
}
