//! A static member's place in its group: whether the group is whole when the member comes back to it, and how the place is
//! given up. Never answers a rebalance of the engine's.
//!
//! ## The hole a static member leaves
//!
//! In a cooperative rebalance a partition that moves is in nobody's assignment from the generation in which its owner
//! gives it up to the next one, which the owner starts by joining again. A static member that ends in between and comes
//! back is given the assignment it left with, without a rebalance (KIP-345): the partition it gave up stays unread until
//! somebody else makes the group rebalance, maybe for ever. No answer of the coordinator tells. So whoever joins as a
//! static member first looks whether the group still has it. If so, it looks again when it has joined, before it takes
//! its assignment: where a stable group leaves a partition to nobody, it leaves for good and joins as new, and that is a
//! rebalance on every broker. It owns nothing at that moment, so nothing is interrupted. Who is new to the group need not
//! look: its joining is a rebalance, in which partitions are in nobody's assignment for a moment as a matter of course.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use millrace_runtime::BrokerError;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};

use super::raw;

/// How long the question for the group's description may take.
const QUESTION: Duration = Duration::from_secs(5);
/// How long leaving may take; after that the session time-out does it.
const LEAVING: Duration = Duration::from_secs(6);

/// Whether the group still has a static member of this name, so that joining under it need not be a rebalance. True where
/// nobody can tell.
pub(super) fn comes_back<C: ConsumerContext>(consumer: &BaseConsumer<C>, group: &str, instance: &str) -> bool {
    match raw::describe(consumer, group, QUESTION) {
        Ok(described) => described.instances.iter().any(|name| name == instance),
        Err(error) => {
            tracing::debug!(group, %error, "whether the group has this member cannot be told");
            true
        }
    }
}

/// The partitions of a topic that the group, stable as it is, assigns to nobody. None while it is rebalancing: this member
/// takes part in that, and what comes of it is whole.
pub(super) fn unread<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    topic: &str,
    partitions: i32,
) -> Result<Vec<i32>, BrokerError> {
    let described = raw::describe(consumer, group, QUESTION)
        .map_err(|error| BrokerError::Retry(format!("the description of group {group}: {error}")))?;
    if !described.stable {
        return Ok(Vec::new());
    }
    let assigned = described.assigned.iter().filter(|(of, _)| of == topic).map(|(_, partition)| *partition);
    let assigned: BTreeSet<i32> = assigned.collect();
    Ok((0..partitions).filter(|partition| !assigned.contains(partition)).collect())
}

/// Gives a member's place up, also a static one's: it is out of the group when this ends, unless the coordinator does
/// not answer. The context must answer rebalances by itself meanwhile.
///
/// Closing does not do it: a static member sends no LeaveGroup then. On an unsubscription it does.
pub(super) fn leave<C: ConsumerContext>(consumer: &BaseConsumer<C>) {
    consumer.unsubscribe();
    let since = Instant::now();
    while raw::has_member_id(consumer) && since.elapsed() < LEAVING {
        let _ = consumer.poll(Duration::from_millis(5));
    }
}
