//! Which nodes lead the partitions of a topic, asked before it matters. Tells nobody: the client library keeps the answer.
//!
//! Why: for a topic it has not heard of, the library looks only once a second (its issue 3202), so that a partition stood
//! still for that long before its first record came; and that a partition has no leader it believes for as long as its metadata are
//! valid, minutes.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

/// How long one question may take before the engine gets its turn again.
const QUESTION: Duration = Duration::from_secs(5);

/// Asks for these topics. Who does not answer is no error: the library asks again by itself, if later.
pub(super) fn ask<'n, C: ConsumerContext>(consumer: &BaseConsumer<C>, topics: impl IntoIterator<Item = &'n str>) {
    // A broker that does not answer one will not answer the others.
    let _ = topics.into_iter().try_for_each(|topic| consumer.fetch_metadata(Some(topic), QUESTION).map(drop));
}
