//! Regroups processors: records the new grouping and carries the positions over, all of it in one transaction, while
//! nobody is in the groups concerned. Never moves a position backwards or guesses one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use millrace_runtime::{Offset, Topology};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset as At, TopicPartitionList};

use super::plan::{Carried, Differing, Known, plan};
use super::{Grouping, KEY, Phase};
use crate::config::KafkaConfig;
use crate::kafka_broker::raw::{self, Polled};

/// How long the cluster may take for one answer. A transaction that was left open holds answers up until it times out.
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(15);
const BETWEEN: Duration = Duration::from_millis(200);

/// What was done, or would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Regrouped {
    /// The processors are grouped like this already.
    Unchanged,
    /// It is recorded for the first time.
    First,
    /// Other sub-topologies than before; these positions were carried over.
    Changed(Vec<Carried>),
}

/// Whether anything is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// It is.
    Apply,
    /// It is not; what would be is found out.
    DryRun,
}

/// Why the processors are not regrouped. No position has changed then.
#[derive(Debug, thiserror::Error)]
pub enum RegroupError {
    /// The cluster did not do what was asked.
    #[error("{what}: {source}. Run `millrace apply` again: it goes on from where it was")]
    Cluster {
        /// What was asked.
        what: String,
        /// What the client said.
        source: KafkaError,
    },
    /// Somebody is in a group whose processors change.
    #[error(
        "the processors of {group} change, but it still has members: {}. Stop them; one that was stopped or killed \
         counts until its session ends (10 s, unless --session-timeout says otherwise)", members.join(", ")
    )]
    Members {
        /// Which group.
        group: String,
        /// Their client ids and hosts.
        members: Vec<String>,
    },
    /// A group must stand at one offset, and its former groups do not.
    #[error(
        "processors that are to share a group stand at different offsets:\n{}\nLet them catch up first: stop what writes \
         to these topics, run them grouped as before until nothing is left to read, stop them, and apply again",
        .0.iter().map(|one| format!("  {one}")).collect::<Vec<_>>().join("\n")
    )]
    Differ(Vec<Differing>),
    /// There are positions, but no record says whose.
    #[error(
        "groups of this application have positions ({}), but how the processors were grouped was never recorded. Apply the \
         topology under which they last ran first, then this one", .0.join(", ")
    )]
    Unrecorded(Vec<String>),
    /// The record is not one of this program's.
    #[error("the record on {0} cannot be read: was it written by a newer version?")]
    Unreadable(String),
}

/// Makes the application's grouping that of the topology. Doing it again changes nothing; after a crash at any point it
/// is simply done again. Waits up to `wait` for the groups concerned to be left; `say` is told what it waits for.
///
/// # Errors
/// [`RegroupError`]; the processors are then grouped as they were, or, when the cluster did not answer, wait for the next
/// attempt.
pub fn regroup(
    config: &KafkaConfig,
    topology: &Topology,
    wait: Duration,
    mode: Mode,
    say: &mut dyn FnMut(String),
) -> Result<Regrouped, RegroupError> {
    let cluster = Cluster::connect(config, topology)?;
    let wanted = Grouping::of(topology);
    let recorded = cluster.recorded()?;
    if recorded.as_ref() == Some(&wanted) {
        return Ok(Regrouped::Unchanged);
    }
    if mode == Mode::DryRun {
        let Some(former) = recorded else { return cluster.refuse_unrecorded().map(|()| Regrouped::First) };
        cluster.until_left(&former.changed(&wanted), wait, say)?;
        return cluster.plan(&former).map(Regrouped::Changed);
    }
    // Whoever else regroups is fenced from here on; what it has left open is aborted.
    let recorder = Recorder::open(config, topology)?;
    let Some(mut former) = cluster.recorded()? else {
        cluster.refuse_unrecorded()?;
        recorder.record(&wanted, &[], &cluster)?;
        return Ok(Regrouped::First);
    };
    let changed = former.changed(&wanted);
    if former == wanted {
        return Ok(Regrouped::Unchanged);
    }
    let mut patience = wait;
    if former.phase == Phase::Settled {
        cluster.until_left(&changed, wait, say)?;
        former.phase = Phase::Moving;
        recorder.record(&former, &[], &cluster)?;
        patience = Duration::ZERO;
    }
    // From here on nobody processes: who joins now, reads `moving` and waits.
    let planned = cluster.until_left(&changed, patience, say).and_then(|()| cluster.plan(&former));
    match planned {
        Ok(carried) => {
            recorder.record(&wanted, &carried, &cluster)?;
            Ok(Regrouped::Changed(carried))
        }
        Err(error) => {
            former.phase = Phase::Settled;
            recorder.record(&former, &[], &cluster)?;
            Err(error)
        }
    }
}

/// The questions to the cluster.
struct Cluster<'a> {
    config: &'a KafkaConfig,
    topology: &'a Topology,
    /// Sees what is not committed, too: it tells the true ends.
    asker: BaseConsumer,
}

impl<'a> Cluster<'a> {
    fn connect(config: &'a KafkaConfig, topology: &'a Topology) -> Result<Self, RegroupError> {
        let asker = config.bounds().create().map_err(|error| of("making a client", error))?;
        Ok(Self { config, topology, asker })
    }

    /// A reader of what is committed, in the name of a group without being in it.
    fn reader(&self, group: &str) -> Result<BaseConsumer, RegroupError> {
        let mut config = self.config.follower(&self.topology.application);
        config.set("group.id", group).create().map_err(|error| of("making a client", error))
    }

    fn group(&self, sub_topology: &str) -> String {
        format!("{}.{sub_topology}", self.topology.application)
    }

    /// The newest record, once nothing in front of the topic's end is undecided.
    fn recorded(&self) -> Result<Option<Grouping>, RegroupError> {
        let topic = self.topology.grouping_topic();
        let what = || format!("reading {topic}");
        let (start, end) = retried(|| self.asker.fetch_watermarks(&topic, 0, ANSWER)).map_err(|e| of(&what(), e))?;
        let reader = self.reader(&format!("{}.follower", self.topology.application))?;
        let mut at = TopicPartitionList::new();
        at.add_partition_offset(&topic, 0, At::Offset(start)).map_err(|e| of(&what(), e))?;
        reader.assign(&at).map_err(|e| of(&what(), e))?;
        let (mut newest, mut next, since) = (None, start, Instant::now());
        while next < end {
            match raw::poll(&reader, Duration::from_millis(100)) {
                Polled::Record { record, .. } => {
                    next = record.offset + 1;
                    if record.key.as_deref() == Some(KEY) {
                        newest = record.value;
                    }
                }
                Polled::End { offset, .. } => next = offset,
                Polled::Nothing | Polled::Error { .. } => {}
            }
            if since.elapsed() > PATIENCE {
                return Err(of(&what(), KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
            }
        }
        newest.map(|text| Grouping::from_text(&text).ok_or(RegroupError::Unreadable(topic))).transpose()
    }

    /// Positions without a record: nobody can tell which processors they are of.
    fn refuse_unrecorded(&self) -> Result<(), RegroupError> {
        let prefix = format!("{}.", self.topology.application);
        let listed = retried(|| self.asker.client().fetch_group_list(None, ANSWER));
        let listed = listed.map_err(|error| of("listing groups", error))?;
        let own: BTreeSet<String> = self.topology.sub_topology_ids().map(|id| self.topology.group(id)).collect();
        let named = listed.groups().iter().map(|group| group.name().to_owned());
        let others = named.filter(|name| name.starts_with(&prefix) && !own.contains(name));
        let with_positions = others.filter_map(|name| match self.has_positions(&name) {
            Ok(true) => Some(Ok(name)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        });
        let with_positions = with_positions.collect::<Result<Vec<_>, _>>()?;
        if with_positions.is_empty() { Ok(()) } else { Err(RegroupError::Unrecorded(with_positions)) }
    }

    fn has_positions(&self, group: &str) -> Result<bool, RegroupError> {
        let all = self.topology.topics.iter().flat_map(|topic| (0..topic.partitions).map(|p| (&*topic.name, p)));
        Ok(!self.committed(group, all)?.is_empty())
    }

    /// Waits until nobody is in the groups.
    fn until_left(
        &self,
        sub_topologies: &BTreeSet<String>,
        wait: Duration,
        say: &mut dyn FnMut(String),
    ) -> Result<(), RegroupError> {
        let (since, mut said) = (Instant::now(), BTreeSet::new());
        for sub in sub_topologies {
            let group = self.group(sub);
            loop {
                let listed = retried(|| self.asker.client().fetch_group_list(Some(&group), ANSWER));
                let listed = listed.map_err(|error| of(&format!("members of {group}"), error))?;
                let found = listed.groups().iter().filter(|one| one.name() == group);
                let members = found.flat_map(|one| one.members());
                let members: Vec<_> = members.map(|m| format!("{} at {}", m.client_id(), m.client_host())).collect();
                if members.is_empty() {
                    break;
                }
                if since.elapsed() >= wait {
                    return Err(RegroupError::Members { group, members });
                }
                if said.insert(group.clone()) {
                    say(format!("waiting until {} left {group}", members.join(", ")));
                }
                std::thread::sleep(BETWEEN);
            }
        }
        Ok(())
    }

    fn plan(&self, former: &Grouping) -> Result<Vec<Carried>, RegroupError> {
        let wanted = Grouping::of(self.topology);
        let changed = former.changed(&wanted);
        let mut known = Known::default();
        let read = self.topology.sub_topologies.iter().filter(|sub| changed.contains(&sub.name));
        let places: BTreeSet<(String, i32)> = read
            .flat_map(|sub| sub.inputs.iter().map(move |input| (input, sub.partitions)))
            .flat_map(|(input, partitions)| {
                let name = &self.topology.topic(*input).name;
                (0..partitions).map(move |partition| (name.to_string(), partition))
            })
            .collect();
        for (topic, partition) in &places {
            let found = retried(|| self.asker.fetch_watermarks(topic, *partition, ANSWER));
            let (start, _) = found.map_err(|error| of(&format!("the beginning of {topic}-{partition}"), error))?;
            known.starts.insert((topic.clone(), *partition), start);
        }
        for sub in &changed {
            let asked = places.iter().map(|(topic, partition)| (topic.as_str(), *partition));
            known.committed.insert(sub.clone(), self.committed(&self.group(sub), asked)?);
        }
        plan(former, self.topology, &known).map_err(RegroupError::Differ)
    }

    /// A group's positions, once no transaction that moves them is undecided.
    fn committed<'b>(
        &self,
        group: &str,
        places: impl Iterator<Item = (&'b str, i32)>,
    ) -> Result<BTreeMap<(String, i32), Offset>, RegroupError> {
        let what = format!("positions of {group}");
        let mut asked = TopicPartitionList::new();
        for (topic, partition) in places {
            asked.add_partition(topic, partition);
        }
        let reader = self.reader(group)?;
        let found = retried(|| {
            let found = reader.committed_offsets(asked.clone(), ANSWER)?;
            found.elements().iter().try_for_each(|element| element.error())?;
            Ok(found)
        });
        let found = found.map_err(|error| of(&what, error))?;
        let elements = found.elements();
        let known = elements.iter().filter_map(|element| match element.offset() {
            At::Offset(next) => Some(((element.topic().to_owned(), element.partition()), next)),
            _ => None,
        });
        Ok(known.collect())
    }
}

/// Writes the record and the positions, in transactions of one name: a second one fences the first.
struct Recorder {
    producer: BaseProducer,
    topic: String,
}

impl Recorder {
    fn open(config: &KafkaConfig, topology: &Topology) -> Result<Self, RegroupError> {
        let topic = topology.grouping_topic();
        let producer: BaseProducer = config
            .producer(&topology.application)
            .set("transactional.id", &topic)
            .create()
            .map_err(|error| of("making a producer", error))?;
        producer.init_transactions(PATIENCE).map_err(|error| of("opening a transaction", error))?;
        Ok(Self { producer, topic })
    }

    /// All or nothing: the record, and the positions.
    fn record(&self, grouping: &Grouping, carried: &[Carried], cluster: &Cluster<'_>) -> Result<(), RegroupError> {
        let failed = |error| of("recording the grouping", error);
        self.producer.begin_transaction().map_err(failed)?;
        let text = grouping.to_text();
        let record = BaseRecord::to(&self.topic).partition(0).key(KEY).payload(&text);
        self.producer.send(record).map_err(|(error, _)| failed(error))?;
        let mut groups: BTreeMap<&str, TopicPartitionList> = BTreeMap::new();
        for one in carried {
            let list = groups.entry(&one.sub_topology).or_default();
            list.add_partition_offset(&one.topic, one.partition, At::Offset(one.next)).map_err(failed)?;
        }
        for (sub, positions) in &groups {
            let reader = cluster.reader(&cluster.group(sub))?;
            let metadata = reader.group_metadata();
            let nobody = metadata.ok_or_else(|| failed(KafkaError::ClientCreation("no group metadata".into())))?;
            self.producer.send_offsets_to_transaction(positions, &nobody, PATIENCE).map_err(failed)?;
        }
        self.producer.flush(PATIENCE).map_err(failed)?;
        self.producer.commit_transaction(PATIENCE).map_err(failed)
    }
}

fn retried<T>(mut ask: impl FnMut() -> Result<T, KafkaError>) -> Result<T, KafkaError> {
    let since = Instant::now();
    loop {
        match ask() {
            Err(_) if since.elapsed() < PATIENCE => std::thread::sleep(BETWEEN),
            other => return other,
        }
    }
}

fn of(what: &str, source: KafkaError) -> RegroupError {
    RegroupError::Cluster { what: what.to_owned(), source }
}
