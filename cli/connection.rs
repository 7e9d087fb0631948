//! Where the broker and the registry are, and which topology applies: arguments that many commands share.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use millrace_runtime::{Grouping, Topology, check_definitions, parse};
use millrace_schemas::Codec;
use millrace_schemas::registry::{self, RegistryError};

/// The topology built into the program, for when no file is named and none lies in the working directory.
const BUILT_IN: &str = include_str!("../topology.toml");
const HERE: &str = "topology.toml";

/// Broker and registry.
#[derive(Args, Clone, Debug)]
pub(crate) struct Connection {
    /// Kafka bootstrap servers.
    #[arg(long, env = "MILLRACE_KAFKA", default_value = "127.0.0.1:9092", value_name = "ADDR")]
    pub(crate) kafka: String,
    /// Schema registry.
    #[arg(long, env = "MILLRACE_REGISTRY", default_value = "http://127.0.0.1:8081", value_name = "URL")]
    pub(crate) registry: String,
}

/// How long a process that has just started waits for its broker and registry.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
const BETWEEN: Duration = Duration::from_millis(500);

impl Connection {
    /// The codec, with the ids of all schemas; waits for a registry that is not up yet.
    pub(crate) async fn codec(&self) -> anyhow::Result<Codec> {
        let since = Instant::now();
        loop {
            match registry::check(&self.registry).await {
                Err(error @ RegistryError::Unreachable { .. }) if since.elapsed() < PATIENCE => {
                    tracing::warn!(%error, "waiting for the registry");
                    tokio::time::sleep(BETWEEN).await;
                }
                other => return Ok(other?),
            }
        }
    }
}

/// The topology.
#[derive(Args, Clone, Debug)]
pub(crate) struct TopologyFile {
    /// The topology; without it, topology.toml here, else the built-in one.
    #[arg(id = "topology", long, env = "MILLRACE_TOPOLOGY", value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Every processor a sub-topology of its own, so that each can be scaled alone. Applied first, then run.
    #[arg(long)]
    pub(crate) apart: bool,
}

impl TopologyFile {
    /// Name and text.
    pub(crate) fn text(&self) -> anyhow::Result<(String, String)> {
        let read = |path: &std::path::Path| {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok((path.display().to_string(), text))
        };
        match &self.file {
            Some(path) => read(path),
            None if std::path::Path::new(HERE).is_file() => read(HERE.as_ref()),
            None => Ok(("the built-in topology".to_owned(), BUILT_IN.to_owned())),
        }
    }

    /// The topology, checked against the processors of this program.
    pub(crate) fn load(&self, codec: &Codec) -> anyhow::Result<Topology> {
        let (name, text) = self.text()?;
        let faults = |faults: Vec<millrace_runtime::Fault>| {
            let lines: Vec<String> = faults.iter().map(|fault| format!("  {fault}")).collect();
            anyhow!("{name} has {} faults:\n{}", lines.len(), lines.join("\n"))
        };
        let mut topology = parse(&text).map_err(faults)?;
        check_definitions(&mut topology, &millrace_processors::definitions(codec)).map_err(faults)?;
        let grouping = if self.apart { Grouping::OnePerProcessor } else { Grouping::AsNamed };
        Ok(topology.regrouped(grouping))
    }
}
