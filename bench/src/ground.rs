//! What contenders stand on, the same for all: one broker (Apache Kafka, or the embedded one), one schema registry, fresh
//! topics for each block. Owns starting, clearing and counting them; never runs a contender.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use millrace_schemas::{AvroRecord, Codec};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use crate::node::ApacheKafka;
use crate::process::{Guard, Process};
use crate::workload::{Workload, shop};

const PATIENCE: Duration = Duration::from_secs(120);
const CALL: Duration = Duration::from_secs(30);

/// The broker's JVM, as an operator of one small machine would set it.
pub(crate) const BROKER_JVM: &[&str] = &["-Xms1g", "-Xmx1g", "-XX:+UseG1GC"];

/// The numbers of the topology that a scenario may turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Numbers {
    pub(crate) partitions: u32,
    /// `[engine] commit_latency`, as in the file; `None` leaves what the file says.
    pub(crate) commit_latency_ms: Option<u64>,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { partitions: 4, commit_latency_ms: None }
    }
}

/// Which broker it is.
enum Broker {
    Apache(ApacheKafka),
    /// Millrace's own, in a process with the registry.
    Embedded,
}

/// The brokers of a run: Apache Kafka, and the embedded one from when it is first asked for.
pub(crate) struct Grounds {
    apache: Ground,
    embedded: Option<Ground>,
}

impl Grounds {
    /// Starts Apache Kafka.
    pub(crate) fn start() -> anyhow::Result<Self> {
        Ok(Self { apache: Ground::start()?, embedded: None })
    }

    pub(crate) fn of(&mut self, embedded: bool) -> anyhow::Result<&mut Ground> {
        match &mut self.embedded {
            _ if !embedded => Ok(&mut self.apache),
            Some(ground) => Ok(ground),
            none => Ok(none.insert(Ground::start_embedded()?)),
        }
    }
}

/// See the module.
pub(crate) struct Ground {
    broker: Broker,
    /// The registry, with an embedded broker that only [`Broker::Embedded`] uses.
    registry_process: Process,
    /// The program that is measured, which also brings the registry, the topics and the audit.
    pub(crate) millrace: PathBuf,
    pub(crate) repository: PathBuf,
    pub(crate) kafka: String,
    pub(crate) registry: String,
    pub(crate) codec: Codec,
    pub(crate) runtime: tokio::runtime::Runtime,
    /// Dropped before the directory, which then goes in the usual way.
    _guard: Guard,
    dir: TempDir,
    /// How often the topics were made anew; names groups and directories.
    pub(crate) round: u16,
}

impl Ground {
    /// Starts an Apache Kafka and the registry.
    fn start() -> anyhow::Result<Self> {
        let apache = ApacheKafka::start_with(BROKER_JVM).map_err(|skipped| anyhow!(skipped.why))?;
        Self::on(Broker::Apache(apache))
    }

    /// Starts the embedded broker and the registry.
    fn start_embedded() -> anyhow::Result<Self> {
        Self::on(Broker::Embedded)
    }

    fn on(broker: Broker) -> anyhow::Result<Self> {
        let repository = repository()?;
        let millrace = millrace(&repository)?;
        let dir = tempfile::tempdir()?;
        let (embedded, listen) = (format!("127.0.0.1:{}", free_port()?), free_port()?);
        let mut command = Command::new(&millrace);
        command
            .args(["broker", "--listen", &embedded])
            .args(["--registry-listen", &format!("127.0.0.1:{listen}"), "--data-dir"])
            .arg(dir.path().join("registry"));
        let mut registry_process = Process::start(dir.path(), "registry", command)?;
        registry_process.until_it_says("registry  ")?;
        let mut ground = Self {
            kafka: match &broker {
                Broker::Apache(apache) => apache.bootstrap(),
                Broker::Embedded => embedded,
            },
            registry: format!("http://127.0.0.1:{listen}"),
            codec: Codec::offline(),
            runtime: tokio::runtime::Runtime::new()?,
            broker,
            registry_process,
            millrace,
            repository,
            _guard: Guard::over_directory(dir.path())?,
            dir,
            round: 0,
        };
        ground.apply(&Numbers::default())?;
        ground.make_coordinator_topic()?;
        ground.codec = ground.runtime.block_on(millrace_schemas::registry::check(&ground.registry))?;
        Ok(ground)
    }

    /// Kafka makes the topic that transactions are counted by when the first transactional producer turns up.
    fn make_coordinator_topic(&self) -> anyhow::Result<()> {
        let first: BaseProducer = self.client().set("transactional.id", "bench.first").create()?;
        first.init_transactions(PATIENCE)?;
        Ok(())
    }

    /// Process id of the broker.
    pub(crate) fn broker_pid(&self) -> u32 {
        match &self.broker {
            Broker::Apache(apache) => apache.pid().unwrap_or(0),
            Broker::Embedded => self.registry_process.pid(),
        }
    }

    /// A directory of this round.
    pub(crate) fn round_dir(&self) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join(format!("round-{}", self.round));
        std::fs::create_dir_all(&dir)?;
        Ok(dir)
    }

    /// The topology of this round.
    pub(crate) fn topology_file(&self) -> anyhow::Result<PathBuf> {
        Ok(self.round_dir()?.join("topology.toml"))
    }

    /// Deletes every topic and makes the shop's anew, with a catalog and stock to open with.
    pub(crate) fn fresh(&mut self, workload: &Workload, numbers: &Numbers) -> anyhow::Result<()> {
        self.registry_process.is_alive()?;
        let _ = std::fs::remove_dir_all(self.round_dir()?);
        self.round += 1;
        self.delete_topics()?;
        self.apply(numbers)?;
        let producer: ThreadedProducer<DefaultProducerContext> = self
            .client()
            .set("enable.idempotence", "true")
            .set("partitioner", "murmur2_random")
            .set("queue.buffering.max.messages", "1000000")
            .create()?;
        for (product, opening) in shop(workload, now_millis())? {
            self.produce(&producer, &product.sku, &product)?;
            self.produce(&producer, &opening.sku, &opening)?;
        }
        producer.flush(PATIENCE)?;
        Ok(())
    }

    fn produce<T: AvroRecord>(
        &self,
        producer: &ThreadedProducer<DefaultProducerContext>,
        key: &str,
        value: &T,
    ) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        self.codec.encode(T::TOPIC.topic, value, &mut bytes);
        producer.send(BaseRecord::to(T::TOPIC.topic).key(key).payload(&bytes)).map_err(|(error, _)| error)?;
        Ok(())
    }

    /// A client of the broker, with nothing else set.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.kafka);
        config
    }

    fn apply(&self, numbers: &Numbers) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(self.repository.join("topology.toml"))?;
        let file = self.topology_file()?;
        std::fs::write(&file, topology(&text, numbers, self.round)?)?;
        let mut command = Command::new(&self.millrace);
        command.args(["apply", "--kafka", &self.kafka, "--registry", &self.registry, "--topology"]).arg(&file);
        let mut apply = Process::start(&self.round_dir()?, "apply", command)?;
        if !apply.until_it_ends(PATIENCE)?.success() {
            bail!("millrace apply failed:\n{}", apply.tail());
        }
        Ok(())
    }

    fn delete_topics(&self) -> anyhow::Result<()> {
        let admin: AdminClient<DefaultClientContext> = self.client().create()?;
        let since = Instant::now();
        loop {
            let there: Vec<String> = self.topics()?.into_keys().collect();
            if there.is_empty() {
                return Ok(());
            }
            if since.elapsed() > PATIENCE {
                bail!("these topics do not go away: {}", there.join(", "));
            }
            let names: Vec<&str> = there.iter().map(String::as_str).collect();
            // One that is on its way out already is named in the answer, and is gone at a later look.
            let _ = self.runtime.block_on(admin.delete_topics(&names, &AdminOptions::new()));
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// The topics that are not Kafka's own, with their partition counts.
    fn topics(&self) -> anyhow::Result<BTreeMap<String, i32>> {
        let consumer: BaseConsumer = self.client().create()?;
        let metadata = consumer.fetch_metadata(None, CALL).context("the broker does not answer")?;
        let own = metadata.topics().iter().filter(|topic| !topic.name().starts_with("__"));
        Ok(own.map(|topic| (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(0))).collect())
    }

    /// The entries of every topic's log, markers of transactions included.
    pub(crate) fn log_entries(&self) -> anyhow::Result<u64> {
        let consumer: BaseConsumer = self.client().create()?;
        let mut sum = 0;
        for (topic, partitions) in self.topics()? {
            for partition in 0..partitions {
                let (_, high) = consumer.fetch_watermarks(&topic, partition, CALL)?;
                sum += u64::try_from(high).unwrap_or(0);
            }
        }
        Ok(sum)
    }

    /// Counts transactions from now on.
    pub(crate) fn transactions(&self) -> anyhow::Result<Transactions> {
        match self.broker {
            Broker::Apache(_) => Transactions::from_now(&self.client()),
            Broker::Embedded => Ok(Transactions::default()),
        }
    }
}

/// Transactions that have ended, as the coordinator's own topic tells them: the same for every client. The embedded broker
/// has no such topic: there they stay 0.
#[derive(Default)]
pub(crate) struct Transactions {
    consumer: Option<BaseConsumer>,
    pub(crate) committed: u64,
    pub(crate) aborted: u64,
}

const COORDINATOR_TOPIC: &str = "__transaction_state";
/// Where the status stands in a value: behind version, producer id, epoch and time-out.
const STATUS_AT: usize = 2 + 8 + 2 + 4;
const COMPLETE_COMMIT: u8 = 4;
const COMPLETE_ABORT: u8 = 5;

impl Transactions {
    fn from_now(client: &ClientConfig) -> anyhow::Result<Self> {
        let consumer: BaseConsumer =
            client.clone().set("group.id", "bench.transactions").set("enable.auto.commit", "false").create()?;
        let metadata = consumer.fetch_metadata(Some(COORDINATOR_TOPIC), CALL)?;
        let mut from = TopicPartitionList::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let (_, high) = consumer.fetch_watermarks(COORDINATOR_TOPIC, partition.id(), CALL).unwrap_or_default();
            from.add_partition_offset(COORDINATOR_TOPIC, partition.id(), Offset::Offset(high))?;
        }
        consumer.assign(&from)?;
        Ok(Self { consumer: Some(consumer), committed: 0, aborted: 0 })
    }

    /// Counts what has ended since.
    pub(crate) fn count(&mut self) {
        let Some(consumer) = &self.consumer else { return };
        let mut idle = Instant::now();
        while idle.elapsed() < Duration::from_millis(300) {
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(50)) else { continue };
            match message.payload().and_then(|value| value.get(STATUS_AT)) {
                Some(&COMPLETE_COMMIT) => self.committed += 1,
                Some(&COMPLETE_ABORT) => self.aborted += 1,
                _ => {}
            }
            idle = Instant::now();
        }
    }
}

/// `topology.toml` for one round: its numbers, and an application of its own, so that no group or transactional id of a
/// round before has a say.
fn topology(text: &str, numbers: &Numbers, round: u16) -> anyhow::Result<String> {
    let mut topology: toml::Table = text.parse().context("topology.toml cannot be read")?;
    topology.insert("application".into(), format!("millrace-{round}").into());
    let topics =
        topology.get_mut("topics").and_then(toml::Value::as_table_mut).context("topology.toml has no topics")?;
    for (_, topic) in topics.iter_mut() {
        if let Some(topic) = topic.as_table_mut() {
            topic.insert("partitions".into(), i64::from(numbers.partitions).into());
        }
    }
    if let Some(latency) = numbers.commit_latency_ms {
        let engine = topology.get_mut("engine").and_then(toml::Value::as_table_mut);
        let engine = engine.context("topology.toml has no engine")?;
        engine.insert("commit_latency".into(), format!("{latency}ms").into());
    }
    Ok(topology.to_string())
}

/// The folder with `topology.toml`: here, or above the program.
pub(crate) fn repository() -> anyhow::Result<PathBuf> {
    let is_it = |dir: &Path| dir.join("topology.toml").is_file() && dir.join("bench/Cargo.toml").is_file();
    let here = std::env::current_dir()?;
    let found = here.ancestors().find(|dir| is_it(dir)).map(Path::to_owned);
    found
        .or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned))
        .context("this is not Millrace's repository; run it there: cargo run -p bench --release -- --help")
}

/// The release build of the program: beside this one, or where MILLRACE_BINARY says.
fn millrace(repository: &Path) -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("MILLRACE_BINARY") {
        return Ok(named.into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| repository.join("target"), PathBuf::from);
    let binary = target.join("release/millrace");
    if !binary.is_file() {
        bail!("{} is missing; build it with: make build", binary.display());
    }
    Ok(binary)
}

/// A port of the loopback nobody listens on now.
pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Milliseconds since 1970.
pub(crate) fn now_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_has_its_own_application_and_numbers_and_keeps_the_rest() {
        let text = include_str!("../../topology.toml");
        let numbers = Numbers { partitions: 2, commit_latency_ms: Some(5) };
        let made: toml::Table = topology(text, &numbers, 3).unwrap().parse().unwrap();
        let before: toml::Table = text.parse().unwrap();
        assert_eq!(made["application"].as_str(), Some("millrace-3"));
        assert_eq!(made["engine"]["commit_latency"].as_str(), Some("5ms"));
        assert_eq!(made["topics"]["orders.placed"]["partitions"].as_integer(), Some(2));
        assert_eq!(made["processors"], before["processors"]);
        let kept: toml::Table = topology(text, &Numbers::default(), 3).unwrap().parse().unwrap();
        assert_eq!(kept["engine"], before["engine"]);
    }
}
