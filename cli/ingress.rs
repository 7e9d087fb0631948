//! `ingress`: the HTTP door alone, for orders whose processors run elsewhere.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use millrace_ingress::{Drain, Ingress, Settings};
use millrace_runtime::Topology;
use millrace_schemas::Codec;
use millrace_worker::{Asks, RecordProducer};

use crate::connection::{Connection, TopologyFile};
use crate::orders::{KafkaPublisher, Owners, Tracked};

/// Arguments of `millrace ingress`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    topology: TopologyFile,
    /// Where HTTP is served; loopback only.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDR")]
    http: SocketAddr,
}

/// Serves until interrupted, then drains.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::run::to_its_end(async {
        let codec = args.connection.codec().await?;
        let topology = Arc::new(args.topology.load(&codec)?);
        let owners = Owners::default();
        crate::pipeline::watch_owners(&args.connection.kafka, &topology, owners.clone());
        let drain = Drain::new();
        let app = routes(&args.connection, &codec, topology, None, owners, drain.clone())?;
        let health = crate::pipeline::health_routes_without_tasks();
        let listener = millrace_ingress::bind(args.http).await?;
        eprintln!("ingress   http://{}", listener.local_addr()?);
        eprintln!("          loopback only, until signing in exists");
        millrace_ingress::serve(listener, app.merge(health), &Settings::default(), drain, crate::run::interrupted())
            .await?;
        Ok(ExitCode::SUCCESS)
    })
}

/// The ingress over Kafka.
pub(crate) fn routes(
    connection: &Connection,
    codec: &Codec,
    topology: Arc<Topology>,
    asks: Option<Asks>,
    owners: Owners,
    drain: Drain,
) -> anyhow::Result<Router> {
    let settings = Settings::default();
    let producer =
        RecordProducer::connect(&connection.kafka, settings.publish_timeout).context("cannot make a producer")?;
    for topic in ["orders.placed", "orders.cancel-requested"] {
        producer.prepare(topic)?;
    }
    let client = reqwest::Client::builder().timeout(Duration::from_secs(5)).no_proxy().build()?;
    let tracked = Tracked { topology, asks, owners, client };
    let ingress = Ingress::new(codec.clone(), Arc::new(KafkaPublisher(producer)), Arc::new(tracked), settings, drain);
    Ok(millrace_ingress::app(ingress))
}
