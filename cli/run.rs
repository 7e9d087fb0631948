//! `run`: stream threads of some or all sub-topologies, until told to stop; and what every long-running command needs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

use anyhow::{Context, anyhow};
use millrace_ingress::{Drain, Settings};
use millrace_psp::Provider;
use millrace_runtime::{SubTopologyId, Topology};
use millrace_worker::WhenStopped;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::connection::{Connection, TopologyFile};
use crate::orders::{Owners, Tracked};
use crate::pipeline::{self, Pipeline, PipelineConfig};

/// In place of a provider's address: one in this process.
const SIMULATED: &str = "simulated";

/// Arguments of `millrace run`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Sub-topologies, or processors in them.
    #[arg(required_unless_present = "all", value_name = "NAME")]
    names: Vec<String>,
    /// Every sub-topology.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    topology: TopologyFile,
    /// Stream threads of this process.
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
    /// Name of this process among those of the application; the same after a restart.
    #[arg(long, env = "MILLRACE_INSTANCE", default_value = "worker-1", value_name = "NAME")]
    instance: String,
    /// Where local state is kept.
    #[arg(long, default_value = "millrace-data/state", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where metrics, health and the states of this process are served; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    http: SocketAddr,
    /// The payment service provider, as `millrace psp` serves it; `simulated` runs one in this process, with its ledger
    /// beside the local state and at /psp of the address above.
    #[arg(long, env = "MILLRACE_PSP", default_value = "http://127.0.0.1:8082/psp", value_name = "URL")]
    psp: String,
    /// How long the group waits for a sign of life of this process, and the coordinator for the end of its transaction,
    /// before others take over, milliseconds.
    #[arg(long, default_value_t = 10_000, value_name = "MS")]
    session_timeout: u32,
    /// Gives its partitions up when it is stopped, so that others have them at once: for a process that does not come back.
    /// Without it they wait for the session time-out, and a restart within that moves nothing.
    #[arg(long, env = "MILLRACE_LEAVE")]
    leave: bool,
}

/// Runs until interrupted.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    to_its_end(async {
        let codec = args.connection.codec().await?;
        let topology = Arc::new(args.topology.load(&codec)?);
        crate::apply::check(&args.connection, &topology).await?;
        let sub_topologies = chosen(&topology, &args.names, args.all)?;
        let (provider, ledger) = provider(&args)?;
        let told_to_end = interrupted();
        pipeline::fetch_schemas(codec.clone(), args.connection.registry.clone());
        let started = Pipeline::start(PipelineConfig {
            connection: args.connection.clone(),
            codec,
            topology: topology.clone(),
            sub_topologies,
            instance: args.instance.clone(),
            threads: args.threads,
            state_dir: args.data_dir.join(&args.instance),
            provider,
            session_timeout_ms: args.session_timeout,
            when_stopped: if args.leave { WhenStopped::Leave } else { WhenStopped::Stay },
        })?;
        let asks = started.asks();
        let pipeline = Arc::new(Mutex::new(Some(started)));
        let client = reqwest::Client::builder().no_proxy().build()?;
        let tracked =
            Tracked { topology: topology.clone(), asks: Some(asks.clone()), owners: Owners::default(), client };
        let app = pipeline::routes(&pipeline, Arc::new(tracked))?.merge(ledger);
        let listener = millrace_ingress::bind(args.http).await?;
        let url = format!("http://{}", listener.local_addr()?);
        eprintln!("worker {}  metrics and health at {url}", args.instance);
        pipeline::announce_owners(&args.connection.kafka, topology, asks, url)?;
        let failure = {
            let pipeline = pipeline.clone();
            async move { watch(&pipeline).await }
        };
        let ended = Arc::new(Mutex::new(None));
        let why = ended.clone();
        let until = async move {
            tokio::select! {
                () = told_to_end => {}
                error = failure => *why.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error),
            }
        };
        millrace_ingress::serve(listener, app, &Settings::default(), Drain::new(), until).await?;
        let stopped = stop(&pipeline).await;
        // Why it ends comes before how.
        match ended.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take() {
            None => stopped.map(|()| ExitCode::SUCCESS),
            Some(error) => Err(error),
        }
    })
}

/// The provider the calls go to, and what is to be served of it here.
fn provider(args: &Args) -> anyhow::Result<(Arc<dyn Provider>, axum::Router)> {
    if args.psp == SIMULATED {
        let simulated = crate::psp::open(&args.data_dir.join(format!("{}.psp", args.instance)), 0)?;
        return Ok((simulated.clone(), crate::psp::routes(simulated)));
    }
    let remote = crate::psp::RemoteProvider::new(&args.psp, tokio::runtime::Handle::current())?;
    Ok((Arc::new(remote), axum::Router::new()))
}

/// Ready when a stream thread has ended by itself, with the reason. Keeps the health of the process up to date.
pub(crate) async fn watch(pipeline: &Arc<Mutex<Option<Pipeline>>>) -> anyhow::Error {
    loop {
        {
            let guard = pipeline.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match guard.as_ref() {
                None => return anyhow!("the pipeline has stopped"),
                Some(pipeline) => {
                    pipeline.health.set_ready(pipeline.all_here_run());
                    if let Some(error) = pipeline.failure() {
                        pipeline.health.set_dead();
                        return error.into();
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Stops the pipeline in good order.
pub(crate) async fn stop(pipeline: &Arc<Mutex<Option<Pipeline>>>) -> anyhow::Result<()> {
    let taken = pipeline.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    if let Some(pipeline) = taken {
        tokio::task::spawn_blocking(move || pipeline.stop()).await??;
    }
    Ok(())
}

fn chosen(topology: &Topology, names: &[String], all: bool) -> anyhow::Result<Vec<SubTopologyId>> {
    if all {
        return Ok(topology.sub_topology_ids().collect());
    }
    let mut ids = Vec::new();
    for name in names {
        let id = topology.find_sub_topology(name).with_context(|| {
            let known: Vec<&str> = topology.sub_topologies.iter().map(|sub| sub.name.as_str()).collect();
            format!("there is no sub-topology or processor {name}; there are {}", known.join(", "))
        })?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Whether this process was told to end, by Ctrl-C or SIGTERM.
static TOLD: LazyLock<watch::Sender<bool>> = LazyLock::new(|| watch::Sender::new(false));
/// Whether the command itself looks for that by now, and ends in good order.
static LOOKS: AtomicBool = AtomicBool::new(false);

/// Runs a command to its end; one that is told to end before it looks for that has done nothing yet and ends at once.
/// Work that still blocks then (a read that waits for the broker) is left behind: the process ends.
pub(crate) fn to_its_end(command: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        // First of all: a signal nobody listens for ends a process as a failure.
        if let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        {
            tokio::spawn(async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                TOLD.send_replace(true);
            });
        }
        tokio::select! {
            ended = command => ended,
            () = told_too_early() => {
                tracing::info!("told to end while it was starting");
                Ok(ExitCode::SUCCESS)
            }
        }
    });
    runtime.shutdown_background();
    ended
}

async fn told_too_early() {
    told().await;
    if LOOKS.load(Ordering::SeqCst) {
        std::future::pending::<()>().await;
    }
}

async fn told() {
    // Its sender is never dropped.
    let _ = TOLD.subscribe().wait_for(|told| *told).await;
}

/// The asynchronous side of the process: HTTP, registry, signals. The data path has threads of its own.
pub(crate) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Ready at Ctrl-C or SIGTERM. Who calls this ends in good order by itself from then on.
pub(crate) fn interrupted() -> impl Future<Output = ()> {
    LOOKS.store(true, Ordering::SeqCst);
    told()
}
