//! The engine's doors to the world: Kafka client, disk, clock, calls, metrics. Owns every library that talks to the
//! outside; never decides what a record means or when a transaction is worth committing.
//!
//! Reading order: [`kafka_broker`] (the door the engine uses most), [`state_directory`], [`calls`], [`clock`]; then
//! [`stream_threads`], which drives the engine, [`waker`], which ends its waits, `watchdog`, which notices when it hangs, and
//! what people and orchestrators look at: [`metrics`], [`http`].

pub mod calls;
pub mod clock;
pub mod config;
pub mod grouping;
pub mod http;
pub mod kafka_broker;
pub mod metrics;
pub mod placement;
pub mod producer;
pub mod reader;
pub mod standbys;
pub mod state_directory;
pub mod stream_threads;
pub mod topics;
pub mod transaction;
pub mod waker;
mod watchdog;

pub use calls::{CallPool, Handler};
pub use clock::SystemClock;
pub use config::{ConfigError, KafkaConfig, WhenStopped};
pub use http::{Health, health_routes};
pub use kafka_broker::{ClientCounters, KafkaBroker, OutsideReader};
pub use metrics::Metrics;
pub use producer::{BulkProducer, ProduceError, RecordProducer};
pub use reader::{From, PlacedRecord, ReadError, TopicReader};
pub use standbys::{StandbyConfig, Standbys};
pub use state_directory::{LockedDirectory, StateDirectory, StateSettings};
pub use stream_threads::{Asks, Listener, Said, StreamThreads, start};
pub use transaction::{Transaction, TransactionError};
pub use waker::Waker;
