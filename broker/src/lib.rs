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
//!
//! A test of a transaction, with an answer lost on the way: the client repeats, and still there is one record.
//!
//! ```
//! use millrace_broker::{ApiKey, Broker, BrokerConfig, Fault};
//! use rdkafka::{ClientConfig, producer::{BaseProducer, BaseRecord, Producer}, util::Timeout};
//!
//! # fn create_topic(servers: &str) {
//! #     use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
//! #     let admin: AdminClient<_> = ClientConfig::new().set("bootstrap.servers", servers).create().unwrap();
//! #     let topic = NewTopic::new("orders", 1, TopicReplication::Fixed(1));
//! #     let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! #     runtime.block_on(admin.create_topics([&topic], &AdminOptions::new())).unwrap();
//! # }
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! let broker = runtime.block_on(Broker::start(BrokerConfig::temporary()))?;
//! let servers = broker.kafka_addr().to_string();
//! create_topic(&servers);
//! let producer: BaseProducer =
//!     ClientConfig::new().set("bootstrap.servers", &servers).set("transactional.id", "shop").create()?;
//! producer.init_transactions(Timeout::Never)?;
//! broker.inject(ApiKey::Produce, Fault::LoseAnswer)?;
//! producer.begin_transaction()?;
//! producer.send(BaseRecord::to("orders").key("o-1").payload("placed")).map_err(|(error, _)| error)?;
//! producer.commit_transaction(Timeout::Never)?;
//! let (_, end) = producer.client().fetch_watermarks("orders", 0, Timeout::Never)?;
//! assert_eq!(end, 2); // the record and the marker of the commit
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod core;
mod files;
#[doc(hidden)]
pub mod fuzzing;
pub mod inspect;
mod metrics;
pub mod planted;
mod registry;
mod server;
mod wire;

pub use server::{Broker, BrokerConfig, BrokerError, BrokerHandle};
pub use wire::{ApiKey, CannotFail, Fault};
