//! `broker`: the embedded broker and registry alone, until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use millrace_broker::{Broker, BrokerConfig, BrokerHandle};

/// Arguments of `millrace broker`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where Kafka clients connect.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "ADDR")]
    listen: SocketAddr,
    /// Where the schema registry answers.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDR")]
    registry_listen: SocketAddr,
    /// Where records are kept.
    #[arg(long, default_value = "millrace-data/broker", value_name = "DIR")]
    data_dir: PathBuf,
}

/// Serves until interrupted.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    crate::run::to_its_end(async {
        let broker = start(args.listen, args.registry_listen, args.data_dir).await?;
        eprintln!("broker    {}\nregistry  {}\nstop with Ctrl-C", broker.kafka_addr(), broker.registry_url());
        crate::run::interrupted().await;
        broker.stop().await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Starts an embedded broker.
pub(crate) async fn start(
    listen: SocketAddr,
    registry_listen: SocketAddr,
    data_dir: PathBuf,
) -> anyhow::Result<BrokerHandle> {
    Ok(Broker::start(BrokerConfig { listen, registry_listen, data_dir, ..BrokerConfig::default() }).await?)
}
