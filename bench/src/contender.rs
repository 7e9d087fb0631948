//! Who is measured: Millrace, the peer in its settings, the relay. Owns how each is configured and started; what is set
//! here is all that is set, and it is stored with every result.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{bail, ensure};
use serde::{Deserialize, Serialize};

use crate::ground::{Ground, free_port};
use crate::process::Process;

/// The program itself.
pub(crate) const MILLRACE: &str = "millrace";
/// Millrace on its embedded broker.
const EMBEDDED: &str = "millrace-embedded";
/// A client that moves the same records in the same transactions and decides nothing.
pub(crate) const RELAY: &str = "relay";
/// The same without transactions: what broker and client library do at best.
const RAW: &str = "raw";
const STREAMS: &str = "kafka-streams";
/// The session time-out of a consumer where nothing else is set.
const CONSUMER_SESSION_MS: u64 = 45_000;

/// A contender with its settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Contender {
    pub(crate) name: String,
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
enum Kind {
    Millrace(Own),
    KafkaStreams(Streams),
    Relay {
        orders_per_transaction: u32,
        #[serde(default)]
        without_transactions: bool,
    },
}

/// What Millrace is run with instead of what this repository has: for comparing it with itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Own {
    /// Another build of the program.
    program: Option<String>,
    /// Other values in `[engine]` of the topology.
    engine: Vec<(String, String)>,
    /// On the embedded broker instead of Apache Kafka.
    #[serde(default)]
    embedded: bool,
}

/// Settings of a Kafka Streams application.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Streams {
    properties: Vec<(String, String)>,
    jvm: Vec<String>,
    fused: bool,
}

/// A contender that runs.
pub(crate) struct Running {
    pub(crate) process: Process,
    /// Where its provider's ledger can be read; none where it has no provider.
    pub(crate) psp: Option<String>,
}

impl Contender {
    /// By name. Kafka Streams may be followed by `-fused` (processors of one key joined in memory), then one of `-tuned`
    /// (for throughput), `-latency`, `-at-least-once`, then `-session6` (six seconds of session time-out). Millrace may be
    /// followed by `:program=<path>` or `:<setting of the engine>=<value>`, several of them, comma-separated.
    pub(crate) fn named(name: &str) -> anyhow::Result<Self> {
        let kind = match name {
            MILLRACE => Kind::Millrace(Own::default()),
            EMBEDDED => Kind::Millrace(Own { embedded: true, ..Own::default() }),
            RELAY => Kind::Relay { orders_per_transaction: 2_000, without_transactions: false },
            RAW => Kind::Relay { orders_per_transaction: 2_000, without_transactions: true },
            _ if name.starts_with("millrace:") => Kind::Millrace(Own::with(&name["millrace:".len()..])?),
            _ => match name.strip_prefix(STREAMS) {
                Some(settings) => Kind::KafkaStreams(Streams::with(settings)?),
                None => {
                    bail!(
                        "there is no contender {name}; there are millrace, millrace-embedded, relay, raw, kafka-streams and their settings"
                    )
                }
            },
        };
        Ok(Self { name: name.to_owned(), kind })
    }

    /// The same with a commit interval of its own.
    pub(crate) fn with_commit_interval(mut self, millis: u64) -> Self {
        match &mut self.kind {
            Kind::KafkaStreams(streams) => streams.set("commit.interval.ms", &millis.to_string()),
            Kind::Millrace(_) | Kind::Relay { .. } => {} // in the topology
        }
        self
    }

    /// How long a p99 may be for a rate to count as sustained, in milliseconds. A peer that is tuned to commit rarely is
    /// late by design; it is given the room.
    pub(crate) fn p99_bound(&self) -> f64 {
        if self.is_tuned_for_throughput() { 20_000.0 } else { 2_000.0 }
    }

    /// Whether it is tuned to commit rarely.
    pub(crate) fn is_tuned_for_throughput(&self) -> bool {
        self.name.contains("-tuned")
    }

    /// After how long without a sign of life a process of it is forgotten, by its own settings.
    pub(crate) fn session_timeout(&self) -> Duration {
        let millis = match &self.kind {
            Kind::KafkaStreams(streams) => streams.get("consumer.session.timeout.ms").and_then(|set| set.parse().ok()),
            Kind::Relay { .. } => None,
            Kind::Millrace(_) => Some(10_000),
        };
        Duration::from_millis(millis.unwrap_or(CONSUMER_SESSION_MS))
    }

    /// Whether it becomes fast only as it runs.
    pub(crate) fn is_java(&self) -> bool {
        matches!(self.kind, Kind::KafkaStreams(_))
    }

    /// Whether there are promises to audit.
    pub(crate) fn is_audited(&self) -> bool {
        !matches!(self.kind, Kind::Relay { .. })
    }

    /// Whether it stands on the embedded broker.
    pub(crate) fn is_on_embedded(&self) -> bool {
        matches!(&self.kind, Kind::Millrace(own) if own.embedded)
    }

    /// Starts it on the topics of this round, with its state in this round's directory: the same directory again when
    /// it is started again.
    pub(crate) fn start(&self, ground: &Ground, instance: &str, cpus: Option<&str>) -> anyhow::Result<Running> {
        let dir = ground.round_dir()?;
        let port = free_port()?;
        let (mut command, ready) = match &self.kind {
            Kind::Millrace(own) => {
                let program = own.program.as_ref().map_or(ground.millrace.as_path(), Path::new);
                let file = dir.join(format!("{instance}.toml"));
                std::fs::write(&file, own.topology(&std::fs::read_to_string(ground.topology_file()?)?)?)?;
                let mut command = on(cpus, program);
                command
                    .args(["run", "--all", "--instance", instance, "--psp", "simulated"])
                    .args(["--kafka", &ground.kafka, "--registry", &ground.registry])
                    .args(["--http", &format!("127.0.0.1:{port}"), "--data-dir"])
                    .arg(dir.join("state"))
                    .arg("--topology")
                    .arg(file);
                (command, "metrics and health at")
            }
            Kind::KafkaStreams(streams) => {
                let file = dir.join(format!("{instance}.properties"));
                std::fs::write(&file, streams.properties_file(ground, &dir, port, instance))?;
                (streams.command(ground, &file, cpus)?, "peer is RUNNING")
            }
            Kind::Relay { orders_per_transaction, without_transactions } => {
                let mut command = on(cpus, &std::env::current_exe()?);
                command
                    .args(["relay", "--kafka", &ground.kafka, "--registry", &ground.registry])
                    .args(["--run", &ground.round.to_string()])
                    .args(["--orders-per-transaction", &orders_per_transaction.to_string()])
                    .args(without_transactions.then_some("--without-transactions"));
                (command, "relay runs")
            }
        };
        command.env_remove("MILLRACE_TOPOLOGY");
        let mut process = Process::start(&dir, instance, command)?;
        process.until_it_says(ready)?;
        let psp = self.is_audited().then(|| format!("http://127.0.0.1:{port}/psp"));
        Ok(Running { process, psp })
    }
}

/// A command, on these CPUs where some are named.
fn on(cpus: Option<&str>, program: &Path) -> Command {
    match cpus {
        None => Command::new(program),
        Some(cpus) => {
            let mut command = Command::new("taskset");
            command.args(["-c", cpus]).arg(program);
            command
        }
    }
}

impl Own {
    fn with(settings: &str) -> anyhow::Result<Self> {
        let mut own = Self::default();
        for setting in settings.split(',') {
            match setting.split_once('=') {
                Some(("program", path)) => own.program = Some(path.to_owned()),
                Some((name, value)) => own.engine.push((name.to_owned(), value.to_owned())),
                None => bail!("{setting} is no setting of millrace; one is program=<path>, or commit_records=20000"),
            }
        }
        Ok(own)
    }

    /// The topology with these values in it; whether they are ones is for the program to say.
    fn topology(&self, text: &str) -> anyhow::Result<String> {
        let mut topology: toml::Table = text.parse()?;
        for (name, value) in &self.engine {
            let value = value.parse::<toml::Value>().unwrap_or_else(|_| value.clone().into());
            match topology.get_mut("engine").and_then(toml::Value::as_table_mut) {
                Some(engine) => _ = engine.insert(name.clone(), value),
                None => bail!("the topology has no engine"),
            }
        }
        Ok(topology.to_string())
    }
}

impl Streams {
    fn with(settings: &str) -> anyhow::Result<Self> {
        let mut streams = Self {
            properties: Vec::new(),
            jvm: ["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"].map(str::to_owned).into(),
            fused: false,
        };
        // Two threads are the best number on two cores, and the only thing a default is helped with.
        streams.set("num.stream.threads", "2");
        streams.set("processing.guarantee", "exactly_once_v2");
        streams.set("auto.offset.reset", "earliest");
        let mut rest = settings;
        while !rest.is_empty() {
            let mut take = |word: &str| rest.strip_prefix(word).map(|after| rest = after).is_some();
            if take("-fused") {
                streams.fused = true;
            } else if take("-tuned") {
                streams.set("commit.interval.ms", "2000");
                streams.set("statestore.cache.max.bytes", "268435456");
                streams.set("producer.batch.size", "262144");
                streams.jvm = ["-Xms2g", "-Xmx2g", "-XX:+UseParallelGC"].map(str::to_owned).into();
            } else if take("-latency") {
                streams.set("commit.interval.ms", "10");
                streams.set("producer.linger.ms", "0");
            } else if take("-at-least-once") {
                streams.set("processing.guarantee", "at_least_once");
            } else if take("-session6") {
                streams.set("consumer.session.timeout.ms", "6000");
            } else {
                bail!("{rest} is no setting of {STREAMS}: -fused, -tuned, -latency, -at-least-once, -session6");
            }
        }
        Ok(streams)
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.properties.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn set(&mut self, name: &str, value: &str) {
        self.properties.retain(|(known, _)| known != name);
        self.properties.push((name.to_owned(), value.to_owned()));
    }

    fn properties_file(&self, ground: &Ground, dir: &Path, port: u16, instance: &str) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: &str| text.push_str(&format!("{name}={value}\n"));
        line("application.id", &format!("peer-{}", ground.round));
        line("bootstrap.servers", &ground.kafka);
        line("state.dir", &dir.join(format!("state-{instance}")).to_string_lossy());
        line("peer.registry", &ground.registry);
        line("peer.ledger.port", &port.to_string());
        line("peer.ledger", &dir.join(format!("{instance}.ledger")).to_string_lossy());
        line("peer.fused", if self.fused { "true" } else { "false" });
        for (name, value) in &self.properties {
            line(name, value);
        }
        text
    }

    fn command(&self, ground: &Ground, properties: &Path, cpus: Option<&str>) -> anyhow::Result<Command> {
        let built = ground.repository.join("target/peers/kafka-streams");
        ensure!(
            built.join("classes/io/millrace/peer/App.class").is_file() && built.join("lib").is_dir(),
            "the peer is not built; run: make peers"
        );
        let java = std::env::var_os("JAVA_HOME").map_or("java".into(), |home| Path::new(&home).join("bin/java"));
        let mut command = on(cpus, &java);
        let class_path = format!("{}:{}/*", built.join("classes").display(), built.join("lib").display());
        command.args(&self.jvm).args(["-cp", &class_path, "io.millrace.peer.App"]).arg(properties);
        Ok(command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(name: &str) -> Vec<(String, String)> {
        let Kind::KafkaStreams(streams) = Contender::named(name).unwrap().kind else { panic!("{name}") };
        streams.properties
    }

    #[test]
    fn a_name_says_what_is_set() {
        let has = |name: &str, key: &str, value: &str| properties(name).contains(&(key.into(), value.into()));
        assert!(has("kafka-streams", "processing.guarantee", "exactly_once_v2"));
        assert!(has("kafka-streams-at-least-once", "processing.guarantee", "at_least_once"));
        assert!(has("kafka-streams-fused-latency-session6", "commit.interval.ms", "10"));
        assert!(has("kafka-streams-fused-latency-session6", "consumer.session.timeout.ms", "6000"));
        let swept = Contender::named("kafka-streams-tuned").unwrap().with_commit_interval(50);
        let Kind::KafkaStreams(streams) = swept.kind else { panic!() };
        assert!(streams.properties.contains(&("commit.interval.ms".into(), "50".into())), "the last word counts");
        assert_eq!(streams.properties.iter().filter(|(name, _)| name == "commit.interval.ms").count(), 1);
    }

    #[test]
    fn millrace_can_be_compared_with_itself() {
        let other = Contender::named("millrace:program=/tmp/other,commit_records=500,commit_latency=20ms").unwrap();
        let Kind::Millrace(own) = other.kind else { panic!() };
        assert_eq!(own.program.as_deref(), Some("/tmp/other"));
        let made: toml::Table = own.topology(include_str!("../../topology.toml")).unwrap().parse().unwrap();
        assert_eq!(made["engine"]["commit_records"].as_integer(), Some(500));
        assert_eq!(made["engine"]["commit_latency"].as_str(), Some("20ms"));
        assert!(Contender::named("millrace:faster").is_err());
    }

    #[test]
    fn an_unknown_name_is_refused_with_what_there_is() {
        for name in ["flink", "kafka-streams-fast", ""] {
            let error = Contender::named(name).unwrap_err().to_string();
            assert!(error.contains("kafka-streams"), "{error}");
        }
    }
}
