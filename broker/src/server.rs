//! Starting and stopping a broker. It runs on threads of its own, so a caller that blocks cannot stop it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::net::TcpListener;
use tokio::sync::oneshot;

use crate::core::{Core, Durability, Settings, StorageError};
use crate::files::FileDisk;
use crate::metrics;
use crate::registry;
use crate::wire::{self, ApiKey, CannotFail, Fault, Faults, Shared};

/// How often the core is told the time.
const TICK: Duration = Duration::from_millis(50);

/// What a broker needs to know to start.
#[derive(Debug, Clone)]
pub struct BrokerConfig {
    /// Address for Kafka clients; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Host that clients are told to connect to; `None` for the address that is listened on.
    pub advertised_host: Option<String>,
    /// Listen also where others than this machine can reach the broker. It asks nobody who they are and hides nothing
    /// on the way, so whoever reaches it may read, write and delete everything. Without this, only loopback addresses
    /// are accepted.
    pub reachable_from_the_network: bool,
    /// Address of the schema registry, of `/metrics`, `/livez` and `/readyz`; port 0 takes a free one.
    pub registry_listen: SocketAddr,
    /// Folder of all data, created if needed; used by one broker at a time.
    pub data_dir: PathBuf,
    /// Whether `data_dir` is deleted when the broker has stopped.
    pub delete_data_dir: bool,
    /// Most connections at a time; more are closed at once.
    pub max_connections: usize,
    /// Largest request, bytes; a larger one closes its connection.
    pub max_request_bytes: usize,
    /// Memory for all requests on their way, bytes; beyond it, large requests wait to be read.
    pub max_in_flight_bytes: usize,
    /// A connection on which nothing is asked for this long is closed.
    pub max_idle: Duration,
    /// A client that takes longer than this to send a request, or to take a part of an answer, loses its connection.
    pub patience: Duration,
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
            advertised_host: None,
            reachable_from_the_network: false,
            registry_listen: loopback,
            data_dir: PathBuf::from("data/broker"),
            delete_data_dir: false,
            max_connections: 1000,
            max_request_bytes: 100 << 20,
            max_in_flight_bytes: 512 << 20,
            max_idle: Duration::from_secs(600),
            patience: Duration::from_secs(30),
            threads: 2,
            settings: Settings::default(),
        }
    }
}

impl BrokerConfig {
    /// A broker for a test: free ports, and a folder of its own among the system's temporary ones, deleted with the
    /// broker's stop.
    #[must_use]
    pub fn temporary() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let name = format!("millrace-broker-{}-{next}-{since}", std::process::id());
        Self { data_dir: std::env::temp_dir().join(name), delete_data_dir: true, ..Self::default() }
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
    /// An address would let others than this machine in, and nobody has said that they may come.
    #[error(
        "{0} can be reached from the network, and this broker asks nobody who they are; listen on 127.0.0.1, or set reachable_from_the_network (--reachable-from-the-network)"
    )]
    NotLoopback(SocketAddr),
    /// Clients cannot connect to the address that is listened on.
    #[error("{0} is no address a client can connect to; set advertised_host (--advertised-host) to one")]
    NoHost(SocketAddr),
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
    faults: Arc<Faults>,
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
                        let temporary = config.delete_data_dir.then(|| config.data_dir.clone());
                        let was_ours = runtime.block_on(run(config, started, stopped));
                        runtime.shutdown_timeout(Duration::from_secs(1));
                        if let Some(dir) = temporary.filter(|_| was_ours)
                            && let Err(error) = std::fs::remove_dir_all(&dir)
                        {
                            tracing::warn!(dir = %dir.display(), %error, "data folder not deleted");
                        }
                    }
                    Err(error) => {
                        started.send(Err(BrokerError::Thread(error))).ok();
                    }
                }
            })
            .map_err(BrokerError::Thread)?;
        let lost = || BrokerError::Thread(io::Error::other("the broker's thread died"));
        let Running { kafka, registry, faults } = start.await.map_err(|_| lost())??;
        Ok(BrokerHandle { kafka, registry, faults, stop: Some(stop), thread: Some(thread) })
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

    /// Makes something go wrong with the next request of a kind, whoever sends it. Several for the same kind come one
    /// after the other.
    ///
    /// # Errors
    /// If this kind of request cannot be answered with an error on demand.
    pub fn inject(&self, kind: ApiKey, fault: Fault) -> Result<(), CannotFail> {
        self.faults.add(kind, fault)
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

/// What the handle of a running broker needs.
struct Running {
    kafka: SocketAddr,
    registry: SocketAddr,
    faults: Arc<Faults>,
}

type Started = oneshot::Sender<Result<Running, BrokerError>>;

/// Runs until it is stopped; `false` if it did not start.
async fn run(config: BrokerConfig, started: Started, stopped: oneshot::Receiver<()>) -> bool {
    let open = match open(&config).await {
        Ok(open) => open,
        Err(error) => {
            started.send(Err(error)).ok();
            return false;
        }
    };
    let running =
        Running { kafka: open.shared.address, registry: open.registry_address, faults: open.shared.faults.clone() };
    if started.send(Ok(running)).is_ok() {
        serve(config, open, stopped).await;
    }
    true
}

struct Open {
    shared: Arc<Shared>,
    kafka: TcpListener,
    registry: TcpListener,
    registry_address: SocketAddr,
    schemas: registry::Registry,
}

/// Refuses addresses that let others in unless that was asked for, and says so at every start when it was.
fn check_addresses(config: &BrokerConfig) -> Result<(), BrokerError> {
    for address in [config.listen, config.registry_listen] {
        if address.ip().is_loopback() {
            continue;
        }
        if !config.reachable_from_the_network {
            return Err(BrokerError::NotLoopback(address));
        }
        tracing::warn!(
            %address,
            "this broker can be reached from the network; whoever reaches it may read, write and delete everything"
        );
    }
    if config.listen.ip().is_unspecified() && config.advertised_host.is_none() {
        return Err(BrokerError::NoHost(config.listen));
    }
    Ok(())
}

async fn open(config: &BrokerConfig) -> Result<Open, BrokerError> {
    check_addresses(config)?;
    let dir = &config.data_dir;
    let disk = FileDisk::lock(dir)
        .map_err(|source| BrokerError::DataDir { path: dir.clone(), source })?
        .ok_or_else(|| BrokerError::InUse(dir.clone()))?;
    let (kafka, address) = listen(config.listen).await?;
    let (registry, registry_address) = listen(config.registry_listen).await?;
    let core = Core::open(Arc::new(disk), config.settings, wire::now())?;
    let host = config.advertised_host.clone().unwrap_or_else(|| address.ip().to_string());
    let shared = Arc::new(Shared::new(core, address, host));
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
    let limits = wire::Limits {
        connections: config.max_connections,
        request_bytes: config.max_request_bytes,
        in_flight_bytes: config.max_in_flight_bytes,
        idle: config.max_idle,
        patience: config.patience,
    };
    let connections = wire::accept_connections(open.kafka, open.shared.clone(), limits);
    let routes = registry::routes(open.schemas).merge(metrics::routes(open.shared.clone()));
    let schemas = async move { axum::serve(open.registry, routes).await };
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
