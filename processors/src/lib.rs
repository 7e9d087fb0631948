//! The five decisions: intake, payment, stock, fulfillment, tracking.
//!
//! In the order an order takes them. Each is a pure function from what is known and what happened to what follows,
//! with a thin layer below it that reads, decides and emits. No I/O, no clock, no randomness: time and ids come in
//! with the record. Inputs come in no order among themselves and may repeat.

pub mod intake;
pub mod payment;
pub mod stock;

pub mod fulfillment;

pub mod tracking;

pub mod planted;
mod wire;

use millrace_runtime::ProcessorDefinition;
use millrace_schemas::Codec;

/// Every processor of the shop, in the order an order takes them. Their wiring and numbers stand in `topology.toml`.
#[must_use]
pub fn definitions(codec: &Codec) -> Vec<ProcessorDefinition> {
    vec![
        intake::definition(codec),
        payment::definition(codec),
        stock::definition(codec),
        fulfillment::definition(codec),
        tracking::definition(codec),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topology_names_the_same_processors_stores_tables_and_numbers() {
        let mut topology = millrace_runtime::parse(include_str!("../../topology.toml")).unwrap();
        millrace_runtime::check_definitions(&mut topology, &definitions(&Codec::offline())).unwrap();
    }
}
