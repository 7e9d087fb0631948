//! A running pipeline in this process: stream threads on Kafka, their metrics and health, the announcements of who owns
//! which task, and the fetching of schemas that processors wait for.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use millrace_psp::{CallBytes, Provider};
use millrace_runtime::{
    About, BrokerError, Note, NoteLevel, Parts, StandbyReport, StreamThread, SubTopologyId, TaskId, TaskState,
    ThreadError, Topology,
};
use millrace_schemas::{Codec, topics};
use millrace_worker::{
    Asks, CallPool, From, Health, KafkaBroker, KafkaConfig, LockedDirectory, Metrics, PlacedRecord, RecordProducer,
    Said, StandbyConfig, Standbys, StateDirectory, StateSettings, StreamThreads, SystemClock, TopicReader, Waker,
    WhenStopped,
};

use crate::connection::{Connection, PATIENCE};
use crate::orders::{INTAKE, Owners, TRACKING, Tracked};

const SCHEMAS_EVERY: Duration = Duration::from_millis(100);
/// Threads that ask the provider, for each stream thread; each asks [`Provider::together`] at a time.
const CALL_THREADS: usize = 16;

/// What a pipeline is made of.
pub(crate) struct PipelineConfig {
    pub(crate) connection: Connection,
    pub(crate) codec: Codec,
    pub(crate) topology: Arc<Topology>,
    pub(crate) sub_topologies: Vec<SubTopologyId>,
    pub(crate) instance: String,
    pub(crate) threads: usize,
    pub(crate) state_dir: PathBuf,
    pub(crate) provider: Arc<dyn Provider>,
    pub(crate) session_timeout_ms: u32,
    pub(crate) when_stopped: WhenStopped,
}

/// A running pipeline.
pub(crate) struct Pipeline {
    threads: StreamThreads,
    standbys: Option<Standbys>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) health: Arc<Health>,
    expected: usize,
}

impl Pipeline {
    /// Starts the stream threads.
    pub(crate) fn start(config: PipelineConfig) -> anyhow::Result<Self> {
        let definitions = millrace_processors::definitions(&config.codec);
        let unusable = || format!("cannot use the state directory {}", config.state_dir.display());
        let taken = LockedDirectory::take(StateSettings::new(&config.state_dir)).with_context(unusable)?;
        // Opened while the clients connect, by whoever needs it first.
        let storage = Arc::new(LazyLock::new(move || taken.open()));
        let metrics = Arc::new(Metrics::new(&config.topology)?);
        let health = Arc::new(Health::default());
        let listener = {
            let (metrics, topology) = (metrics.clone(), config.topology.clone());
            Arc::new(move |said: Said| {
                log(&said.thread, &said.report.notes);
                metrics.add(&topology, &said);
            })
        };
        let expected = config
            .sub_topologies
            .iter()
            .map(|id| config.topology.sub_topology(*id))
            .map(|sub| sub.processors.len() * usize::try_from(sub.partitions).unwrap_or(0))
            .sum();
        let provider = config.provider.clone();
        let together = provider.together();
        let handler: millrace_worker::Handler = Arc::new(move |calls, answer| {
            let calls: Vec<_> =
                calls.iter().map(|call| CallBytes { request: &call.request, repeated: call.repeated }).collect();
            millrace_psp::handle_all_bytes(&*provider, &calls, answer);
        });
        let threads = config.threads.max(1);
        let keeps_copies = config.topology.engine.standbys > 0;
        let sharing = threads + usize::from(keeps_copies);
        let copies = keeps_copies.then(|| {
            let number = u16::try_from(threads).unwrap_or(u16::MAX);
            let kafka = KafkaConfig::new(&config.connection.kafka, &config.instance, number);
            let (topology, definitions) = (config.topology.clone(), definitions.clone());
            let sub_topologies = config.sub_topologies.clone();
            let (metrics, counted) = (metrics.clone(), config.topology.clone());
            move |asks: Asks, storage: StateDirectory| {
                let told = Arc::new(move |report: StandbyReport| {
                    log(&"standbys", &report.notes);
                    metrics.add_standbys(&counted, &report);
                });
                let config =
                    StandbyConfig { kafka, topology, definitions, sub_topologies, storage, asks, threads: sharing };
                Standbys::start(config, told)
            }
        });
        let (counted, opened) = (metrics.clone(), storage.clone());
        let make = move |thread: usize, waker: &Waker| -> Result<StreamThread<KafkaBroker>, ThreadError> {
            let stopped = |reason: String| ThreadError::Stopped(reason);
            let number = u16::try_from(thread).map_err(|_| stopped("too many threads".into()))?;
            let mut kafka = KafkaConfig::new(&config.connection.kafka, &config.instance, number);
            kafka.session_timeout_ms = config.session_timeout_ms;
            kafka.transaction_timeout_ms = config.session_timeout_ms;
            kafka.when_stopped = config.when_stopped;
            let broker = connect(&kafka, &config.topology, &config.sub_topologies, waker)?;
            counted.watch_client(broker.counters());
            let storage = (**opened).clone().map_err(|error| stopped(error.to_string()))?;
            Ok(StreamThread::new(Parts {
                topology: config.topology.clone(),
                definitions: definitions.clone(),
                sub_topologies: config.sub_topologies.clone(),
                broker,
                storage: Box::new(storage),
                clock: Box::new(SystemClock::default()),
                caller: Box::new(CallPool::new(CALL_THREADS, together, handler.clone(), waker.clone())),
                threads: sharing,
            }))
        };
        let threads = millrace_worker::start(threads, make, &(listener as millrace_worker::Listener))?;
        let storage = (**storage).clone().with_context(unusable)?;
        metrics.watch_stores(storage.clone());
        let standbys = copies.map(|copies| copies(threads.asks(), storage)).transpose()?;
        Ok(Self { threads, standbys, metrics, health, expected })
    }

    /// To ask for states.
    pub(crate) fn asks(&self) -> Asks {
        self.threads.asks()
    }

    /// Whether every task of every partition runs in this process.
    pub(crate) fn runs_everything(&self) -> bool {
        let tasks = self.threads.asks().tasks();
        tasks.iter().filter(|(_, state)| *state == TaskState::Running).count() >= self.expected
    }

    /// Whether every task that is here runs.
    pub(crate) fn all_here_run(&self) -> bool {
        let tasks = self.threads.asks().tasks();
        !tasks.is_empty() && tasks.iter().all(|(_, state)| *state == TaskState::Running)
    }

    /// Why a thread ended by itself, once one has.
    pub(crate) fn failure(&self) -> Option<ThreadError> {
        self.threads.failure(Duration::ZERO)
    }

    /// Commits, writes out, leaves.
    pub(crate) fn stop(self) -> Result<(), ThreadError> {
        if let Some(standbys) = self.standbys {
            standbys.stop();
        }
        self.threads.stop()
    }
}

/// What a thread wants somebody to read, with what it is about in fields of their own.
fn log(thread: &dyn std::fmt::Display, notes: &[Note]) {
    for Note { level, text, about } in notes {
        let About { processor, topic, partition, offset, key } = about;
        let (processor, topic, key) = (processor.as_deref(), topic.as_deref(), key.as_deref());
        // What is keyed by SKU is about no order.
        let by_sku = topic.is_some_and(|topic| topics::KEYED_BY_SKU.contains(&topic));
        let (order, sku) = if by_sku { (None, key) } else { (key, None) };
        match level {
            NoteLevel::Info => tracing::info!(%thread, processor, topic, partition, offset, order, sku, "{text}"),
            NoteLevel::Warn => tracing::warn!(%thread, processor, topic, partition, offset, order, sku, "{text}"),
        }
    }
}

/// The clients of a stream thread; waits for a cluster that does not answer.
fn connect(
    kafka: &KafkaConfig,
    topology: &Topology,
    hosted: &[SubTopologyId],
    waker: &Waker,
) -> Result<KafkaBroker, ThreadError> {
    let since = Instant::now();
    loop {
        match KafkaBroker::connect(kafka, topology, hosted, waker) {
            Err(BrokerError::Retry(reason)) if since.elapsed() < PATIENCE => {
                tracing::warn!(reason, "waiting for the broker");
                std::thread::sleep(Duration::from_millis(200));
            }
            other => return other.map_err(|error| ThreadError::Stopped(error.to_string())),
        }
    }
}

/// Fetches the writer schemas that processors wait for, for as long as the runtime lives.
pub(crate) fn fetch_schemas(codec: Codec, registry: String) {
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(SCHEMAS_EVERY).await;
            if !codec.wanted().is_empty()
                && let Err(error) = millrace_schemas::registry::fetch_wanted(&codec, &registry).await
            {
                tracing::warn!(error = %error, "a schema cannot be fetched; its records wait");
                tokio::time::sleep(10 * SCHEMAS_EVERY).await;
            }
        }
    });
}

/// Announces the tasks of this process that others ask for: those of tracking for queries, those of intake for how far they
/// have read the catalog.
pub(crate) fn announce_owners(kafka: &str, topology: Arc<Topology>, asks: Asks, url: String) -> anyhow::Result<()> {
    let producer = RecordProducer::connect(kafka, Duration::from_secs(10))?;
    tokio::spawn(async move {
        let asked_for = [TRACKING, INTAKE].map(|name| (name, topology.find_processor(name)));
        let name_of =
            |task: &TaskId| asked_for.iter().find(|(_, id)| *id == Some(task.processor)).map(|(name, _)| *name);
        let mut announced: BTreeSet<(&str, i32)> = BTreeSet::new();
        loop {
            let running = asks.tasks().into_iter().filter(|(_, state)| *state == TaskState::Running);
            let owned: BTreeSet<(&str, i32)> =
                running.filter_map(|(task, _)| Some((name_of(&task)?, task.partition))).collect();
            for (name, partition) in owned.difference(&announced).copied().collect::<Vec<_>>() {
                let key = format!("{name}-{partition}");
                let sent = producer.produce(&topology.task_owners(), key.as_bytes(), Some(url.as_bytes()), &[]).await;
                if sent.is_ok() {
                    announced.insert((name, partition));
                }
            }
            announced.retain(|task| owned.contains(task));
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    Ok(())
}

/// What an announcement says: processor, partition, address.
pub(crate) fn announced(placed: &PlacedRecord) -> Option<(String, i32, String)> {
    let text =
        |bytes: &Option<Vec<u8>>| bytes.as_deref().and_then(|bytes| std::str::from_utf8(bytes).ok().map(str::to_owned));
    let key = text(&placed.record.key)?;
    let (name, partition) = key.rsplit_once('-')?;
    Some((name.to_owned(), partition.parse().ok()?, text(&placed.record.value)?))
}

/// Keeps `owners` as announced.
pub(crate) fn watch_owners(kafka: &str, topology: &Topology, owners: Owners) {
    let (kafka, topic) = (kafka.to_owned(), topology.task_owners());
    std::thread::spawn(move || {
        loop {
            let Ok(mut reader) = TopicReader::open(&kafka, &[&topic], From::Beginning) else { continue };
            while let Ok(records) = reader.read(Duration::from_secs(1), 1_000) {
                for placed in records {
                    if let (Some((name, partition, url)), Ok(mut owners)) = (announced(&placed), owners.write())
                        && name == TRACKING
                    {
                        owners.insert(partition, url);
                    }
                }
            }
        }
    });
}

/// `/metrics`, `/livez`, `/readyz`, `/startupz`, and the committed state of an order for other processes.
pub(crate) fn routes(pipeline: &Arc<Mutex<Option<Pipeline>>>, tracked: Arc<Tracked>) -> anyhow::Result<Router> {
    let guard = pipeline.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let running = guard.as_ref().context("the pipeline has stopped")?;
    let health = millrace_worker::health_routes(running.metrics.clone(), running.health.clone());
    Ok(Router::new().route("/state/orders/{id}", get(state_of)).with_state(tracked).merge(health))
}

/// The same for a process that runs no tasks.
pub(crate) fn health_routes_without_tasks() -> Router {
    async fn fine() -> &'static str {
        "ok\n"
    }
    Router::new().route("/livez", get(fine)).route("/readyz", get(fine)).route("/startupz", get(fine))
}

async fn state_of(State(tracked): State<Arc<Tracked>>, Path(order_id): Path<String>) -> Response {
    match tracked.find_here(&order_id).await {
        Some(Ok(Some(order))) => ([(header::CONTENT_TYPE, "application/json")], order.json).into_response(),
        Some(Ok(None)) => StatusCode::NOT_FOUND.into_response(),
        Some(Err(reason)) => (StatusCode::SERVICE_UNAVAILABLE, reason.to_string()).into_response(),
        None => (StatusCode::MISDIRECTED_REQUEST, "this process does not own the order").into_response(),
    }
}
