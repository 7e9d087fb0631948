//! The thread of a process that keeps warm copies: announces the process, reads what others announce, and drives the
//! engine's standby thread. Owns nothing that a stream thread waits for: when it is late or fails, a restore is longer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use millrace_runtime::{
    Clock, ProcessorDefinition, StandbyParts, StandbyReport, StandbyThread, SubTopologyId, Topology,
};

use crate::clock::SystemClock;
use crate::config::KafkaConfig;
use crate::kafka_broker::OutsideReader;
use crate::placement::{Announced, LIVING_MS, copies_of};
use crate::producer::BulkProducer;
use crate::reader::{From, TopicReader};
use crate::state_directory::StateDirectory;
use crate::stream_threads::Asks;

/// Between two announcements.
const BEAT: Duration = Duration::from_secs(2);
/// Longest wait of a turn with nothing to do.
const IDLE_WAIT: Duration = Duration::from_millis(100);
/// Before everything is tried again after trouble.
const AFTER_TROUBLE: Duration = Duration::from_secs(2);
/// Keys of announcements on the topic of task owners: this and the process's name.
const KEY: &str = "process/";

/// What the thread is made of.
pub struct StandbyConfig {
    /// The cluster, and this process's name in it.
    pub kafka: KafkaConfig,
    /// The topology; its `standbys` says how many copies a partition has.
    pub topology: Arc<Topology>,
    /// Every processor of the topology.
    pub definitions: Vec<ProcessorDefinition>,
    /// The sub-topologies this process hosts.
    pub sub_topologies: Vec<SubTopologyId>,
    /// The disks that the stream threads of this process use.
    pub storage: StateDirectory,
    /// To ask which tasks are here.
    pub asks: Asks,
    /// How many threads of this process share its memory budget, this one included.
    pub threads: usize,
}

/// Takes what the thread says after a turn.
pub type StandbyListener = Arc<dyn Fn(StandbyReport) + Send + Sync>;

/// The running thread.
pub struct Standbys {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Standbys {
    /// Starts the thread.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(config: StandbyConfig, listener: StandbyListener) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::Builder::new().name("standbys".into()).spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                if let Err(reason) = run(&config, &listener, &stopping) {
                    tracing::warn!(reason, "no standby copies are kept for now; they are tried again");
                    let since = Instant::now();
                    while since.elapsed() < AFTER_TROUBLE && !stopping.load(Ordering::Relaxed) {
                        std::thread::sleep(IDLE_WAIT);
                    }
                }
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// Writes the copies out and ends.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        if self.thread.join().is_err() {
            tracing::error!("the thread of the standby copies panicked");
        }
    }
}

fn run(config: &StandbyConfig, listener: &StandbyListener, stop: &AtomicBool) -> Result<(), String> {
    let topology = &config.topology;
    let reader = OutsideReader::connect(&config.kafka, topology).map_err(|error| error.to_string())?;
    let mut copies = StandbyThread::new(StandbyParts {
        topology: topology.clone(),
        definitions: config.definitions.clone(),
        reader,
        storage: Box::new(config.storage.clone()),
        clock: Box::new(SystemClock::default()),
        threads: config.threads,
    });
    let mut members = Members::open(config)?;
    while !stop.load(Ordering::Relaxed) {
        copies.keep(members.copies(config)?);
        copies.turn(IDLE_WAIT);
        listener(copies.take_report());
    }
    copies.close();
    listener(copies.take_report());
    Ok(())
}

/// What this process has said and what it has heard.
struct Members {
    me: String,
    topic: String,
    reader: TopicReader,
    producer: BulkProducer,
    clock: SystemClock,
    said: Option<Instant>,
    /// Each process's last word, and when it was said.
    heard: BTreeMap<String, (Announced, i64)>,
}

impl Members {
    fn open(config: &StandbyConfig) -> Result<Self, String> {
        let (kafka, topic) = (&config.kafka.bootstrap, config.topology.task_owners());
        let producer = BulkProducer::connect(kafka).map_err(|error| error.to_string())?;
        let reader = TopicReader::open(kafka, &[&topic], From::Beginning).map_err(|error| error.to_string())?;
        Ok(Self {
            me: config.kafka.instance.clone(),
            topic,
            reader,
            producer,
            clock: SystemClock::default(),
            said: None,
            heard: BTreeMap::new(),
        })
    }

    /// Says what is due, hears what came, and decides what this process keeps.
    fn copies(&mut self, config: &StandbyConfig) -> Result<BTreeSet<(SubTopologyId, i32)>, String> {
        let topology = &config.topology;
        let name = |id: &SubTopologyId| topology.sub_topology(*id).name.clone();
        let tasks = config.asks.tasks();
        let owned = tasks.iter().flat_map(|(task, _)| {
            let of = topology.sub_topologies.iter().filter(|sub| sub.processors.contains(&task.processor));
            of.map(|sub| (sub.name.clone(), task.partition))
        });
        let mine = Announced { hosts: config.sub_topologies.iter().map(name).collect(), owns: owned.collect() };
        let changed = self.heard.get(&self.me).is_none_or(|(said, _)| *said != mine);
        if changed || self.said.is_none_or(|said| said.elapsed() >= BEAT) {
            let key = format!("{KEY}{}", self.me);
            let sent = self.producer.queue(&self.topic, key.as_bytes(), mine.to_text().as_bytes());
            sent.map_err(|error| error.to_string())?;
            self.said = Some(Instant::now());
        }
        for placed in self.reader.read(Duration::ZERO, 10_000).map_err(|error| error.to_string())? {
            let key = placed.record.key.as_deref().and_then(|key| std::str::from_utf8(key).ok());
            let Some(process) = key.and_then(|key| key.strip_prefix(KEY)) else { continue };
            match placed.record.value.as_deref().and_then(Announced::from_text) {
                Some(said) => drop(self.heard.insert(process.to_owned(), (said, placed.record.timestamp))),
                None => drop(self.heard.remove(process)),
            }
        }
        let now = self.clock.now();
        self.heard.insert(self.me.clone(), (mine, now));
        if !self.reader.has_caught_up() {
            return Ok(BTreeSet::new());
        }
        let living = self.heard.iter().filter(|(_, (_, at))| now - at < LIVING_MS);
        let living = living.map(|(process, (said, _))| (process.clone(), said.clone())).collect();
        let partitions = topology.sub_topologies.iter().map(|sub| (sub.name.clone(), sub.partitions)).collect();
        let kept = copies_of(&self.me, &living, &partitions, topology.engine.standbys);
        Ok(kept
            .into_iter()
            .filter_map(|(sub, partition)| Some((topology.find_sub_topology(&sub)?, partition)))
            .collect())
    }
}
