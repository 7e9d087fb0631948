//! The engine's doors to the world: Kafka client, disk, clock, calls, metrics.
