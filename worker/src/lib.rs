//! The engine's doors to the world: Kafka client, disk, clock, calls, metrics.

pub mod config;
pub mod kafka_broker;
pub mod topics;

pub use config::{ConfigError, KafkaConfig};
pub use kafka_broker::KafkaBroker;
