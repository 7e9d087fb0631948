//! The engine: runs processors on partitions, with state, transactions, timers and calls. No I/O, no clock, no
//! randomness, no threads of its own, and not a word about orders.
//!
//! Reading order: what a [`Processor`] is, what it may do in a [`Step`], how its [`Store`]s are layered, what a task is,
//! how the [`StreamThread`] commits one step of all its tasks, and the doors in [`io`] behind which the world is.

mod dead_letters;
mod global;
pub mod io;
mod open_states;
mod parking;
mod partitioner;
pub mod planted;
mod processor;
mod record;
mod standby;
mod step;
mod store;
mod stream_thread;
mod task;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod topology;

pub use dead_letters::{DeadLetter, DeadLetters, Fate, LetterId, in_order};
pub use global::GlobalTable;
pub use io::*;
pub use parking::{ParkedRecord, parked_records};
pub use partitioner::partition_of;
pub use processor::*;
pub use record::*;
pub use standby::{Reader, StandbyParts, StandbyReport, StandbyThread};
pub use step::Step;
pub use store::{Entry, Key, Store, Value};
pub use stream_thread::{About, Note, NoteLevel, Parts, Query, Report, StreamThread, ThreadError, Turn};
pub use task::TaskState;
pub use topology::*;
