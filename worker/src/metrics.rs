//! The numbers of a process for Prometheus. Children are looked up once and held; a turn of a stream thread costs one
//! lock and some additions. No order, customer or SKU is ever a label.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_runtime::{
    Clock, Offset, ProcessorId, Report, StandbyReport, SubTopologyId, TaskId, TaskState, Timestamp, TopicPartition,
    Topology,
};
use prometheus::core::Collector;
use prometheus::{
    Encoder, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::clock::SystemClock;
use crate::kafka_broker::ClientCounters;
use crate::state_directory::StateDirectory;
use crate::stream_threads::Said;

/// Bounds of a transaction's duration, seconds.
const SECONDS: &[f64] = &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Where the thread of the standby copies stands among the stream threads.
const STANDBYS: usize = usize::MAX;

/// The numbers of one process.
pub struct Metrics {
    registry: Registry,
    records: IntCounterVec,
    by_processor: BTreeMap<ProcessorId, OfProcessor>,
    commits: IntCounter,
    committed_records: IntCounter,
    transaction_seconds: Histogram,
    handed_over: IntCounter,
    strangers: IntCounter,
    aborts: IntCounter,
    restored: IntCounter,
    rebuilt: IntCounter,
    replaced: IntCounterVec,
    stale: IntCounter,
    calls_in_flight: IntGauge,
    memtable_bytes: IntGauge,
    store_bytes: IntGauge,
    set_aside: IntGauge,
    tasks: IntGaugeVec,
    lag: IntGaugeVec,
    lag_seconds: GaugeVec,
    restore_remaining: IntGaugeVec,
    standby_tasks: IntGauge,
    standby_lag: IntGaugeVec,
    standby_records: IntCounter,
    waiting: IntGaugeVec,
    oldest_waiting: GaugeVec,
    globals: IntGaugeVec,
    held: Mutex<Held>,
}

/// What one processor counts.
struct OfProcessor {
    latency: Histogram,
    dead_letters: IntCounter,
    parked: IntCounter,
    deadlines: IntCounter,
    calls: IntCounter,
    answers: IntCounter,
}

/// Children and the last values of things that are not counters at their source.
#[derive(Default)]
struct Held {
    records: BTreeMap<TaskId, IntCounter>,
    counts: BTreeMap<&'static str, IntCounterVec>,
    threads: BTreeMap<usize, Now>,
    clients: Vec<(Arc<ClientCounters>, [u64; 3])>,
    stores: Option<StateDirectory>,
    /// Time of the newest record each task has handled.
    newest: BTreeMap<TaskId, Timestamp>,
    /// What each processor reads, by names, and the names of all topics: filled with the first report.
    inputs: BTreeMap<ProcessorId, (String, Vec<String>)>,
    topics: Vec<String>,
    groups: BTreeMap<SubTopologyId, String>,
}

impl Held {
    /// The inputs that are passed on in memory: group, topic, partition.
    fn in_memory(&self) -> BTreeSet<(String, String, i32)> {
        let all = self.threads.values().flat_map(|thread| &thread.in_memory);
        all.filter_map(|(group, at)| {
            let topic = self.topics.get(usize::from(at.topic.0))?;
            Some((self.groups.get(group)?.clone(), topic.clone(), at.partition))
        })
        .collect()
    }
}

fn inputs_of(topology: &Topology) -> BTreeMap<ProcessorId, (String, Vec<String>)> {
    let of = |spec: &millrace_runtime::ProcessorSpec| {
        let inputs = spec.inputs.iter().map(|id| topology.topic(*id).name.to_string()).collect();
        Some((topology.find_processor(&spec.name)?, (spec.name.clone(), inputs)))
    };
    topology.processors.iter().filter_map(of).collect()
}

#[derive(Default)]
struct Now {
    calls: usize,
    memtable: usize,
    waiting: BTreeMap<(ProcessorId, &'static str), (usize, Timestamp)>,
    globals: BTreeMap<(ProcessorId, TopicPartition), Offset>,
    in_memory: BTreeSet<(SubTopologyId, TopicPartition)>,
    tasks: Vec<(TaskId, TaskState)>,
}

impl Metrics {
    /// The metrics of a topology's processors.
    ///
    /// # Errors
    /// A name is used twice: a mistake of the program.
    pub fn new(topology: &Topology) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let add = &registry;
        let counters = |name: &str, help: &str, labels: &[&str]| {
            registered(add, IntCounterVec::new(Opts::new(name, help), labels)?)
        };
        let counter = |name: &str, help: &str| registered(add, IntCounter::new(name, help)?);
        let gauge = |name: &str, help: &str| registered(add, IntGauge::new(name, help)?);
        let gauges =
            |name: &str, help: &str, labels: &[&str]| registered(add, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let of = &["processor"];
        let dead_letters = counters("millrace_dead_letters_total", "Records given to the dead letters", of)?;
        let parked = counters("millrace_parked_records_total", "Records parked behind a poison record", of)?;
        let deadlines = counters("millrace_deadlines_fired_total", "Deadlines of states that fired", of)?;
        let calls = counters("millrace_calls_started_total", "Calls to external services started", of)?;
        let answers = counters("millrace_calls_answered_total", "Calls to external services answered", of)?;
        let latency = HistogramOpts::new(
            "millrace_record_latency_seconds",
            "From the time of a record to the moment a processor handled it",
        );
        let latency = registered(add, HistogramVec::new(latency.buckets(SECONDS.to_vec()), of)?)?;
        let by_processor = topology
            .processors
            .iter()
            .filter_map(|spec| {
                let label = &[spec.name.as_str()];
                let held = OfProcessor {
                    latency: latency.with_label_values(label),
                    dead_letters: dead_letters.with_label_values(label),
                    parked: parked.with_label_values(label),
                    deadlines: deadlines.with_label_values(label),
                    calls: calls.with_label_values(label),
                    answers: answers.with_label_values(label),
                };
                Some((topology.find_processor(&spec.name)?, held))
            })
            .collect();
        let duration = HistogramOpts::new(
            "millrace_transaction_duration_seconds",
            "From the first record of a transaction to its commit",
        );
        Ok(Self {
            records: counters("millrace_records_total", "Records handled", &["processor", "partition"])?,
            by_processor,
            commits: counter("millrace_commits_total", "Transactions committed")?,
            committed_records: counter("millrace_committed_records_total", "Records in committed transactions")?,
            transaction_seconds: registered(add, Histogram::with_opts(duration.buckets(SECONDS.to_vec()))?)?,
            handed_over: counter(
                "millrace_handed_over_records_total",
                "Records that tasks of one stream thread passed on to each other in memory",
            )?,
            strangers: counter(
                "millrace_stranger_aborts_total",
                "Transactions aborted because somebody else wrote between records passed on in memory",
            )?,
            aborts: counter("millrace_aborts_total", "Transactions aborted")?,
            restored: counter("millrace_restored_records_total", "Records applied while restoring stores")?,
            rebuilt: counter("millrace_stores_rebuilt_total", "Stores emptied and rebuilt from their topics")?,
            replaced: counters(
                "millrace_producers_replaced_total",
                "Transactional producers replaced: suspect of a repeated request, or asked for after an unknown outcome",
                &["cause"],
            )?,
            stale: counter("millrace_stale_records_total", "Records of an earlier position dropped after a rewind")?,
            calls_in_flight: gauge("millrace_calls_in_flight", "Calls that wait for their answer")?,
            memtable_bytes: gauge("millrace_memtable_bytes", "Memory of states not yet written out")?,
            store_bytes: gauge("millrace_store_bytes", "State directory on disk")?,
            set_aside: gauge("millrace_stores_set_aside", "Stores and directories set aside since the start")?,
            tasks: gauges("millrace_tasks", "Tasks of this process by state", &["state"])?,
            lag: gauges(
                "millrace_lag_records",
                "Records committed to a partition but not yet handled",
                &["group", "topic", "partition"],
            )?,
            lag_seconds: registered(
                add,
                GaugeVec::new(
                    Opts::new("millrace_lag_seconds", "Age of the newest record handled, while records wait behind it"),
                    &["processor", "partition"],
                )?,
            )?,
            restore_remaining: gauges(
                "millrace_restore_remaining_records",
                "Offsets that a restoring task has still to read",
                &["processor", "partition"],
            )?,
            standby_tasks: gauge("millrace_standby_tasks", "Tasks of which this process keeps a standby copy")?,
            standby_lag: gauges(
                "millrace_standby_lag_records",
                "Offsets that a standby copy lacks of what it may have",
                &["processor", "partition"],
            )?,
            standby_records: counter("millrace_standby_records_total", "Records applied to standby copies")?,
            waiting: gauges(
                "millrace_waiting",
                "States that wait, such as orders that are not at their end, by what they wait in",
                &["processor", "state"],
            )?,
            oldest_waiting: registered(
                add,
                GaugeVec::new(
                    Opts::new("millrace_oldest_waiting_seconds", "How long the oldest state waits in what it waits in"),
                    &["processor", "state"],
                )?,
            )?,
            globals: gauges(
                "millrace_global_table_offset",
                "Offset up to which a global table has read its topic; of several threads, the one that is behind",
                &["processor", "topic", "partition"],
            )?,
            registry,
            held: Mutex::default(),
        })
    }

    /// Takes in what a stream thread says.
    pub fn add(&self, topology: &Topology, said: &Said) {
        let report = &said.report;
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (task, count) in &report.processed {
            let child = held.records.entry(*task).or_insert_with(|| {
                let processor = &topology.processor(task.processor).name;
                self.records.with_label_values(&[processor, &task.partition.to_string()])
            });
            child.inc_by(*count);
        }
        for (task, at) in &report.newest {
            held.newest.insert(*task, *at);
        }
        for (task, remaining) in &report.restore_remaining {
            let processor = &topology.processor(task.processor).name;
            self.restore_remaining.with_label_values(&[processor, &task.partition.to_string()]).set(*remaining);
        }
        if let Some(tasks) = &said.tasks {
            for (task, _) in tasks.iter().filter(|(_, state)| *state == TaskState::Running) {
                let processor = &topology.processor(task.processor).name;
                self.restore_remaining.with_label_values(&[processor, &task.partition.to_string()]).set(0);
            }
        }
        if held.inputs.is_empty() {
            held.inputs = inputs_of(topology);
            held.groups = topology.sub_topology_ids().map(|id| (id, topology.group(id))).collect();
            held.topics = topology.topics.iter().map(|topic| topic.name.to_string()).collect();
        }
        self.add_by_processor(report);
        self.commits.inc_by(report.commits);
        self.committed_records.inc_by(report.committed_records);
        self.handed_over.inc_by(report.handed_over);
        self.strangers.inc_by(report.strangers);
        self.aborts.inc_by(report.aborts);
        self.restored.inc_by(report.restored);
        self.rebuilt.inc_by(report.rebuilt);
        for ms in &report.transaction_ms {
            #[allow(clippy::cast_precision_loss)]
            self.transaction_seconds.observe(*ms as f64 / 1_000.0);
        }
        for ((metric, label), count) in &report.counts {
            self.count(&mut held, metric, label, *count);
        }
        let now = held.threads.entry(said.thread).or_default();
        (now.calls, now.memtable) = (report.calls_in_flight, report.memtable_bytes);
        now.waiting.clone_from(&report.waiting);
        now.globals.clone_from(&report.globals);
        now.in_memory.clone_from(&report.in_memory);
        if let Some(tasks) = &said.tasks {
            now.tasks.clone_from(tasks);
        }
    }

    /// Takes in what the thread of the standby copies says.
    pub fn add_standbys(&self, topology: &Topology, report: &StandbyReport) {
        self.standby_tasks.set(i64::try_from(report.lag.len()).unwrap_or(i64::MAX));
        self.standby_records.inc_by(report.applied);
        self.standby_lag.reset();
        for (task, lag) in &report.lag {
            let processor = &topology.processor(task.processor).name;
            self.standby_lag.with_label_values(&[processor, &task.partition.to_string()]).set(*lag);
        }
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.threads.entry(STANDBYS).or_default().memtable = report.memtable_bytes;
    }

    fn add_by_processor(&self, report: &Report) {
        for (processor, ages) in &report.ages_ms {
            if let Some(held) = self.by_processor.get(processor) {
                let local = held.latency.local();
                for age in ages {
                    local.observe(f64::from(*age) / 1_000.0);
                }
                local.flush();
            }
        }
        let add = |counts: &BTreeMap<ProcessorId, u64>, of: fn(&OfProcessor) -> &IntCounter| {
            for (processor, count) in counts {
                if let Some(held) = self.by_processor.get(processor) {
                    of(held).inc_by(*count);
                }
            }
        };
        add(&report.dead_letters, |held| &held.dead_letters);
        add(&report.parked, |held| &held.parked);
        add(&report.deadlines, |held| &held.deadlines);
        add(&report.calls, |held| &held.calls);
        add(&report.answers, |held| &held.answers);
    }

    /// A processor's own count: `millrace_<metric>_total{kind="<label>"}`.
    fn count(&self, held: &mut Held, metric: &'static str, label: &str, count: u64) {
        if !held.counts.contains_key(metric) {
            let opts = Opts::new(format!("millrace_{metric}_total"), "Counted by a processor");
            match IntCounterVec::new(opts, &["kind"]).and_then(|vec| registered(&self.registry, vec)) {
                Ok(vec) => {
                    held.counts.insert(metric, vec);
                }
                Err(error) => tracing::warn!(metric, %error, "a processor's metric cannot be kept"),
            }
        }
        if let Some(vec) = held.counts.get(metric) {
            vec.with_label_values(&[label]).inc_by(count);
        }
    }

    /// Also tells what a thread's clients count.
    pub fn watch_client(&self, counters: Arc<ClientCounters>) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).clients.push((counters, [0; 3]));
    }

    /// Also tells what the state directory takes.
    pub fn watch_stores(&self, stores: StateDirectory) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).stores = Some(stores);
    }

    /// The text that Prometheus reads.
    #[must_use]
    pub fn text(&self) -> String {
        self.refresh();
        let mut text = Vec::new();
        match TextEncoder::new().encode(&self.registry.gather(), &mut text) {
            Ok(()) => String::from_utf8(text).unwrap_or_default(),
            Err(error) => format!("# the metrics cannot be told: {error}\n"),
        }
    }

    fn refresh(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let sum =
            |of: fn(&Now) -> usize| i64::try_from(held.threads.values().map(of).sum::<usize>()).unwrap_or(i64::MAX);
        self.calls_in_flight.set(sum(|now| now.calls));
        self.memtable_bytes.set(sum(|now| now.memtable));
        self.tasks.reset();
        for (_, state) in held.threads.values().flat_map(|now| &now.tasks) {
            self.tasks.with_label_values(&[format!("{state:?}").to_lowercase()]).inc();
        }
        if let Some(stores) = &held.stores {
            self.store_bytes.set(i64::try_from(stores.bytes_on_disk()).unwrap_or(i64::MAX));
            self.set_aside.set(i64::try_from(stores.set_aside()).unwrap_or(i64::MAX));
        }
        let sinks = [
            self.replaced.with_label_values(&["suspect"]),
            self.replaced.with_label_values(&["asked"]),
            self.stale.clone(),
        ];
        let in_memory = held.in_memory();
        let mut behind: BTreeSet<(String, i32)> = BTreeSet::new();
        for (client, told) in &mut held.clients {
            let now = [&client.suspect, &client.asked, &client.stale].map(|count| count.load(Ordering::Relaxed));
            for ((sink, now), told) in sinks.iter().zip(now).zip(told) {
                sink.inc_by(now.saturating_sub(*told));
                *told = now;
            }
            let lag = client.lag.lock().unwrap_or_else(PoisonError::into_inner);
            for (group, partitions) in &*lag {
                for ((topic, partition), records) in partitions {
                    // What a reader that stands still says is old; what is passed on in memory was handled as it was written.
                    let is_in_memory = in_memory.contains(&(group.clone(), topic.clone(), *partition));
                    let records = if is_in_memory { 0 } else { *records };
                    if records > 0 {
                        behind.insert((topic.clone(), *partition));
                    }
                    let labels = [group.as_str(), topic.as_str(), &partition.to_string()];
                    self.lag.with_label_values(&labels).set(records);
                }
            }
        }
        let now = SystemClock::default().now();
        self.tell_waiting(&held, now);
        self.tell_globals(&held);
        for (task, at) in &held.newest {
            let Some((name, inputs)) = held.inputs.get(&task.processor) else { continue };
            let waits = inputs.iter().any(|input| behind.contains(&(input.clone(), task.partition)));
            #[allow(clippy::cast_precision_loss)]
            let seconds = if waits { (now - at).max(0) as f64 / 1_000.0 } else { 0.0 };
            self.lag_seconds.with_label_values(&[name, &task.partition.to_string()]).set(seconds);
        }
    }

    fn tell_globals(&self, held: &Held) {
        let mut furthest_behind: BTreeMap<(ProcessorId, TopicPartition), Offset> = BTreeMap::new();
        for (place, next) in held.threads.values().flat_map(|thread| &thread.globals) {
            let behind = furthest_behind.entry(*place).or_insert(*next);
            *behind = (*behind).min(*next);
        }
        for ((processor, from), next) in furthest_behind {
            let name = held.inputs.get(&processor).map(|(name, _)| name);
            if let (Some(name), Some(topic)) = (name, held.topics.get(usize::from(from.topic.0))) {
                let labels = [name.as_str(), topic.as_str(), &from.partition.to_string()];
                self.globals.with_label_values(&labels).set(next);
            }
        }
    }

    /// What the tasks of this process say now; what moved away with a task is no longer told.
    fn tell_waiting(&self, held: &Held, now: Timestamp) {
        self.waiting.reset();
        self.oldest_waiting.reset();
        let mut sums: BTreeMap<(ProcessorId, &'static str), (usize, Timestamp)> = BTreeMap::new();
        for (place, (count, oldest)) in held.threads.values().flat_map(|thread| &thread.waiting) {
            let sum = sums.entry(*place).or_insert((0, *oldest));
            *sum = (sum.0 + count, sum.1.min(*oldest));
        }
        for ((processor, state), (count, oldest)) in sums {
            let Some((name, _)) = held.inputs.get(&processor) else { continue };
            let labels = [name.as_str(), state];
            #[allow(clippy::cast_precision_loss)]
            let seconds = if count > 0 { (now - oldest).max(0) as f64 / 1_000.0 } else { 0.0 };
            self.oldest_waiting.with_label_values(&labels).set(seconds);
            self.waiting.with_label_values(&labels).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use millrace_runtime::EngineSettings;

    use super::*;

    fn one_processor() -> Topology {
        millrace_runtime::parse(
            "application = \"a\"\n[topics.t]\npartitions = 1\nretention = \"1d\"\n[processors.p]\ninputs = [\"t\"]\n\
             [sub-topologies]\ns = [\"p\"]\n",
        )
        .unwrap()
    }

    fn empty() -> Topology {
        Topology {
            application: "app".into(),
            topics: vec![],
            processors: vec![],
            sub_topologies: vec![],
            engine: EngineSettings::default(),
        }
    }

    #[test]
    fn what_threads_say_adds_up() {
        let (topology, metrics) = (empty(), Metrics::new(&empty()).unwrap());
        for thread in 0..2 {
            let report = Report {
                commits: 3,
                transaction_ms: vec![4, 40],
                counts: BTreeMap::from([(("orders_decided", "ACCEPTED"), 5)]),
                memtable_bytes: 100,
                ..Report::default()
            };
            metrics.add(&topology, &Said { thread, report, tasks: None });
        }
        let text = metrics.text();
        for line in [
            "millrace_commits_total 6",
            "millrace_transaction_duration_seconds_count 4",
            "millrace_orders_decided_total{kind=\"ACCEPTED\"} 10",
            "millrace_memtable_bytes 200",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn latency_and_lag_in_time_follow_from_what_a_thread_says() {
        let topology = one_processor();
        let metrics = Metrics::new(&topology).unwrap();
        let client = Arc::new(ClientCounters::default());
        metrics.watch_client(client.clone());
        let task = TaskId { processor: ProcessorId(0), partition: 0 };
        let mut report = Report::default();
        report.newest.insert(task, SystemClock::default().now() - 60_000);
        report.ages_ms.insert(ProcessorId(0), vec![3, 700]);
        report.restore_remaining.insert(task, 12);
        metrics.add(&topology, &Said { thread: 0, report, tasks: None });
        let text = metrics.text();
        assert!(text.contains("millrace_record_latency_seconds_count{processor=\"p\"} 2"), "{text}");
        assert!(text.contains("millrace_restore_remaining_records{partition=\"0\",processor=\"p\"} 12"), "{text}");
        assert!(text.contains("millrace_lag_seconds{partition=\"0\",processor=\"p\"} 0\n"), "nothing waits: {text}");
        let waiting = std::collections::BTreeMap::from([(("t".to_owned(), 0), 5)]);
        client.lag.lock().unwrap().insert("a.s".to_owned(), waiting);
        let text = metrics.text();
        let seconds =
            text.lines().find_map(|line| line.strip_prefix("millrace_lag_seconds{partition=\"0\",processor=\"p\"} "));
        assert!(seconds.unwrap().parse::<f64>().unwrap() >= 60.0, "{text}");
        let running = Said { thread: 0, report: Report::default(), tasks: Some(vec![(task, TaskState::Running)]) };
        metrics.add(&topology, &running);
        assert!(metrics.text().contains("millrace_restore_remaining_records{partition=\"0\",processor=\"p\"} 0"));
    }

    #[test]
    fn standby_copies_are_told_and_count_in_the_memory() {
        let topology = millrace_runtime::parse(
            "application = \"a\"\n[topics.t]\npartitions = 1\nretention = \"1d\"\n[processors.p]\ninputs = [\"t\"]\n\
             [sub-topologies]\ns = [\"p\"]\n",
        )
        .unwrap();
        let metrics = Metrics::new(&topology).unwrap();
        let task = TaskId { processor: ProcessorId(0), partition: 3 };
        let lag = BTreeMap::from([(task, 7)]);
        let report = StandbyReport { lag, applied: 5, memtable_bytes: 100, notes: vec![] };
        metrics.add_standbys(&topology, &report);
        let text = metrics.text();
        for line in [
            "millrace_standby_tasks 1",
            "millrace_standby_lag_records{partition=\"3\",processor=\"p\"} 7",
            "millrace_standby_records_total 5",
            "millrace_memtable_bytes 100",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        metrics.add_standbys(&topology, &StandbyReport::default());
        assert!(!metrics.text().contains("millrace_standby_lag_records{"), "a copy that is gone lags no more");
    }

    #[test]
    fn the_oldest_state_that_waits_is_told_over_all_threads_and_no_longer_once_it_is_gone() {
        let topology = millrace_runtime::parse(
            "application = \"a\"\n[topics.t]\npartitions = 1\nretention = \"1d\"\n[processors.p]\ninputs = [\"t\"]\n\
             [sub-topologies]\ns = [\"p\"]\n",
        )
        .unwrap();
        let metrics = Metrics::new(&topology).unwrap();
        let now = SystemClock::default().now();
        let say = |thread: usize, waiting: &[(&'static str, usize, i64)]| {
            let of = |(state, count, ago): &(&'static str, usize, i64)| ((ProcessorId(0), *state), (*count, now - ago));
            let report = Report { waiting: waiting.iter().map(of).collect(), ..Report::default() };
            metrics.add(&topology, &Said { thread, report, tasks: None });
        };
        let seconds = |state: &str| {
            let text = metrics.text();
            let name = format!("millrace_oldest_waiting_seconds{{processor=\"p\",state=\"{state}\"}} ");
            text.lines().find_map(|line| line.strip_prefix(&name)).map(|seconds| seconds.parse::<f64>().unwrap())
        };
        say(0, &[("RESERVING", 2, 5_000)]);
        say(1, &[("RESERVING", 3, 60_000), ("CONFIRMED", 1, 1_000)]);
        assert!(seconds("RESERVING").is_some_and(|seconds| (60.0..120.0).contains(&seconds)));
        assert!(metrics.text().contains("millrace_waiting{processor=\"p\",state=\"RESERVING\"} 5"));
        say(1, &[("RESERVING", 0, 0)]);
        assert!(seconds("RESERVING").is_some_and(|seconds| (5.0..60.0).contains(&seconds)));
        say(0, &[("RESERVING", 0, 0)]);
        assert_eq!(seconds("RESERVING"), Some(0.0));
    }

    #[test]
    fn the_lag_of_a_group_is_told() {
        let metrics = Metrics::new(&empty()).unwrap();
        let client = Arc::new(ClientCounters::default());
        metrics.watch_client(client.clone());
        let partitions = std::collections::BTreeMap::from([(("orders.placed".to_owned(), 2), 7)]);
        client.lag.lock().unwrap().insert("millrace.orders".to_owned(), partitions);
        let text = metrics.text();
        let expected = "group=\"millrace.orders\",partition=\"2\",topic=\"orders.placed\"} 7";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn an_input_that_is_passed_on_in_memory_does_not_lag() {
        let topology = one_processor();
        let metrics = Metrics::new(&topology).unwrap();
        let client = Arc::new(ClientCounters::default());
        metrics.watch_client(client.clone());
        let waiting = BTreeMap::from([(("t".to_owned(), 0), 7)]);
        client.lag.lock().unwrap().insert("a.s".to_owned(), waiting);
        let at = (SubTopologyId(0), TopicPartition { topic: topology.find_topic("t").unwrap(), partition: 0 });
        let lag = |in_memory| {
            let report = Report { in_memory, ..Report::default() };
            metrics.add(&topology, &Said { thread: 0, report, tasks: None });
            let text = metrics.text();
            let found = text.lines().find_map(|line| {
                line.strip_prefix("millrace_lag_records{group=\"a.s\",partition=\"0\",topic=\"t\"} ")?.parse().ok()
            });
            found.unwrap_or(-1)
        };
        assert_eq!(lag(BTreeSet::from([at])), 0, "its reader stands still, and what it says is old");
        assert_eq!(lag(BTreeSet::new()), 7);
    }

    #[test]
    fn a_clients_counts_are_told_once() {
        let metrics = Metrics::new(&empty()).unwrap();
        let client = Arc::new(ClientCounters::default());
        metrics.watch_client(client.clone());
        client.suspect.store(2, Ordering::Relaxed);
        let _ = metrics.text();
        client.suspect.store(3, Ordering::Relaxed);
        let text = metrics.text();
        assert!(text.contains("millrace_producers_replaced_total{cause=\"suspect\"} 3"), "{text}");
    }
}
