//! An embedded single-node broker that speaks the Kafka protocol, with a schema registry.
