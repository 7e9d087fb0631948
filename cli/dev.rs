//! `dev`: the whole shop in one process, on this machine, with nothing else needed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use millrace_broker::BrokerHandle;
use millrace_ingress::{Drain, Settings};
use millrace_replay::Stock;
use millrace_runtime::Topology;
use millrace_schemas::Codec;

use crate::connection::{Connection, TopologyFile};
use crate::orders::{Owners, Tracked};
use crate::pipeline::{self, Pipeline, PipelineConfig};
use crate::replay::Speed;
use crate::{apply, audit, output, replay, run, warehouse};

/// Arguments of `millrace dev`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where everything is kept; the next start goes on from it.
    #[arg(long, default_value = "millrace-data", value_name = "DIR")]
    data_dir: PathBuf,
    /// Where HTTP is served; loopback only.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    http: SocketAddr,
    /// An Apache Kafka that is there, instead of the embedded broker.
    #[arg(long, env = "MILLRACE_KAFKA", value_name = "ADDR")]
    kafka: Option<String>,
    /// A schema registry that is there, instead of the embedded one.
    #[arg(long, env = "MILLRACE_REGISTRY", value_name = "URL")]
    registry: Option<String>,
    /// Where the embedded broker listens.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "ADDR")]
    broker_listen: SocketAddr,
    /// Where the embedded registry listens.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDR")]
    registry_listen: SocketAddr,
    /// Stream threads.
    #[arg(long, default_value_t = 1, value_name = "N")]
    threads: usize,
    /// Leaves an empty shop empty: no sample catalog.
    #[arg(long)]
    empty: bool,
    /// Replays this file of real orders instead of stocking a sample shop.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Opening stock for --replay: `unlimited`, or a fraction of what the orders will ask for.
    #[arg(long, default_value = "unlimited", value_name = "unlimited|FRACTION")]
    stock: Stock,
    /// Only the first N orders of --replay.
    #[arg(long, value_name = "N")]
    orders: Option<usize>,
    /// Orders a second for --replay.
    #[arg(long, default_value = "max", value_name = "N|max")]
    speed: Speed,
    /// After --replay, waits until every order has ended, audits, and exits: 0 only when every promise holds.
    #[arg(long)]
    audit: bool,
    /// The form of the audit.
    #[arg(short, long, default_value = "table", value_name = "FORM")]
    output: output::Form,
    #[command(flatten)]
    topology: TopologyFile,
}

/// Runs until interrupted, or until the audit is done.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    run::to_its_end(serve(args))
}

async fn serve(args: Args) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    std::fs::create_dir_all(&args.data_dir).with_context(|| format!("cannot make {}", args.data_dir.display()))?;
    let (embedded, connection) = broker_and_registry(&args).await?;
    let topology = args.topology.load(&Codec::offline())?;
    apply::apply(&connection, &topology, 1, apply::LEFT_WITHIN, apply::Say::Nothing).await?;
    let codec = millrace_schemas::registry::check(&connection.registry).await?;
    let topology = Arc::new(args.topology.load(&codec)?);
    apply::check(&connection, &topology).await?;
    pipeline::fetch_schemas(codec.clone(), connection.registry.clone());

    let sample = args.replay.is_none() && !args.empty;
    let filled = sample && warehouse::stock_sample_shop(&connection, &codec).await? == warehouse::Shelves::Filled;
    let provider = crate::psp::open(&args.data_dir.join("psp"), 0)?;
    let started = Pipeline::start(PipelineConfig {
        connection: connection.clone(),
        codec: codec.clone(),
        topology: topology.clone(),
        sub_topologies: topology.sub_topology_ids().collect(),
        instance: "dev".into(),
        threads: args.threads,
        state_dir: args.data_dir.join("state"),
        provider: provider.clone(),
        session_timeout_ms: 10_000,
        when_stopped: millrace_worker::WhenStopped::Stay,
    })?;
    let asks = started.asks();
    let pipeline = Arc::new(Mutex::new(Some(started)));
    let warehouse = warehouse::start(&connection, codec.clone())?;
    wait_until_running(&pipeline).await?;
    if filled {
        warehouse::wait_for_sample_stock(&connection, &codec).await?;
    }

    let drain = Drain::new();
    let owners = Owners::default();
    let app = crate::ingress::routes(
        &connection,
        &codec,
        topology.clone(),
        Some(asks.clone()),
        owners.clone(),
        drain.clone(),
    )?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let tracked = Tracked { topology: topology.clone(), asks: Some(asks.clone()), owners, client };
    let app = app.merge(pipeline::routes(&pipeline, Arc::new(tracked))?).merge(crate::psp::routes(provider.clone()));
    let listener = millrace_ingress::bind(args.http).await?;
    let url = format!("http://{}", listener.local_addr()?);
    pipeline::announce_owners(&connection.kafka, topology.clone(), asks, url.clone())?;

    let job = match &args.replay {
        None => {
            banner(&url, &connection, &args.data_dir, began);
            None
        }
        Some(file) => Some((file.clone(), args.stock, args.orders, args.speed)),
    };
    let outcome: Arc<Mutex<Option<anyhow::Result<ExitCode>>>> = Arc::default();
    let until = {
        let (pipeline, outcome, connection, codec) =
            (pipeline.clone(), outcome.clone(), connection.clone(), codec.clone());
        let (want_audit, form) = (args.audit, args.output);
        let audited = audit::Audited::of(&topology);
        let topology = topology.clone();
        async move {
            let work = async {
                if let Some((file, stock, orders, speed)) = job {
                    let replayed = replay_all(&connection, &codec, &topology, &file, stock, orders, speed).await?;
                    if want_audit {
                        let end = AtTheEnd { connection: &connection, codec: &codec, provider: &provider, audited };
                        return end.settle_and_report(form, began, replayed).await;
                    }
                }
                std::future::pending().await
            };
            let ended = tokio::select! {
                () = run::interrupted() => Ok(ExitCode::SUCCESS),
                error = run::watch(&pipeline) => Err(error),
                done = work => done,
            };
            *outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(ended);
        }
    };
    millrace_ingress::serve(listener, app, &Settings::default(), drain, until).await?;
    warehouse.stop();
    let stopped = run::stop(&pipeline).await;
    if let Some(broker) = embedded {
        broker.stop().await;
    }
    let ended = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let code = ended.unwrap_or(Ok(ExitCode::SUCCESS))?;
    stopped?;
    Ok(code)
}

/// The embedded broker and registry, or the ones that are there.
async fn broker_and_registry(args: &Args) -> anyhow::Result<(Option<BrokerHandle>, Connection)> {
    if let (Some(kafka), Some(registry)) = (&args.kafka, &args.registry) {
        return Ok((None, Connection { kafka: kafka.clone(), registry: registry.clone() }));
    }
    let dir = args.data_dir.join("broker");
    let broker = crate::broker::start(args.broker_listen_or_any(), args.registry_listen, dir).await?;
    let kafka = args.kafka.clone().unwrap_or_else(|| broker.kafka_addr().to_string());
    let registry = args.registry.clone().unwrap_or_else(|| broker.registry_url());
    Ok((Some(broker), Connection { kafka, registry }))
}

impl Args {
    /// With a Kafka that is there, the embedded broker only keeps the registry: it takes any port.
    fn broker_listen_or_any(&self) -> SocketAddr {
        if self.kafka.is_some() { SocketAddr::from(([127, 0, 0, 1], 0)) } else { self.broker_listen }
    }
}

async fn wait_until_running(pipeline: &Arc<Mutex<Option<Pipeline>>>) -> anyhow::Result<()> {
    loop {
        {
            let guard = pipeline.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let running = guard.as_ref().context("the pipeline has stopped")?;
            if let Some(error) = running.failure() {
                return Err(error.into());
            }
            if running.runs_everything() {
                running.health.set_ready(true);
                return Ok(());
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn replay_all(
    connection: &Connection,
    codec: &Codec,
    topology: &Arc<Topology>,
    file: &Path,
    stock: Stock,
    orders: Option<usize>,
    speed: Speed,
) -> anyhow::Result<replay::Replayed> {
    let (connection, codec, topology) = (connection.clone(), codec.clone(), topology.clone());
    let file = file.to_owned();
    tokio::task::spawn_blocking(move || {
        let shop = replay::Running { connection: &connection, codec: &codec, topology: &topology };
        replay::publish(shop, &file, stock, orders, speed)
    })
    .await?
}

/// What the audit at the end reads.
struct AtTheEnd<'a> {
    connection: &'a Connection,
    codec: &'a Codec,
    provider: &'a Arc<millrace_psp::SimulatedProvider>,
    audited: audit::Audited,
}

impl AtTheEnd<'_> {
    /// Reads along until every order has ended, then reports.
    async fn settle_and_report(
        &self,
        form: output::Form,
        began: Instant,
        replayed: replay::Replayed,
    ) -> anyhow::Result<ExitCode> {
        let (kafka, codec, provider) = (self.connection.kafka.clone(), self.codec.clone(), self.provider.clone());
        let (expected, audited) = (replayed.orders, self.audited.clone());
        let report = tokio::task::spawn_blocking(move || {
            audit::until_settled(&kafka, &codec, &audited, expected, || {
                Ok(provider.ledger().collect::<Result<_, _>>()?)
            })
        });
        let report = report.await??;
        let seconds = began.elapsed().as_secs_f64();
        audit::print(&report, form)?;
        let working = replayed.began.elapsed().as_secs_f64();
        eprintln!(
            "{} orders from first publish to audited end in {working:.1} s ({:.0} orders/s); whole run {seconds:.1} s, peak memory {} MiB",
            replayed.orders,
            replayed.orders as f64 / working,
            peak_memory_mib().map_or_else(|| "?".to_owned(), |mib| mib.to_string()),
        );
        Ok(if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(crate::DOES_NOT_HOLD) })
    }
}

/// The largest resident memory this process has had.
fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

fn banner(url: &str, connection: &Connection, data_dir: &Path, began: Instant) {
    eprintln!(
        "
Millrace is ready after {:.1} s.

  HTTP      {url}      (loopback only, until signing in exists)
  Kafka     {}
  Registry  {}
  Metrics   {url}/metrics
  Data      {}      (the next start goes on from it)

Place an order:
  curl -s {url}/v1/orders -H 'Idempotency-Key: my-first-order' -H 'Content-Type: application/json' \\
    -d '{{\"customer_id\":\"ann\",\"currency\":\"GBP\",\"lines\":[{{\"sku\":\"85123A\",\"quantity\":2}}],\"payment_method\":\"tok_visa\"}}'

Follow it (with the id from the answer):
  curl -s '{url}/v1/orders/ID?wait=5&until=confirmed'

Stop with Ctrl-C.
",
        began.elapsed().as_secs_f64(),
        connection.kafka,
        connection.registry,
        data_dir.display(),
    );
}
