//! Which nodes lead the partitions of a topic, asked before it matters. Tells nobody: the client library keeps the answer.
//!
//! Why: for a topic it has not heard of, the library looks only once a second (its issue 3202), so that a partition stood
//! still for that long before its first record came; and that a partition has no leader it believes for as long as its metadata are
//! valid, minutes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use millrace_runtime::TopicId;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

/// How long a question about a topic may take before the engine gets its turn again.
pub(super) const QUESTION: Duration = Duration::from_secs(5);

/// Asks once for each of these topics, by its name. Who does not answer is no error: the library asks again by itself, if
/// later.
pub(super) fn ask<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    names: &[Arc<str>],
    topics: impl IntoIterator<Item = TopicId>,
) {
    let topics: BTreeSet<_> = topics.into_iter().collect();
    let known = |topic: TopicId| consumer.fetch_metadata(Some(&names[usize::from(topic.0)]), QUESTION);
    // A broker that does not answer one will not answer the others.
    let _ = topics.into_iter().try_for_each(|topic| known(topic).map(drop));
}
