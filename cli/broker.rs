//! `broker`: the embedded broker and registry alone, until it is told to stop.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use millrace_broker::core::{Durability, Settings};
use millrace_broker::{Broker, BrokerConfig, BrokerHandle};

/// Arguments of `millrace broker`.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    /// Where Kafka clients connect.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "ADDR")]
    listen: SocketAddr,
    /// Where the schema registry answers, and /metrics, /livez and /readyz.
    #[arg(long, default_value = "127.0.0.1:8081", value_name = "ADDR")]
    registry_listen: SocketAddr,
    /// Where records are kept.
    #[arg(long, default_value = "millrace-data/broker", value_name = "DIR")]
    data_dir: PathBuf,
    /// What acknowledged records survive: process, the broker's own death; power, a power cut as well (each answer waits
    /// until the disk has it).
    #[arg(long, default_value = "process", value_name = "LEVEL")]
    durability: Level,
    /// Host that clients are told to connect to; the address of --listen unless given.
    #[arg(long, value_name = "HOST")]
    advertised_host: Option<String>,
    /// Listen on addresses that others than this machine can reach. The broker asks nobody who they are: whoever
    /// reaches it may read, write and delete everything. It warns at every start.
    #[arg(long)]
    reachable_from_the_network: bool,
    #[command(subcommand)]
    command: Option<BrokerCommand>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Level {
    Process,
    Power,
}

#[derive(clap::Subcommand)]
enum BrokerCommand {
    /// Shows what a data folder holds, without a broker and without changing it.
    Inspect(crate::inspect::Args),
}

/// Serves until interrupted.
pub(crate) fn run(args: Args) -> anyhow::Result<ExitCode> {
    if let Some(BrokerCommand::Inspect(inspect)) = &args.command {
        return crate::inspect::run(inspect);
    }
    let durability = match args.durability {
        Level::Process => Durability::Process,
        Level::Power => Durability::Power,
    };
    crate::run::to_its_end(async {
        let broker = Broker::start(BrokerConfig {
            listen: args.listen,
            registry_listen: args.registry_listen,
            data_dir: args.data_dir,
            advertised_host: args.advertised_host,
            reachable_from_the_network: args.reachable_from_the_network,
            settings: Settings { durability, ..Settings::DEFAULT },
            ..BrokerConfig::default()
        })
        .await?;
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
