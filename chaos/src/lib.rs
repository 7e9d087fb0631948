//! Faults for the tests of the whole program: a proxy between Kafka clients and their brokers that can hold, lose and
//! cut what passes. Used by tests and `make chaos` only; never a part of the program, and it knows nothing of its rooms.

pub mod proxy;

pub use proxy::{Proxy, Routes};
