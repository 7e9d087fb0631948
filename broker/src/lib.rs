//! An embedded single-node broker that speaks the Kafka protocol, with a schema registry.
//!
//! For development, tests and shops that fit one machine: no replicas, no authentication, loopback by default. It
//! survives the death of its process, not the loss of its disk.
//!
//! ```no_run
//! # async fn example() -> Result<(), millrace_broker::BrokerError> {
//! use millrace_broker::{Broker, BrokerConfig};
//!
//! let broker = Broker::start(BrokerConfig {
//!     data_dir: "data/broker".into(),
//!     ..BrokerConfig::default()
//! })
//! .await?;
//! println!("bootstrap.servers={} schemas at {}", broker.kafka_addr(), broker.registry_url());
//! broker.stop().await;
//! # Ok(())
//! # }
//! ```

pub mod core;
mod files;
pub mod inspect;
mod registry;
mod server;
mod wire;

pub use server::{Broker, BrokerConfig, BrokerError, BrokerHandle};
