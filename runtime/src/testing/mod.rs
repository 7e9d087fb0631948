//! The doors in memory, for tests: a cluster of topics with transactions and groups, disks, a clock, a caller. And two
//! ways to use them: [`Solo`], one processor without an engine, and [`Driver`], whole topologies with the real one.
//! Never used in production.

mod cluster;
mod doors;
mod driver;
mod solo;

pub use cluster::{Before, Cluster, Fault, MemoryBroker, Stored};
pub use doors::{ManualClock, MemoryDisk, MemoryStorage, QueuedCaller};
pub use driver::{Driver, Handler, IDLE};
pub use solo::{Emitted, Solo};
