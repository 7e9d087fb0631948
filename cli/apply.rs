//! `apply`: topics, schema subjects and the grouping of the processors as the topology names them. Repeats safely; of
//! what is there it changes the grouping alone, and that carries every processor's positions over.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::anyhow;
use millrace_runtime::Topology;
use millrace_schemas::Codec;
use millrace_worker::KafkaConfig;
use millrace_worker::grouping::regroup::{self, Mode, Regrouped};
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
    /// Changes nothing: says what would be made, and whether the processors could be regrouped now.
    #[arg(long)]
    dry_run: bool,
    /// How long to wait for workers to leave the groups whose processors change.
    #[arg(long, default_value_t = LEFT_WITHIN.as_secs(), value_name = "SECONDS")]
    wait: u64,
}

/// A worker that was stopped counts as there until its session ends.
pub(crate) const LEFT_WITHIN: Duration = Duration::from_secs(15);

/// Applies and says what was made.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let topology = args.topology.load(&Codec::offline())?;
    let wait = Duration::from_secs(args.wait);
    let work = async {
        if args.dry_run {
            return dry_run(&args.connection, &topology, args.replication, wait).await;
        }
        apply(&args.connection, &topology, args.replication, wait, Say::All).await
    };
    crate::run::runtime()?.block_on(work)?;
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
    wait: Duration,
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
    let regrouped = group(connection, topology, wait, Mode::Apply).await?;
    if say == Say::All || matches!(regrouped, Regrouped::Changed(_)) {
        eprintln!("grouping  {}", told(topology, &regrouped));
    }
    Ok(())
}

/// Says what would be done.
async fn dry_run(connection: &Connection, topology: &Topology, replication: i32, wait: Duration) -> anyhow::Result<()> {
    let (kafka, specs) = (client(connection), topic_specs(topology, replication));
    let differences = tokio::task::spawn_blocking(move || topics::compare(&kafka, &specs)).await??;
    let (missing, others): (Vec<_>, Vec<_>) =
        differences.into_iter().partition(|difference| matches!(difference, Difference::Missing { .. }));
    refuse(&others)?;
    for difference in &missing {
        eprintln!("topics    {difference}: it would be made");
    }
    if missing.is_empty() {
        eprintln!("topics    all {} are there", topology.topics.len());
        let regrouped = group(connection, topology, wait, Mode::DryRun).await?;
        eprintln!("grouping  {}; nothing was changed", told(topology, &regrouped));
    }
    Ok(())
}

async fn group(connection: &Connection, topology: &Topology, wait: Duration, mode: Mode) -> anyhow::Result<Regrouped> {
    let (kafka, topology) = (client(connection), topology.clone());
    let regrouped = tokio::task::spawn_blocking(move || {
        regroup::regroup(&kafka, &topology, wait, mode, &mut |waits| eprintln!("grouping  {waits}"))
    });
    Ok(regrouped.await??)
}

fn told(topology: &Topology, regrouped: &Regrouped) -> String {
    let subs: Vec<&str> = topology.sub_topologies.iter().map(|sub| sub.name.as_str()).collect();
    let subs = subs.join(", ");
    match regrouped {
        Regrouped::Unchanged => format!("{subs}, as before"),
        Regrouped::First => subs,
        Regrouped::Changed(carried) => format!("{subs}; {} positions carried over", carried.len()),
    }
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
            if let Some(lag) = topic.compaction_lag_ms {
                configs.insert("min.compaction.lag.ms".to_owned(), lag.to_string());
            }
            if replication > 1 {
                // Two of three: what is acknowledged survives the loss of a node, and the loss of a node stops nothing.
                let in_sync = topic.min_in_sync_replicas.unwrap_or((replication - 1).clamp(1, 2));
                configs.insert("min.insync.replicas".to_owned(), in_sync.to_string());
            }
            TopicSpec { name: topic.name.to_string(), partitions: topic.partitions, replication, configs }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use millrace_schemas::Codec;

    use super::*;

    fn in_sync(text: &str, replication: i32) -> Vec<Option<String>> {
        let mut topology = millrace_runtime::parse(text).expect("a topology");
        let definitions = millrace_processors::definitions(&Codec::offline());
        millrace_runtime::check_definitions(&mut topology, &definitions).expect("it fits");
        let specs = topic_specs(&topology, replication);
        specs.into_iter().map(|mut spec| spec.configs.remove("min.insync.replicas")).collect()
    }

    #[test]
    fn two_of_three_replicas_must_have_a_record() {
        let text = include_str!("../topology.toml");
        for (replication, wanted) in [(1, None), (2, Some("1")), (3, Some("2")), (5, Some("2"))] {
            let found = in_sync(text, replication);
            assert!(found.len() > 10);
            assert!(found.iter().all(|value| value.as_deref() == wanted), "{replication}: {found:?}");
        }
        let named = text.replacen("partitions = ", "min-in-sync-replicas = 3\npartitions = ", 1);
        assert_eq!(in_sync(&named, 3).iter().filter(|value| value.as_deref() == Some("3")).count(), 1);
    }
}
