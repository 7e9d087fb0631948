//! The engine's door to Kafka: one consumer per group, one reader outside any group, one transactional producer.
//! Owns how the client library is called; never what a record means or when to commit.
//!
//! ## Decisions made here
//!
//! - **A rebalance is answered later.** The callback only writes it down ([`context`]); the engine answers with
//!   `start` or `release`. librdkafka waits for that answer and keeps the member alive meanwhile. Empty ones are
//!   answered at once.
//! - **Companion inputs.** The group subscribes to its leading input only; `start` adds the same partitions of the
//!   others to the assignment and `release` takes them away, so co-partitioned inputs sit together.
//! - **Leaders are asked for before a partition is assigned by hand** ([`leaders`]): the library does so once a second.
//! - **Waiting on several consumers.** Each queue wakes the thread when it becomes non-empty, so each is emptied before
//!   the wait: the library's word that it gave nothing can mean that it served something else ([`context`]). The wait is
//!   cut into slices of at most [`SLICE`] in case a wake-up is missed. An idle thread does next to nothing.
//! - **Draining.** `BaseProducer::flush` waits in steps of 100 ms; [`producer`] serves the queue itself until nothing
//!   is in flight and only then commits, which then finds nothing to flush.
//! - **A producer that may have repeated itself is replaced** before the next transaction ([`producer`]): librdkafka
//!   repeats EndTxn and TxnOffsetCommit after a lost answer with the same epoch, and the first of them, arriving late,
//!   could end the next transaction or move its positions back. It repeats only what got no answer, and of that its log
//!   tells first: a connection that was ready ended, or a request timed out, since the transaction began. It tells of
//!   the same trouble only once in thirty seconds, except with `debug=broker`.
//! - **A commit is answered before its marker is written** (Apache Kafka). The end of a partition and what readers see
//!   follow a moment later; `committed` waits for pending commits, `bounds` does not.
//! - **Who fences whom.** The `transactional.id` is application, instance and thread. `Fenced` means that another
//!   process of the same name started, or that a coordinator gave this one up: that of the transactions, or that of a
//!   group, which then refuses its positions ([`producer`]). The thread ends and starts anew, and the group's static
//!   membership lets only one of two namesakes live.
//! - **Positions are told only to who may process.** Each question for a group's positions, so each assignment, first
//!   reads the application's grouping to the end ([`crate::grouping`]).
//! - **A static member looks around before it takes its assignment**, since its group may leave a partition to nobody
//!   ([`membership`]); and it leaves its group when it stops, if it is told to.
//! - **Positions of a member in no generation are not sent.** The broker checks member and generation only where
//!   there are any, so such positions would pass unfenced.
//!
//! ## Traps of the client library, and where each is answered
//!
//! Numbers as in the project's list of traps. Tests are in `tests/kafka_broker.rs` unless named otherwise;
//! they run against the embedded broker and Apache Kafka.
//!
//! | # | trap | answer |
//! | --- | --- | --- |
//! | 1 | no epoch per transaction (KIP-890) | suspect producers are replaced (`producer::look_for_repetition`); all of `tests/late_requests.rs`, with the damage when nobody looks; test `clean_commits_replace_nothing` |
//! | 2 | commit flushes first and fails as `Flush` | `errors::judge` aborts; unit test `a_failed_flush_aborts` |
//! | 3 | abort waits for reports nobody serves | `producer::abort` drains before it aborts; test `an_abort_leaves_nothing` aborts with records in flight |
//! | 4 | abort while a produce is in flight is fatal | the same drain; if it fails the producer is given up, not aborted |
//! | 5 | default rebalance ignores errors | own callback, each result checked (`context`, `group`) |
//! | 6 | rebalance runs inside poll | nothing blocks in it; the thread is the engine's own, never an async worker |
//! | 7 | abort in revoke leaves kept partitions ahead | the engine rewinds every partition; `rewind` checks each seek; test `nothing_old_comes_after_a_rewind` |
//! | 8 | lost assignment taken for revoked | asked in the callback, again before offsets are sent; test `an_assignment_that_was_lost_is_told_as_lost` in `tests/broken_connections.rs` |
//! | 9 | cooperative bugs below 2.12 | `connect` refuses an older library; test `partitions_sit_together_while_members_come_and_go` |
//! | 10 | KIP-848 not ripe in this version | `group.protocol=classic`, cannot be overridden (`config`) |
//! | 11 | drop hangs | every client is dropped on a thread of its own with a limit (`close_aside`, `close_old`); what waits for an answer is answered first; tests `closing_does_not_hang_on_an_unanswered_rebalance`, `a_client_whose_broker_is_silent_can_be_closed` in `tests/broken_connections.rs` |
//! | 12 | a consumer stalls | not decided here: a client cannot tell a stall from an idle topic behind markers; lag in the metrics tells, and the operator restarts |
//! | 13 | fatal error told once | `Group::check` asks every poll |
//! | 14 | unsafe defaults | all set in `config`, overrides refused; unit test `safety_cannot_be_turned_off` |
//! | 15 | offset is last + 1, fresh metadata | the engine gives next offsets; `Group::positions` takes metadata anew for each commit |
//! | 16 | random `transactional.id` | derived from names that survive a restart (`config`) |
//! | 17 | a stuck transaction holds readers up | it is aborted when the session time-out is over; delivery has the same limit |
//! | 18 | hanging transactions | the broker's matter (verification is on by default since 3.6) |
//! | 19 | ids and offsets expire | `auto.offset.reset=error`; the engine refuses state without offsets |
//! | 20 | producer drop purges silently | a producer is dropped only after commit or abort, or when its transaction is given up |
//! | 21 | old loss bugs | as 9 |
//! | 22 | transactions quietly off | `begin` fails without `init_transactions`; test `a_commit_is_seen_whole` reads as committed |
//! | 23 | restoring uncommitted, or to the wrong end | the follower reads committed; `bounds` gives the true end; tests `bounds_tell_the_true_end`, `following_goes_past_markers` |
//! | 24 | hidden retries | as 1 |
//! | 25 | old records after a seek | the library drops them by version, `Reader::take` by position; test as 7 |

mod bounds;
mod completion;
mod context;
pub(crate) mod errors;
mod follower;
mod group;
mod leaders;
mod library_thread;
mod membership;
mod outside;
mod producer;
pub(crate) mod raw;

use std::collections::BTreeMap;
use std::panic::resume_unwind;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, bounded};
use millrace_runtime::{
    Bounds, Broker, BrokerError, Event, Flow, GroupOffsets, Landed, Offset, OutgoingRecord, SubTopologyId,
    TopicPartition, Topology,
};
use rdkafka::consumer::{BaseConsumer, ConsumerContext};

use self::bounds::BoundsReader;
use self::follower::Follower;
use self::group::{Closing, Group};
pub use self::outside::OutsideReader;
use self::producer::TransactionalProducer;
use crate::config::{KafkaConfig, WhenStopped};
use crate::grouping::{Grouping, KEY, Standing};
use crate::waker::Waker;

/// Longest uninterrupted wait for a wake-up.
const SLICE: Duration = Duration::from_millis(100);
/// Between two looks whether the grouping has been read to its end.
const READING: Duration = Duration::from_millis(5);
/// Between two looks whether positions have been carried over.
const REGROUPING: Duration = Duration::from_millis(300);
/// How long clients may take to close before they are left behind.
const CLOSE: Duration = Duration::from_secs(8);
/// The first librdkafka without the cooperative assignor's bugs.
const LIBRARY_LEAST: i32 = 0x020c_0000;

/// How far a group is behind, in records, by topic and partition.
pub type Lag = BTreeMap<(String, i32), i64>;

/// What a thread's clients had to do beyond their work.
#[derive(Debug, Default)]
pub struct ClientCounters {
    /// Producers replaced because a commit or abort may have been sent twice.
    pub suspect: AtomicU64,
    /// Producers replaced because the engine did not know an outcome.
    pub asked: AtomicU64,
    /// Records of an earlier position that came after a rewind and were dropped.
    pub stale: AtomicU64,
    /// How far each group is behind, records by topic and partition, as its consumer last said.
    pub lag: Mutex<BTreeMap<String, Lag>>,
}

/// [`Broker`] on a Kafka cluster, for one stream thread.
pub struct KafkaBroker {
    groups: Vec<Group>,
    follower: Follower,
    bounds: BoundsReader,
    producer: TransactionalProducer,
    waker: Waker,
    counters: Arc<ClientCounters>,
    /// How the processors are grouped by this thread's topology, and where it is recorded for all; a topology without
    /// the topic (in tests of this door) has nothing to agree on.
    grouping: Option<(Grouping, TopicPartition)>,
    /// Whose turn it is to be polled first.
    turn: usize,
}

impl KafkaBroker {
    /// Makes the clients of one stream thread, joins the groups of the sub-topologies and opens the producer, which
    /// fences an earlier one of the same name. What the clients have to tell ends a wait by `waker`, and so does whoever
    /// else has it.
    ///
    /// # Errors
    /// [`BrokerError::Fatal`] for a configuration that cannot work; [`BrokerError::Retry`] when the cluster does not
    /// answer.
    pub fn connect(
        config: &KafkaConfig,
        topology: &Topology,
        sub_topologies: &[SubTopologyId],
        waker: &Waker,
    ) -> Result<Self, BrokerError> {
        config.check().map_err(|error| BrokerError::Fatal(error.to_string()))?;
        let (version, name) = rdkafka::util::get_rdkafka_version();
        if version < LIBRARY_LEAST {
            return Err(BrokerError::Fatal(format!("librdkafka {name} is too old, 2.12 is needed")));
        }
        let counters = Arc::new(ClientCounters::default());
        let timeout = Duration::from_millis(config.transaction_timeout_ms.into());
        let mut producer =
            TransactionalProducer::new(config.producer(&topology.application), topology, timeout, counters.clone());
        let join = |id: &SubTopologyId| Group::join(config, topology, *id, waker.clone(), counters.clone());
        // The members join while the producer waits for the end of what an earlier one of its name has left open, half a
        // second after a kill. That has ended when offsets are asked for: no assignment is given before this returns.
        let (groups, ready) = thread::scope(|scope| {
            let first = thread::Builder::new().name("first-producer".into());
            let waiting = first.spawn_scoped(scope, || producer.replace());
            let groups = sub_topologies.iter().map(join).collect::<Result<Vec<_>, _>>();
            let ready = waiting.map_err(|error| BrokerError::Fatal(format!("no thread: {error}")));
            (groups, ready.and_then(|waiting| waiting.join().unwrap_or_else(|panic| resume_unwind(panic))))
        });
        let groups = groups?;
        let follower = Follower::open(config, topology, waker.clone())?;
        let bounds = BoundsReader::open(config, topology)?;
        let recorded = topology.find_topic(&topology.grouping_topic());
        let mut connected = Self {
            groups,
            follower,
            bounds,
            producer,
            waker: waker.clone(),
            counters,
            grouping: recorded.map(|topic| (Grouping::of(topology), TopicPartition { topic, partition: 0 })),
            turn: 0,
        };
        // Not earlier, so that groups that have joined are closed as they must be.
        ready?;
        if let Some((_, at)) = connected.grouping {
            let start = connected.bounds(&[at])?[0].start;
            connected.follower.keep(at, start, KEY)?;
        }
        Ok(connected)
    }

    /// What the clients of this thread had to do beyond their work, counted as it happens.
    #[must_use]
    pub fn counters(&self) -> Arc<ClientCounters> {
        self.counters.clone()
    }

    /// Repeated requests are not looked for any more: for tests that show what happens then.
    #[cfg(feature = "testing")]
    pub fn trust_the_producer(&mut self) {
        self.producer.trust();
    }

    /// Whatever assignment comes is taken, also by a static member of a group that leaves partitions to nobody: for tests
    /// that show what happens then.
    #[cfg(feature = "testing")]
    pub fn trust_the_groups(&mut self) {
        self.groups.iter_mut().for_each(Group::trust);
    }

    /// The partitions that a group, stable as it is, assigns to nobody.
    ///
    /// # Errors
    /// The cluster does not tell.
    #[cfg(feature = "testing")]
    pub fn unread(&mut self, id: SubTopologyId) -> Result<Vec<i32>, BrokerError> {
        self.group(id)?.unread()
    }

    fn group(&mut self, id: SubTopologyId) -> Result<&mut Group, BrokerError> {
        let found = self.groups.iter_mut().find(|group| group.id == id);
        found.ok_or_else(|| BrokerError::Fatal(format!("sub-topology {} is not hosted here", id.0)))
    }

    /// Whether this member of the group may process: asked after it joined, so that who regroups sees it or is seen.
    fn agree(&mut self, id: SubTopologyId) -> Result<(), BrokerError> {
        let Some((own, at)) = self.grouping.clone() else {
            return Ok(());
        };
        let end = self.bounds(&[at])?[0].end;
        let Some(newest) = self.follower.newest(end) else {
            thread::sleep(READING);
            return Err(BrokerError::Retry("the grouping of the processors is being read".into()));
        };
        let unreadable = || BrokerError::Fatal("the recorded grouping of the processors cannot be read".into());
        let recorded = newest.map(|text| Grouping::from_text(text).ok_or_else(unreadable)).transpose()?;
        let group = self.group(id)?;
        match Grouping::standing(recorded.as_ref(), &own, group.sub_topology()) {
            Standing::Agreed => Ok(()),
            Standing::Moving => {
                // Somebody carries positions over; that takes a moment, unless it was interrupted.
                thread::sleep(REGROUPING);
                Err(BrokerError::Retry(format!(
                    "group {}: the processors are being regrouped; if nobody does, run `millrace apply` again",
                    group.name()
                )))
            }
            Standing::Other(processors) => {
                let has = if processors.is_empty() { "none".to_owned() } else { processors.join(", ") };
                Err(BrokerError::Fatal(format!(
                    "group {}: its processors by the last `millrace apply` are {has}, by this process's topology {}. Start \
                     it with the topology that was applied, or stop every worker, apply this one, and start again",
                    group.name(),
                    own.processors(group.sub_topology()).into_iter().collect::<Vec<_>>().join(", ")
                )))
            }
        }
    }

    /// Everyone once, in turn.
    fn poll_all(&mut self, most: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        let readers = self.groups.len() + 1;
        self.turn = (self.turn + 1) % readers;
        let mut left = most;
        for step in 0..readers {
            let at = (self.turn + step) % readers;
            let taken = match self.groups.get_mut(at) {
                Some(group) => group.poll(left, events)?,
                None => self.follower.poll(left, events)?,
            };
            left = left.saturating_sub(taken);
        }
        Ok(())
    }
}

impl Broker for KafkaBroker {
    fn poll(&mut self, wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        let until = Instant::now() + wait;
        self.producer.serve();
        self.bounds.serve();
        for group in &self.groups {
            group.check()?;
        }
        let before = events.len();
        loop {
            self.poll_all(max_records, events)?;
            let left = until.saturating_duration_since(Instant::now());
            if events.len() > before || left.is_zero() {
                return Ok(());
            }
            if self.waker.wait(left.min(SLICE)) {
                // By the library, or by somebody who has other news for this thread: then it is the engine's turn.
                return self.poll_all(max_records, events);
            }
        }
    }

    fn committed(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError> {
        self.agree(sub_topology)?;
        self.group(sub_topology)?.committed(partitions)
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        self.bounds.of(partitions)
    }

    fn start(
        &mut self,
        sub_topology: SubTopologyId,
        positions: &[(TopicPartition, Offset)],
    ) -> Result<(), BrokerError> {
        self.group(sub_topology)?.start(positions)
    }

    fn set_flow(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
        flow: Flow,
    ) -> Result<(), BrokerError> {
        self.group(sub_topology)?.set_flow(partitions, flow)
    }

    fn rewind(
        &mut self,
        sub_topology: SubTopologyId,
        positions: &[(TopicPartition, Offset)],
    ) -> Result<(), BrokerError> {
        self.group(sub_topology)?.rewind(positions)
    }

    fn release(&mut self, sub_topology: SubTopologyId, partitions: &[i32]) -> Result<(), BrokerError> {
        self.group(sub_topology)?.release(partitions)
    }

    fn follow(&mut self, partition: TopicPartition, from: Offset) -> Result<(), BrokerError> {
        self.follower.follow(partition, from)
    }

    fn unfollow(&mut self, partition: TopicPartition) -> Result<(), BrokerError> {
        self.follower.unfollow(partition)
    }

    fn begin(&mut self) -> Result<(), BrokerError> {
        self.producer.begin()
    }

    fn send(&mut self, record: OutgoingRecord<'_>) -> Result<(), BrokerError> {
        self.producer.send(record)
    }

    fn flush(&mut self) -> Result<Landed, BrokerError> {
        self.producer.deliver()
    }

    fn commit(&mut self, offsets: &[GroupOffsets]) -> Result<(), BrokerError> {
        for group in offsets.iter().filter(|group| !group.offsets.is_empty()) {
            let (list, member) = self.group(group.sub_topology)?.positions(&group.offsets)?;
            self.producer.send_offsets(list, member)?;
        }
        self.producer.commit()
    }

    fn abort(&mut self) -> Result<(), BrokerError> {
        self.producer.abort()
    }

    fn recreate(&mut self) -> Result<(), BrokerError> {
        self.producer.recreate()
    }
}

impl Drop for KafkaBroker {
    /// Leaves the groups, or keeps the places in them. All clients close at the same time; one that hangs is left behind.
    fn drop(&mut self) {
        let groups = self.groups.iter_mut().filter_map(Group::close);
        let groups =
            groups.map(|Closing { consumer, when_stopped, unused }| close_aside(consumer, when_stopped, Some(unused)));
        let groups = groups.collect::<Vec<_>>();
        let readers = self.follower.close().into_iter().chain(self.bounds.close());
        let readers = readers.map(|consumer| close_aside(consumer, WhenStopped::Stay, None)).collect::<Vec<_>>();
        let until = Instant::now() + CLOSE;
        for closed in groups.into_iter().chain(readers) {
            if closed.recv_deadline(until).is_err() {
                tracing::error!("a consumer does not close; it is left behind");
            }
        }
    }
}

/// Drops a client on a thread of its own, once nobody else uses it; the answer comes when it is gone.
fn close_aside<C: ConsumerContext + 'static>(
    client: Arc<BaseConsumer<C>>,
    when_stopped: WhenStopped,
    unused: Option<Receiver<()>>,
) -> Receiver<()> {
    let (done, closed) = bounded(1);
    let spawned = thread::Builder::new().name("close-consumer".into()).spawn(move || {
        if when_stopped == WhenStopped::Leave {
            membership::leave(&client);
        }
        if let Some(unused) = unused {
            let _ = unused.recv(); // ends with the last that could send
        }
        drop(client);
        let _ = done.send(());
    });
    if let Err(error) = spawned {
        tracing::error!(%error, "no thread to close a consumer; it was closed here");
    }
    closed
}
