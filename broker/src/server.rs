//! Starting and stopping a broker. It runs on threads of its own, so a caller that blocks cannot stop it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::core::{Core, Durability, Settings, StorageError};
use crate::files::FileDisk;
use crate::registry;
use crate::wire::{self, Shared};

/// How often the core is told the time.
const TICK: Duration = Duration::from_millis(50);

/// What a broker needs to know to start.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Address for Kafka clients; port 0 takes a free one. This is also the address clients are told.
    pub listen: SocketAddr,
    /// Address of the schema registry; port 0 takes a free one.
    pub registry_listen: SocketAddr,
    /// Folder of all data, created if needed; used by one broker at a time.
    pub data_dir: PathBuf,
    /// Most connections at a time; more are closed at once.
    pub max_connections: usize,
    /// Largest request, bytes; a larger one closes its connection.
    pub max_request_bytes: usize,
    /// Threads that serve connections.
    pub threads: usize,
    /// Numbers of the core.
    pub settings: Settings,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            listen: loopback,
            registry_listen: loopback,
            data_dir: PathBuf::from("data/broker"),
            max_connections: 1000,
            max_request_bytes: 100 << 20,
            threads: 2,
            settings: Settings::default(),
        }
    }
}

/// Why a broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Another broker uses the data folder.
    #[error("another broker uses {0}; stop it or choose another folder")]
    InUse(PathBuf),
    /// The data folder cannot be used.
    #[error("{path}: {source}")]
    DataDir {
        /// Folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// Address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The data could not be read, or is broken.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The schema registry could not read its topic.
    #[error("schema registry: {0}")]
    Registry(String),
    /// The operating system gave no thread.
    #[error("no thread for the broker: {0}")]
    Thread(io::Error),
}

/// An embedded broker.
#[derive(Debug)]
pub struct Broker;

/// A running broker. Dropping it stops it as [`BrokerHandle::stop`] does.
#[derive(Debug)]
pub struct BrokerHandle {
    kafka: SocketAddr,
    registry: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Broker {
    /// Starts a broker and returns when clients can connect.
    ///
    /// # Errors
    /// See [`BrokerError`]. Nothing keeps running then.
    pub async fn start(config: BrokerConfig) -> Result<BrokerHandle, BrokerError> {
        let (started, start) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("millrace-broker".to_owned())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(config.threads.max(1))
                    .thread_name("millrace-broker")
                    .enable_all()
                    .build();
                match runtime {
                    Ok(runtime) => {
                        runtime.block_on(run(config, started, stopped));
                        runtime.shutdown_timeout(Duration::from_secs(1));
                    }
                    Err(error) => {
                        started.send(Err(BrokerError::Thread(error))).ok();
                    }
                }
            })
            .map_err(BrokerError::Thread)?;
        let lost = || BrokerError::Thread(io::Error::other("the broker's thread died"));
        let (kafka, registry) = start.await.map_err(|_| lost())??;
        Ok(BrokerHandle { kafka, registry, stop: Some(stop), thread: Some(thread) })
    }
}

impl BrokerHandle {
    /// Where Kafka clients connect.
    #[must_use]
    pub fn kafka_addr(&self) -> SocketAddr {
        self.kafka
    }

    /// Base URL of the schema registry, without a slash at the end.
    #[must_use]
    pub fn registry_url(&self) -> String {
        format!("http://{}", self.registry)
    }

    /// Closes all connections and releases the data folder. What was acknowledged is on disk already.
    pub async fn stop(mut self) {
        let Some(thread) = self.signal() else {
            return;
        };
        // Joining blocks, so it is left to a thread that may block.
        tokio::task::spawn_blocking(move || thread.join().ok()).await.ok();
    }

    fn signal(&mut self) -> Option<JoinHandle<()>> {
        if let Some(stop) = self.stop.take() {
            // If nobody listens, the broker is gone already.
            stop.send(()).ok();
        }
        self.thread.take()
    }
}

impl Drop for BrokerHandle {
    fn drop(&mut self) {
        if let Some(thread) = self.signal() {
            thread.join().ok();
        }
    }
}

type Started = oneshot::Sender<Result<(SocketAddr, SocketAddr), BrokerError>>;

async fn run(config: BrokerConfig, started: Started, stopped: oneshot::Receiver<()>) {
    match open(&config).await {
        Err(error) => {
            started.send(Err(error)).ok();
        }
        Ok(open) => {
            let addresses = (open.shared.address, open.registry_address);
            if started.send(Ok(addresses)).is_err() {
                return;
            }
            serve(config, open, stopped).await;
        }
    }
}

struct Open {
    shared: Arc<Shared>,
    kafka: TcpListener,
    registry: TcpListener,
    registry_address: SocketAddr,
    schemas: registry::Registry,
}

async fn open(config: &BrokerConfig) -> Result<Open, BrokerError> {
    let dir = &config.data_dir;
    let disk = FileDisk::lock(dir)
        .map_err(|source| BrokerError::DataDir { path: dir.clone(), source })?
        .ok_or_else(|| BrokerError::InUse(dir.clone()))?;
    let (kafka, address) = listen(config.listen).await?;
    let (registry, registry_address) = listen(config.registry_listen).await?;
    let core = Core::open(Arc::new(disk), config.settings, wire::now())?;
    let shared = Arc::new(Shared::new(core, address));
    let schemas = registry::Registry::open(shared.clone()).map_err(BrokerError::Registry)?;
    shared.with_core(|core, now| core.renew_sessions(now));
    Ok(Open { shared, kafka, registry, registry_address, schemas })
}

async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), BrokerError> {
    let failed = |source| BrokerError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

async fn serve(config: BrokerConfig, open: Open, stopped: oneshot::Receiver<()>) {
    let connections =
        wire::accept_connections(open.kafka, open.shared.clone(), config.max_connections, config.max_request_bytes);
    let schemas = registry::serve(open.registry, open.schemas);
    tokio::select! {
        () = connections => {}
        result = schemas => {
            if let Err(error) = result {
                tracing::error!(%error, "schema registry ended");
            }
        }
        () = keep_time(&open.shared) => {}
        () = sync(&open.shared) => {}
        () = keep_house(&open.shared, config.settings.housekeeping_interval) => {}
        _ = stopped => {}
    }
    // Off the threads of the runtime: disks may be slow.
    let shared = open.shared;
    tokio::task::spawn_blocking(move || snapshot_before_stop(&shared)).await.ok();
}

async fn keep_time(shared: &Shared) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        shared.with_core(|core, now| core.tick(now));
    }
}

/// Brings to disk what was written, round after round, as long as something is.
async fn sync(shared: &Shared) {
    if shared.durability == Durability::Process {
        return std::future::pending().await;
    }
    loop {
        // What no client waits for is not left lying either.
        tokio::time::timeout(TICK, shared.sync_wanted()).await.ok();
        while let Some(job) = shared.with_core(|core, _| core.next_sync()) {
            let round = job.round();
            let result = tokio::task::spawn_blocking(move || job.run()).await;
            let died = |error| StorageError::Io { file: "sync".to_owned(), source: io::Error::other(error) };
            shared.finish_sync(round, result.unwrap_or_else(|error| Err(died(error))));
        }
    }
}

/// Writes snapshots and runs compaction passes, one after the other, off the threads that serve connections.
async fn keep_house(shared: &Shared, interval: i64) {
    let interval = Duration::from_millis(u64::try_from(interval).unwrap_or(0).max(1));
    loop {
        tokio::time::sleep(interval).await;
        while let Some(job) = shared.with_core(|core, _| core.next_snapshot()) {
            let at = job.partition().clone();
            let Ok(result) = tokio::task::spawn_blocking(|| job.run()).await else {
                tracing::error!(?at, "snapshot died");
                break;
            };
            let failed = result.is_err();
            shared.with_core(|core, _| core.finish_snapshot(&at, result));
            if failed {
                // Tried again after the interval.
                break;
            }
        }
        while let Some(job) = shared.with_core(|core, now| core.next_compaction(now)) {
            let at = job.partition().clone();
            let Ok(result) = tokio::task::spawn_blocking(|| job.run()).await else {
                // Only a panic ends it early; the partition stays marked, so it is not tried again.
                tracing::error!(?at, "compaction died");
                continue;
            };
            let failed = result.is_err();
            shared.with_core(|core, now| core.finish_compaction(now, &at, result));
            if failed {
                break;
            }
        }
    }
}

fn snapshot_before_stop(shared: &Shared) {
    // Whatever was written is worth keeping, asked for or not.
    while let Some(job) = shared.with_core(|core, _| core.next_sync()) {
        let round = job.round();
        shared.finish_sync(round, job.run());
    }
    while let Some(job) = shared.with_core(|core, _| core.next_snapshot_before_stop()) {
        let at = job.partition().clone();
        let result = job.run();
        let failed = result.is_err();
        shared.with_core(|core, _| core.finish_snapshot(&at, result));
        if failed {
            return;
        }
    }
}
