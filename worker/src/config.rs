//! What a stream thread's Kafka client is told: where the cluster is, who this thread is, and the numbers an operator
//! may turn. Owns the rule that what keeps records safe is set by the program and cannot be turned off.

use std::collections::BTreeMap;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;

/// The cluster, this thread's name in it, and its numbers.
#[derive(Clone, Debug)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated.
    pub bootstrap: String,
    /// Name of this process among those of the application; the same after a restart. Two living processes of one name
    /// fence each other.
    pub instance: String,
    /// Number of this stream thread in its process.
    pub thread: u16,
    /// How long the group waits for a sign of life of this member, and this member for any answer, milliseconds.
    pub session_timeout_ms: u32,
    /// How long a turn of the engine may take before the member counts as stuck, milliseconds.
    pub max_poll_interval_ms: u32,
    /// A restart within the session time-out keeps the partitions; a crash for good is noticed only after it.
    pub static_membership: bool,
    /// What becomes of the place in the groups when this thread is stopped in good order.
    pub when_stopped: WhenStopped,
    /// How long the producer waits for a batch to fill, milliseconds, 0 to 100. Who ends a transaction does not wait for it:
    /// it only says how many requests a large one is made of.
    pub linger_ms: u32,
    /// Largest batch, bytes.
    pub batch_bytes: u32,
    /// `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// After this long the coordinator aborts an open transaction, milliseconds. Until then it holds up every reader, and
    /// whoever takes over from a process that died: nothing is won when it is longer than the session.
    pub transaction_timeout_ms: u32,
    /// Records fetched ahead, per consumer, KiB.
    pub queued_kbytes: u32,
    /// Further properties of librdkafka (TLS, SASL, sockets). Those in [`PROTECTED`] are refused.
    pub properties: BTreeMap<String, String>,
}

/// What becomes of a static member's place in its groups when it stops in good order. Any other member's is given up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenStopped {
    /// It is kept for the session time-out: who starts again within it has its partitions back, without a rebalance.
    #[default]
    Stay,
    /// It is given up: others have the partitions at once.
    Leave,
}

/// Longest pause between two signs of life, milliseconds: a member hears of a rebalance in the answer to one.
const HEARTBEAT_MS_MAX: u32 = 2_500;

/// Properties that keep records safe or that the engine relies on: set here, never by an operator.
pub const PROTECTED: &[&str] = &[
    "acks",
    "allow.auto.create.topics",
    "auto.offset.reset",
    "check.crcs",
    "debug",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.send.max.retries",
    "message.timeout.ms",
    "delivery.timeout.ms",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "retries",
    "statistics.interval.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

/// A configuration that would not be safe, or not work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// See [`PROTECTED`].
    #[error("the Kafka property {0} is set by Millrace and cannot be changed: it keeps records safe")]
    Protected(String),
    /// A number outside its range.
    #[error("{name} is {value}, must be {range}")]
    OutOfRange {
        /// Which.
        name: &'static str,
        /// Its value.
        value: u64,
        /// What is allowed.
        range: &'static str,
    },
    /// Something that must not be empty.
    #[error("{0} must not be empty")]
    Empty(&'static str),
}

impl KafkaConfig {
    /// Safe defaults for a cluster and a thread.
    #[must_use]
    pub fn new(bootstrap: impl Into<String>, instance: impl Into<String>, thread: u16) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            instance: instance.into(),
            thread,
            session_timeout_ms: 10_000,
            max_poll_interval_ms: 60_000,
            static_membership: true,
            when_stopped: WhenStopped::Stay,
            linger_ms: 50,
            batch_bytes: 1 << 20,
            compression: "none".into(),
            transaction_timeout_ms: 10_000,
            queued_kbytes: 16 << 10,
            properties: BTreeMap::new(),
        }
    }

    /// Whether the client can be built safely from this.
    ///
    /// # Errors
    /// [`ConfigError`], naming the property.
    pub fn check(&self) -> Result<(), ConfigError> {
        if let Some(name) = self.properties.keys().find(|name| PROTECTED.contains(&name.as_str())) {
            return Err(ConfigError::Protected(name.clone()));
        }
        for (name, value) in [("bootstrap", &self.bootstrap), ("instance", &self.instance)] {
            if value.trim().is_empty() {
                return Err(ConfigError::Empty(name));
            }
        }
        let within = |name, value: u32, least: u32, most: u32, range| {
            if (least..=most).contains(&value) {
                Ok(())
            } else {
                Err(ConfigError::OutOfRange { name, value: value.into(), range })
            }
        };
        within("linger_ms", self.linger_ms, 0, 100, "0 to 100")?;
        within("session_timeout_ms", self.session_timeout_ms, 1_000, 60_000, "1000 to 60000")?;
        within("transaction_timeout_ms", self.transaction_timeout_ms, 1_000, 60_000, "1000 to 60000")?;
        within(
            "max_poll_interval_ms",
            self.max_poll_interval_ms,
            self.session_timeout_ms,
            600_000,
            "session_timeout_ms to 600000",
        )
    }

    /// What every client of this thread shares.
    fn base(&self, role: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            // Doubles up to the second figure. Half of the first is also how long a new client waits before the broker that
            // it was told of, and that is on the way of each start and restart.
            .set("reconnect.backoff.ms", "20")
            .set("reconnect.backoff.max.ms", "2000")
            // What got no answer in this time is asked again on another connection; the library would wait for a minute. The
            // producer refuses to wait longer than its transaction may take.
            .set("socket.timeout.ms", self.session_timeout_ms.min(self.transaction_timeout_ms).to_string())
            .set("log.connection.close", "true");
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set("client.id", format!("{}-{}-{role}", self.instance, self.thread))
            .set("allow.auto.create.topics", "false")
            .set("socket.nagle.disable", "true")
            .set("topic.metadata.refresh.fast.interval.ms", "50")
            .set_log_level(RDKafkaLogLevel::Info);
        config
    }

    fn reader(&self, role: &str) -> ClientConfig {
        let mut config = self.base(role);
        config
            .set("isolation.level", "read_committed")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("check.crcs", "true")
            .set("enable.partition.eof", "false")
            .set("queued.max.messages.kbytes", self.queued_kbytes.to_string())
            .set("queued.min.messages", "20000")
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.error.backoff.ms", "50")
            .set("fetch.min.bytes", "1")
            .set("fetch.wait.max.ms", "100")
            .set("session.timeout.ms", self.session_timeout_ms.to_string())
            .set("heartbeat.interval.ms", (self.session_timeout_ms / 4).min(HEARTBEAT_MS_MAX).to_string())
            .set("max.poll.interval.ms", self.max_poll_interval_ms.to_string());
        config
    }

    /// The consumer of one group.
    pub(crate) fn group_member(&self, group: &str, sub_topology: &str) -> ClientConfig {
        let mut config = self.reader(sub_topology);
        config
            .set("group.id", group)
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("statistics.interval.ms", "5000");
        if let Some(name) = self.static_member(sub_topology) {
            config.set("group.instance.id", name);
        }
        config
    }

    /// The name of this thread in the group of a sub-topology, where it is a static member.
    pub(crate) fn static_member(&self, sub_topology: &str) -> Option<String> {
        self.static_membership.then(|| format!("{}-{}-{sub_topology}", self.instance, self.thread))
    }

    /// The reader of followed partitions. It needs a group's name to be allowed to assign; it never joins.
    pub(crate) fn follower(&self, application: &str) -> ClientConfig {
        let mut config = self.reader("follower");
        config
            .set("group.id", format!("{application}.follower"))
            .set("enable.partition.eof", "true")
            .set("fetch.wait.max.ms", "50")
            .set_log_level(RDKafkaLogLevel::Critical);
        config
    }

    /// The reader that asks where partitions begin and end.
    pub(crate) fn bounds(&self) -> ClientConfig {
        let mut config = self.base("bounds");
        config.set("isolation.level", "read_uncommitted");
        config
    }

    /// The admin client.
    pub(crate) fn admin(&self) -> ClientConfig {
        self.base("admin")
    }

    /// The transactional producer.
    pub(crate) fn producer(&self, application: &str) -> ClientConfig {
        let mut config = self.base("producer");
        config
            .set("transactional.id", format!("{application}-{}-{}", self.instance, self.thread))
            .set("transaction.timeout.ms", self.transaction_timeout_ms.to_string())
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("retry.backoff.ms", "1")
            .set("linger.ms", self.linger_ms.to_string())
            .set("batch.size", self.batch_bytes.to_string())
            .set("batch.num.messages", "100000")
            .set("queue.buffering.max.messages", "500000")
            .set("queue.buffering.max.kbytes", "262144")
            .set("compression.type", &self.compression)
            // A lost connection is told in the log, but of the same trouble only once in thirty seconds, except for this.
            .set("debug", "broker")
            .set_log_level(RDKafkaLogLevel::Debug);
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn safety_cannot_be_turned_off() {
        let mut config = KafkaConfig::new("127.0.0.1:9092", "a", 0);
        assert_eq!(config.check(), Ok(()));
        config.properties.insert("acks".into(), "1".into());
        assert_eq!(config.check(), Err(ConfigError::Protected("acks".into())));
    }

    #[test]
    fn other_properties_pass_through() {
        let mut config = KafkaConfig::new("127.0.0.1:9092", "a", 0);
        config.properties.insert("socket.keepalive.enable".into(), "true".into());
        config.check().unwrap();
        assert_eq!(config.producer("app").get("socket.keepalive.enable"), Some("true"));
        assert_eq!(config.producer("app").get("transactional.id"), Some("app-a-0"));
    }

    #[test]
    fn numbers_are_bounded() {
        let mut config = KafkaConfig::new("127.0.0.1:9092", "a", 0);
        config.linger_ms = 101;
        assert!(matches!(config.check(), Err(ConfigError::OutOfRange { name: "linger_ms", .. })));
    }
}
