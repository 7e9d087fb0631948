//! `apply`: topics and schema subjects as the topology names them. Repeats safely; changes nothing that is there.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::anyhow;
use millrace_runtime::Topology;
use millrace_schemas::Codec;
use millrace_worker::KafkaConfig;
use millrace_worker::topics::{self, Difference, TopicSpec, TopicsError};

use crate::connection::{Connection, PATIENCE, TopologyFile};

/// Arguments of `millrace apply`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    topology: TopologyFile,
    /// Copies of each partition; 3 on a cluster.
    #[arg(long, default_value_t = 1, value_name = "N")]
    replication: i32,
}

/// Applies and says what was made.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let topology = args.topology.load(&Codec::offline())?;
    crate::run::runtime()?.block_on(apply(&args.connection, &topology, args.replication, Say::All))?;
    Ok(ExitCode::SUCCESS)
}

/// How much `apply` says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Say {
    All,
    Nothing,
}

/// Creates what is missing; an error names every mismatch.
pub(crate) async fn apply(
    connection: &Connection,
    topology: &Topology,
    replication: i32,
    say: Say,
) -> anyhow::Result<()> {
    let specs: Vec<TopicSpec> = topic_specs(topology, replication);
    let kafka = client(connection);
    let report = tokio::task::spawn_blocking(move || topics::ensure(&kafka, &specs)).await??;
    refuse(&report.differences)?;
    let subjects = millrace_schemas::registry::apply(&connection.registry).await?;
    if say == Say::All {
        let there = topology.topics.len() - report.created.len();
        eprintln!("topics    {} made, {there} were there", report.created.len());
        eprintln!("{subjects}");
    }
    Ok(())
}

/// Refuses to start against topics that are not as the topology says.
pub(crate) async fn check(connection: &Connection, topology: &Topology) -> anyhow::Result<()> {
    let (kafka, specs) = (client(connection), topic_specs(topology, 1));
    let since = Instant::now();
    let differences = tokio::task::spawn_blocking(move || {
        loop {
            match topics::compare(&kafka, &specs) {
                Err(error @ TopicsError::Cluster { .. }) if since.elapsed() < PATIENCE => {
                    tracing::warn!(%error, "waiting for the broker");
                }
                other => return other,
            }
        }
    });
    refuse(&differences.await??)
}

fn client(connection: &Connection) -> KafkaConfig {
    KafkaConfig::new(&connection.kafka, "apply", 0)
}

fn refuse(differences: &[Difference]) -> anyhow::Result<()> {
    if differences.is_empty() {
        return Ok(());
    }
    let advice = |difference: &Difference| match difference {
        Difference::Missing { .. } => "run `millrace apply`".to_owned(),
        Difference::Partitions { topic, found, .. } => {
            format!(
                "set partitions = {found} under [topics.\"{topic}\"], or make the topic anew: its keys cannot be moved"
            )
        }
        Difference::Config { topic, config, wanted, .. } => {
            format!(
                "change it in the topology, or: kafka-configs.sh --alter --topic {topic} --add-config {config}={wanted}"
            )
        }
    };
    let lines: Vec<String> = differences.iter().map(|d| format!("  {d}; {}", advice(d))).collect();
    Err(anyhow!("the broker's topics are not as the topology says:\n{}", lines.join("\n")))
}

/// The topics as the worker creates and checks them.
pub(crate) fn topic_specs(topology: &Topology, replication: i32) -> Vec<TopicSpec> {
    topology
        .topics
        .iter()
        .map(|topic| {
            let mut configs = BTreeMap::from([("cleanup.policy".to_owned(), topic.cleanup.as_str().to_owned())]);
            if let Some(retention) = topic.retention_ms {
                configs.insert("retention.ms".to_owned(), retention.to_string());
            }
            if replication > 1 {
                configs.insert("min.insync.replicas".to_owned(), topic.min_in_sync_replicas.to_string());
            }
            TopicSpec { name: topic.name.to_string(), partitions: topic.partitions, replication, configs }
        })
        .collect()
}
