//! The engine's doors to the world: Kafka client, disk, clock, calls, metrics.

pub mod calls;
pub mod clock;
pub mod config;
pub mod kafka_broker;
pub mod state_directory;
pub mod topics;

pub use calls::CallPool;
pub use clock::SystemClock;
pub use config::{ConfigError, KafkaConfig};
pub use kafka_broker::KafkaBroker;
pub use state_directory::{StateDirectory, StateSettings};
