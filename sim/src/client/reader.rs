//! A standby thread's door to the simulated broker: the model of `worker/src/kafka_broker/outside.rs`. It is in no group and
//! writes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_runtime::{Bounds, BrokerError, Event, Offset, Reader, SubTopologyId, TopicPartition};

use super::{Line, read_followed};

/// See the module.
pub(crate) struct SimReader<'y> {
    line: Line<'y>,
    followed: BTreeMap<TopicPartition, Offset>,
}

impl<'y> SimReader<'y> {
    pub(crate) fn new(line: Line<'y>) -> Self {
        Self { line, followed: BTreeMap::new() }
    }
}

impl Reader for SimReader<'_> {
    fn poll(&mut self, wait: Duration, max_records: usize, events: &mut Vec<Event>) -> Result<(), BrokerError> {
        let until = self.line.now() + u64::try_from(wait.as_micros()).unwrap_or(0);
        let pause = self.line.world.borrow_mut().rng.u64(5..150);
        self.line.sleep(pause);
        loop {
            if max_records > 0 {
                read_followed(&mut self.followed, &self.line.world.borrow(), events);
            }
            if !events.is_empty() || self.line.now() >= until || self.line.has_news() {
                return Ok(());
            }
            self.line.idle(until);
        }
    }

    fn committed(
        &mut self,
        sub_topology: SubTopologyId,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Option<Offset>>, BrokerError> {
        self.line.committed(sub_topology, partitions)
    }

    fn bounds(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Bounds>, BrokerError> {
        self.line.bounds(partitions)
    }

    fn follow(&mut self, partition: TopicPartition, from: Offset) -> Result<(), BrokerError> {
        self.followed.insert(partition, from);
        self.line.wait_for(self.followed.keys().copied());
        Ok(())
    }

    fn unfollow(&mut self, partition: TopicPartition) -> Result<(), BrokerError> {
        self.followed.remove(&partition);
        self.line.wait_for(self.followed.keys().copied());
        Ok(())
    }
}
