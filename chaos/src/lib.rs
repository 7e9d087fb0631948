//! Faults for the tests of the whole program: a proxy between Kafka clients and their brokers that can hold, lose and
//! cut what passes, and plans of faults drawn from a seed. Used by tests and `make chaos` only; never a part of the
//! program, and it knows nothing of its rooms. The campaigns themselves are in `tests/campaign/`.

pub mod plan;
pub mod proxy;

pub use plan::{Draw, Kind, Plan};
pub use proxy::{Proxy, Routes};
