//! One consumer group's member: rebalances held for the engine's answer, companion inputs kept with the leading one,
//! positions kept so that nothing old is given after a rewind. Never commits: positions travel in transactions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use millrace_runtime::{
    BrokerError, Event, Flow, Headers, InputRecord, Offset, SubTopologyId, TopicId, TopicPartition, Topology,
    header_name,
};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers as _, Message};

use super::ClientCounters;
use super::context::{GroupContext, Rebalance, mends_itself};
use super::errors::of_question;
use super::{leaders, membership, raw};
use crate::config::{KafkaConfig, WhenStopped};
use crate::waker::Waker;

/// How long a question to the group's coordinator may take before the engine gets its turn again.
const QUESTION: Duration = Duration::from_secs(5);
/// How long the question that wakes the library may take.
const WAKING: Duration = Duration::from_secs(1);
/// How long a seek may take: it is local, unless the partition is only just starting.
const SEEK: Duration = Duration::from_secs(5);
/// Before a static member looks again whether its group is whole, when it could not be told.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How often a member joins anew for a partition nobody reads.
const ANEW_MAX: u32 = 3;

/// A partition this member reads.
struct Reader {
    /// The next offset to give; records below it are left-overs of an earlier position.
    next: Offset,
    flow: Flow,
    /// A record came while it was paused and was not given: the library believes it was.
    skipped: bool,
}

pub(super) struct Group {
    pub(super) id: SubTopologyId,
    name: String,
    sub_topology: String,
    inputs: Vec<TopicId>,
    names: Vec<Arc<str>>,
    consumer: Option<Arc<BaseConsumer<GroupContext>>>,
    /// Partition numbers that the client library has been given.
    started: BTreeSet<i32>,
    readers: BTreeMap<TopicPartition, Reader>,
    /// Partition numbers of a revocation that the engine has not released yet, and those it has.
    unreleased: BTreeSet<i32>,
    released: BTreeSet<i32>,
    /// An assignment the engine has not accepted yet.
    unanswered: bool,
    /// The name of a static member.
    instance: Option<String>,
    /// When a static member that comes back looks whether the group is whole; until it has, no assignment is given.
    look: Option<Instant>,
    /// How often it has joined anew because the group was not.
    anew: u32,
    partitions: i32,
    when_stopped: WhenStopped,
    /// Held back as a whole because the engine has no room.
    held_back: bool,
    /// Each thread that wakes the library has a clone: when this and those are gone, nobody uses the consumer any more.
    wakes: Option<Sender<()>>,
    wakes_over: Receiver<()>,
    counters: Arc<ClientCounters>,
}

/// A consumer that is to be left and dropped.
pub(super) struct Closing {
    pub(super) consumer: Arc<BaseConsumer<GroupContext>>,
    pub(super) when_stopped: WhenStopped,
    /// Disconnected once nobody else uses the consumer.
    pub(super) unused: Receiver<()>,
}

impl Group {
    pub(super) fn join(
        config: &KafkaConfig,
        topology: &Topology,
        id: SubTopologyId,
        waker: Waker,
        counters: Arc<ClientCounters>,
    ) -> Result<Self, BrokerError> {
        let spec = topology.sub_topology(id);
        let name = topology.group(id);
        let fatal = |error: KafkaError| BrokerError::Fatal(format!("group {name}: {error}"));
        let context = GroupContext::new(name.clone(), waker.clone(), counters.clone());
        let mut consumer: BaseConsumer<GroupContext> =
            config.group_member(&name, &spec.name).create_with_context(context).map_err(fatal)?;
        consumer.set_nonempty_callback(move || waker.wake());
        let names: Vec<Arc<str>> = topology.topics.iter().map(|topic| topic.name.clone()).collect();
        if spec.inputs.is_empty() {
            return Err(BrokerError::Fatal(format!("group {name} has no input")));
        }
        let (wakes, wakes_over) = bounded(0);
        let mut joined = Self {
            id,
            name: name.clone(),
            sub_topology: spec.name.clone(),
            inputs: spec.inputs.clone(),
            names,
            consumer: Some(Arc::new(consumer)),
            started: BTreeSet::new(),
            readers: BTreeMap::new(),
            unreleased: BTreeSet::new(),
            released: BTreeSet::new(),
            unanswered: false,
            instance: config.static_member(&spec.name),
            look: None,
            anew: 0,
            partitions: spec.partitions,
            when_stopped: config.when_stopped,
            held_back: false,
            wakes: Some(wakes),
            wakes_over,
            counters,
        };
        joined.subscribe()?;
        Ok(joined)
    }

    /// The input the group subscribes to.
    fn leading(&self) -> &str {
        &self.names[usize::from(self.inputs[0].0)]
    }

    fn subscribe(&mut self) -> Result<(), BrokerError> {
        let consumer = self.consumer()?;
        let instance = self.instance.as_deref();
        let comes_back = instance.is_some_and(|instance| membership::comes_back(consumer, &self.name, instance));
        self.look = comes_back.then(Instant::now);
        let done = self.consumer()?.subscribe(&[self.leading()]);
        done.map_err(|error| BrokerError::Fatal(format!("group {}: {error}", self.name)))
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn sub_topology(&self) -> &str {
        &self.sub_topology
    }

    fn consumer(&self) -> Result<&Arc<BaseConsumer<GroupContext>>, BrokerError> {
        self.consumer.as_ref().ok_or_else(|| BrokerError::Fatal(format!("group {} is closed", self.name)))
    }

    fn name_of(&self, at: TopicPartition) -> &str {
        &self.names[usize::from(at.topic.0)]
    }

    fn list<'a>(
        &self,
        positions: impl IntoIterator<Item = (&'a TopicPartition, Option<Offset>)>,
    ) -> Result<TopicPartitionList, BrokerError> {
        let mut list = TopicPartitionList::new();
        for (at, offset) in positions {
            let offset = offset.map_or(rdkafka::Offset::Invalid, rdkafka::Offset::Offset);
            list.add_partition_offset(self.name_of(*at), at.partition, offset)
                .map_err(|error| BrokerError::Fatal(format!("{}-{}: {error}", self.name_of(*at), at.partition)))?;
        }
        Ok(list)
    }

    /// Gives what waits: at most `most` records, then the rebalances behind them. Never blocks.
    pub(super) fn poll(&mut self, most: usize, events: &mut Vec<Event>) -> Result<usize, BrokerError> {
        let consumer = self.consumer()?.clone();
        self.hold_back(&consumer, most == 0)?;
        let mut batches: Vec<(TopicPartition, Vec<InputRecord>)> = Vec::new();
        let (mut at, mut taken, mut error) = (usize::MAX, 0, None);
        while taken < most.max(1) {
            match consumer.poll(Duration::ZERO) {
                // Nothing, or something that is not ours to have: then there may be more behind it.
                None if consumer.context().has_served() => {}
                None => break,
                Some(Ok(message)) => {
                    if !batches.get(at).is_some_and(|(from, _)| self.is_at(*from, &message)) {
                        let Some(from) = self.find(&message) else {
                            continue;
                        };
                        at = batches.iter().position(|(other, _)| *other == from).unwrap_or_else(|| {
                            batches.push((from, Vec::with_capacity(256)));
                            batches.len() - 1
                        });
                    }
                    let Some((from, records)) = batches.get_mut(at) else {
                        continue;
                    };
                    if self.readers.get_mut(from).is_some_and(|reader| reader.take(message.offset())) {
                        records.push(record_of(&message));
                        taken += 1;
                    } else {
                        self.counters.stale.fetch_add(1, Ordering::Relaxed);
                    }
                }
                Some(Err(problem)) => {
                    error = self.judge(&consumer, problem).err();
                    if error.is_some() {
                        break;
                    }
                }
            }
            if consumer.context().is_waiting() {
                break;
            }
        }
        let records = batches.into_iter().filter(|(_, records)| !records.is_empty());
        events.extend(records.map(|(from, records)| Event::Records { sub_topology: self.id, from, records }));
        self.look_around(&consumer)?;
        if self.look.is_none() {
            while let Some(rebalance) = consumer.context().take() {
                events.push(self.announce(rebalance));
            }
        }
        error.map_or(Ok(taken), Err)
    }

    /// Once a static member has come back: where its group leaves a partition to nobody, it joins anew ([`membership`]).
    fn look_around(&mut self, consumer: &BaseConsumer<GroupContext>) -> Result<(), BrokerError> {
        if self.look.is_none_or(|at| at > Instant::now())
            || !raw::has_member_id(consumer)
            || raw::generation(consumer) < 0
        {
            return Ok(());
        }
        match membership::unread(consumer, &self.name, self.leading(), self.partitions) {
            Ok(unread) if unread.is_empty() => self.look = None,
            Ok(unread) if self.anew == ANEW_MAX => {
                let group = &self.name;
                tracing::error!(group, ?unread, "nobody reads these partitions, although this member joined anew");
                self.look = None;
            }
            Ok(unread) => {
                let group = &self.name;
                tracing::warn!(
                    group,
                    ?unread,
                    "nobody reads these partitions: this member joins anew, for a rebalance"
                );
                self.anew += 1;
                self.answer_what_waits(consumer);
                membership::leave(consumer);
                consumer.context().set_leaving(false);
                self.subscribe()?;
            }
            Err(error) => {
                tracing::warn!(group = self.name, %error, "the assignment waits until the group has been looked at");
                self.look = Some(Instant::now() + LOOK_AGAIN);
            }
        }
        Ok(())
    }

    /// The partitions that the group, stable as it is, assigns to nobody.
    #[cfg(feature = "testing")]
    pub(super) fn unread(&self) -> Result<Vec<i32>, BrokerError> {
        membership::unread(self.consumer()?, &self.name, self.leading(), self.partitions)
    }

    /// Takes whatever assignment comes.
    #[cfg(feature = "testing")]
    pub(super) fn trust(&mut self) {
        self.look = None;
    }

    /// While the engine has no room, nothing is fetched, but the group is served.
    fn hold_back(&mut self, consumer: &BaseConsumer<GroupContext>, hold: bool) -> Result<(), BrokerError> {
        if hold == self.held_back {
            return Ok(());
        }
        let open = self.readers.iter().filter(|(_, reader)| reader.flow == Flow::Open);
        let list = self.list(open.map(|(at, _)| (at, None)))?;
        if list.count() > 0 {
            let done = if hold { consumer.pause(&list) } else { consumer.resume(&list) };
            done.map_err(|error| BrokerError::Retry(format!("group {}: {error}", self.name)))?;
            if !hold {
                // Waited for: who has room for a moment only would pause it again before it has fetched anything.
                rouse(consumer, &self.name, list);
            }
        }
        self.held_back = hold;
        Ok(())
    }

    /// Wakes the library for these partitions without waiting until it is awake: the answer stands behind a fetch that the
    /// broker holds back. (A short limit instead would be worse: the library closes a connection on which a request came to
    /// its limit.)
    fn rouse_aside(&self, consumer: &Arc<BaseConsumer<GroupContext>>, list: TopicPartitionList) {
        let (consumer, group, in_use) = (consumer.clone(), self.name.clone(), self.wakes.clone());
        let spawned = thread::Builder::new().name("wake".into()).spawn(move || {
            rouse(&consumer, &group, list);
            drop(consumer);
            drop(in_use);
        });
        if let Err(error) = spawned {
            tracing::warn!(group = self.name, %error, "no thread to wake the client with: the first fetch may come late");
        }
    }

    fn is_at(&self, at: TopicPartition, message: &BorrowedMessage<'_>) -> bool {
        at.partition == message.partition() && self.name_of(at) == message.topic()
    }

    fn find(&self, message: &BorrowedMessage<'_>) -> Option<TopicPartition> {
        let topic = self.inputs.iter().find(|topic| &*self.names[usize::from(topic.0)] == message.topic())?;
        Some(TopicPartition { topic: *topic, partition: message.partition() })
    }

    fn announce(&mut self, rebalance: Rebalance) -> Event {
        let sub_topology = self.id;
        match rebalance {
            Rebalance::Assigned(partitions) => {
                self.unanswered = true;
                Event::Assigned { sub_topology, partitions }
            }
            Rebalance::Revoked(partitions) => {
                self.unreleased = partitions.iter().copied().collect();
                Event::Revoked { sub_topology, partitions }
            }
            Rebalance::Lost(partitions) => {
                self.unreleased = partitions.iter().copied().collect();
                Event::Lost { sub_topology, partitions }
            }
        }
    }

    fn judge(&self, consumer: &BaseConsumer<GroupContext>, problem: KafkaError) -> Result<(), BrokerError> {
        if let Some((code, reason)) = consumer.client().fatal_error() {
            return Err(BrokerError::Fatal(format!(
                "group {}: {reason} ({code}): is another process running under this instance's name?",
                self.name
            )));
        }
        match problem.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                Err(BrokerError::Fatal(format!(
                    "group {}: {problem}: a committed position is outside its topic; records were deleted before they were read, or the topic was made anew",
                    self.name
                )))
            }
            Some(code) if mends_itself(code) => {
                tracing::debug!(group = self.name, %problem, "passing trouble");
                Ok(())
            }
            _ => Err(of_question(&format!("group {}", self.name), &problem)),
        }
    }

    /// Asks every poll, also when the consumer gave no error: a fatal error is told once, then only kept.
    pub(super) fn check(&self) -> Result<(), BrokerError> {
        match self.consumer()?.client().fatal_error() {
            None => Ok(()),
            // Another of this name has the place; or the coordinator restarted, and the library heartbeats with a member
            // id it has forgotten. Either way this client is done, and a new one joins in its name.
            Some((code @ RDKafkaErrorCode::FencedInstanceId, reason)) => {
                Err(BrokerError::Fenced(format!("group {}: {reason} ({code})", self.name)))
            }
            Some((code, reason)) => Err(BrokerError::Fatal(format!("group {}: {reason} ({code})", self.name))),
        }
    }

    pub(super) fn committed(&self, partitions: &[TopicPartition]) -> Result<Vec<Option<Offset>>, BrokerError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let list = self.list(partitions.iter().map(|at| (at, None)))?;
        let what = format!(
            "committed offsets of group {} (they wait while a transaction is open; one that stays open for minutes: \"A node \
             that skips markers\" in docs/reliability.md)",
            self.name
        );
        let found = self.consumer()?.committed_offsets(list, QUESTION).map_err(|error| of_question(&what, &error))?;
        let found = found.checked(&what)?;
        Ok(partitions
            .iter()
            .map(|at| found.get(&(self.name_of(*at).to_owned(), at.partition)).copied().flatten())
            .collect())
    }

    pub(super) fn start(&mut self, positions: &[(TopicPartition, Offset)]) -> Result<(), BrokerError> {
        let consumer = self.consumer()?.clone();
        let new: Vec<_> = positions.iter().filter(|(at, _)| !self.readers.contains_key(at)).copied().collect();
        let list = self.list(new.iter().map(|(at, next)| (at, Some(*next))))?;
        // The group has heard of the input it subscribes to.
        let companions = new.iter().map(|(at, _)| at.topic).filter(|topic| *topic != self.inputs[0]);
        leaders::ask(&consumer, &self.names, companions);
        if list.count() > 0 || self.unanswered {
            consumer
                .incremental_assign(&list)
                .map_err(|error| BrokerError::Retry(format!("group {}: assign: {error}", self.name)))?;
            self.unanswered = false;
        }
        if list.count() > 0 {
            consumer
                .pause(&list)
                .map_err(|error| BrokerError::Fatal(format!("group {}: pause: {error}", self.name)))?;
        }
        for (at, next) in new {
            self.started.insert(at.partition);
            self.readers.insert(at, Reader { next, flow: Flow::Paused, skipped: false });
        }
        Ok(())
    }

    pub(super) fn set_flow(&mut self, partitions: &[TopicPartition], flow: Flow) -> Result<(), BrokerError> {
        let consumer = self.consumer()?.clone();
        let changed: Vec<_> =
            partitions.iter().filter(|at| self.readers.get(at).is_some_and(|r| r.flow != flow)).copied().collect();
        if changed.is_empty() {
            return Ok(());
        }
        if flow == Flow::Open {
            let skipped: Vec<_> = changed
                .iter()
                .filter_map(|at| self.readers.get(at).filter(|r| r.skipped).map(|r| (*at, r.next)))
                .collect();
            self.rewind(&skipped)?;
        }
        let list = self.list(changed.iter().map(|at| (at, None)))?;
        if !self.held_back {
            let done = match flow {
                Flow::Open => consumer.resume(&list),
                Flow::Paused => consumer.pause(&list),
            };
            done.map_err(|error| BrokerError::Retry(format!("group {}: {error}", self.name)))?;
            if flow == Flow::Open {
                self.rouse_aside(&consumer, list);
            }
        }
        for at in changed {
            if let Some(reader) = self.readers.get_mut(&at) {
                reader.flow = flow;
            }
        }
        Ok(())
    }

    /// Seeks. A partition that is only just starting cannot be sought yet: that passes.
    pub(super) fn rewind(&mut self, positions: &[(TopicPartition, Offset)]) -> Result<(), BrokerError> {
        let consumer = self.consumer()?.clone();
        let mut left: Vec<_> = positions.iter().filter(|(at, _)| self.readers.contains_key(at)).copied().collect();
        let since = Instant::now();
        while !left.is_empty() {
            let list = self.list(left.iter().map(|(at, next)| (at, Some(*next))))?;
            let done = consumer
                .seek_partitions(list, SEEK)
                .map_err(|error| BrokerError::Retry(format!("group {}: {error}", self.name)))?;
            let mut again = Vec::new();
            for element in done.elements() {
                let sought = left
                    .iter()
                    .find(|(at, _)| at.partition == element.partition() && self.name_of(*at) == element.topic());
                let Some((at, next)) = sought.copied() else {
                    continue;
                };
                match element.error() {
                    Ok(()) => {
                        if let Some(reader) = self.readers.get_mut(&at) {
                            reader.next = next;
                            reader.skipped = false;
                        }
                    }
                    Err(error) if since.elapsed() < SEEK => {
                        tracing::debug!(group = self.name, partition = at.partition, %error, "seek waits");
                        again.push((at, next));
                    }
                    Err(error) => {
                        return Err(BrokerError::Retry(format!(
                            "{}-{}: seek: {error}",
                            self.name_of(at),
                            at.partition
                        )));
                    }
                }
            }
            left = again;
            if !left.is_empty() {
                thread::sleep(Duration::from_millis(2));
            }
        }
        Ok(())
    }

    /// Gives partitions up. A revocation is answered in one piece, when all of it is released: the group must not see
    /// some of its partitions as still owned.
    pub(super) fn release(&mut self, partitions: &[i32]) -> Result<(), BrokerError> {
        if partitions.is_empty() {
            return Ok(());
        }
        let consumer = self.consumer()?.clone();
        self.released.extend(partitions);
        for partition in partitions {
            self.unreleased.remove(partition);
        }
        if !self.unreleased.is_empty() {
            return Ok(());
        }
        let gone: Vec<_> = self.readers.keys().filter(|at| self.released.contains(&at.partition)).copied().collect();
        let list = self.list(gone.iter().map(|at| (at, None)))?;
        consumer
            .incremental_unassign(&list)
            .map_err(|error| BrokerError::Retry(format!("group {}: unassign: {error}", self.name)))?;
        for at in gone {
            self.readers.remove(&at);
            self.started.remove(&at.partition);
        }
        self.released.clear();
        self.unanswered = false;
        Ok(())
    }

    /// Positions to commit and who commits them, taken afresh each time. Refused when the member is in no generation:
    /// the broker would take such positions from anybody.
    pub(super) fn positions(
        &self,
        offsets: &[(TopicPartition, Offset)],
    ) -> Result<(TopicPartitionList, ConsumerGroupMetadata), BrokerError> {
        let consumer = self.consumer()?;
        let list = self.list(offsets.iter().map(|(at, next)| (at, Some(*next))))?;
        let member = consumer.group_metadata();
        let member = member.ok_or_else(|| BrokerError::Abort(format!("group {} has no metadata", self.name)))?;
        // Asked after the metadata were taken: a member that had left by then has not come back, because the engine
        // must release its partitions first.
        if consumer.assignment_lost() || raw::generation(consumer) < 0 {
            return Err(BrokerError::Abort(format!("group {}: the partitions are no longer this member's", self.name)));
        }
        Ok((list, member))
    }

    /// Takes the consumer out to be left and dropped elsewhere, answering what waits so that closing cannot hang on it.
    pub(super) fn close(&mut self) -> Option<Closing> {
        let consumer = self.consumer.take()?;
        self.answer_what_waits(&consumer);
        self.wakes = None;
        Some(Closing { consumer, when_stopped: self.when_stopped, unused: self.wakes_over.clone() })
    }

    /// From here on no rebalance reaches the engine, nor one that it has not answered yet.
    fn answer_what_waits(&mut self, consumer: &BaseConsumer<GroupContext>) {
        consumer.context().set_leaving(true);
        let mut waits_assign = std::mem::take(&mut self.unanswered);
        let mut waits_release = !std::mem::take(&mut self.unreleased).is_empty();
        while let Some(rebalance) = consumer.context().take() {
            match rebalance {
                Rebalance::Assigned(_) => waits_assign = true,
                Rebalance::Revoked(_) | Rebalance::Lost(_) => waits_release = true,
            }
        }
        if waits_assign {
            let _ = consumer.incremental_assign(&TopicPartitionList::new());
        }
        if waits_release {
            let _ = consumer.assignment().and_then(|all| consumer.incremental_unassign(&all));
        }
    }
}

impl Reader {
    /// Whether the record is the next one; if so, the position moves past it.
    fn take(&mut self, offset: Offset) -> bool {
        if offset < self.next {
            return false;
        }
        if self.flow == Flow::Paused {
            self.skipped = true;
            return false;
        }
        self.next = offset + 1;
        true
    }
}

/// What the client library says of each partition, or the first error among them.
trait Checked {
    fn checked(&self, what: &str) -> Result<BTreeMap<(String, i32), Option<Offset>>, BrokerError>;
}

impl Checked for TopicPartitionList {
    fn checked(&self, what: &str) -> Result<BTreeMap<(String, i32), Option<Offset>>, BrokerError> {
        let mut found = BTreeMap::new();
        for element in self.elements() {
            element.error().map_err(|error| of_question(what, &error))?;
            let offset = match element.offset() {
                rdkafka::Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            found.insert((element.topic().to_owned(), element.partition()), offset);
        }
        Ok(found)
    }
}

fn record_of(message: &BorrowedMessage<'_>) -> InputRecord {
    let headers: Headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|header| (header_name(header.key), header.value.unwrap_or_default().to_vec())).collect()
    });
    InputRecord {
        offset: message.offset(),
        timestamp: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers,
    }
}

/// Wakes the library after partitions were resumed: its broker threads do not notice that, and with no fetch under way they
/// sleep for up to a second (`rd_kafka_max_block_ms`). A question to the leaders rouses them; nobody needs its answer.
fn rouse(consumer: &BaseConsumer<GroupContext>, group: &str, mut list: TopicPartitionList) {
    let asked = list.set_all_offsets(rdkafka::Offset::End).and_then(|()| consumer.offsets_for_times(list, WAKING));
    if let Err(error) = asked {
        tracing::debug!(group, %error, "the first fetch may come late");
    }
}
