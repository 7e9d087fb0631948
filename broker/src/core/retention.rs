//! Deleting what has become too old or too much. Works on whole closed segments, and never on one that an open
//! transaction still reaches into.

use super::Core;
use super::configs::TopicSettings;
use super::log::PartitionLog;

impl PartitionLog {
    /// Drops the closed segments that `settings` no longer want. The newest segment is closed first if all of it is old.
    pub(super) fn retain(&mut self, settings: &TopicSettings, now: i64) {
        if !settings.delete || self.is_set_aside() {
            return;
        }
        if let Some(limit) = settings.retention_ms {
            let active = self.active();
            let all_old = active.length > 0 && active.max_timestamp < now - limit;
            if all_old && let Err(error) = self.roll() {
                tracing::warn!(dir = self.dir, %error, "segment not closed");
            }
        }
        let stable = self.last_stable();
        let mut size = self.size();
        let mut start = self.start;
        for pair in self.segments.windows(2) {
            let (segment, next) = (&pair[0], &pair[1]);
            let too_old = settings.retention_ms.is_some_and(|limit| segment.max_timestamp < now - limit);
            let too_much = settings.retention_bytes.is_some_and(|limit| size - segment.length >= limit);
            if !(too_old || too_much) || next.base > stable {
                break;
            }
            size -= segment.length;
            start = start.max(next.base);
        }
        if start > self.start {
            tracing::debug!(dir = self.dir, start, "retention");
            self.start = start;
        }
        self.drop_segments_below_start();
    }
}

impl Core {
    pub(super) fn enforce_retention(&mut self, now: i64) {
        let idle_since = now - self.settings.producer_expiry;
        for topic in self.topics.values_mut() {
            let settings = topic.settings;
            for partition in &mut topic.partitions {
                partition.log.retain(&settings, now);
                partition.log.producers.forget_idle(idle_since);
            }
        }
    }
}
