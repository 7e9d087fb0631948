//! Forgetting what nobody uses any more: transactional ids that are idle, and groups that have been empty for long, with
//! their offsets. What an open transaction reaches into stays.

use super::Core;
use super::journal::Entry;

impl Core {
    pub(super) fn expire(&mut self, now: i64) {
        for id in self.transactions.idle_since(now - self.settings.transactional_id_expiry) {
            if self.record(&Entry::TransactionalIdExpired { id: id.clone() }).is_err() {
                return; // tried again next time
            }
            tracing::debug!(transactional_id = id, "expired");
            self.transactions.forget(&id);
        }
        let before = now - self.settings.offsets_retention;
        let idle = self.groups.iter().filter(|(_, group)| group.is_idle_since(before));
        let idle: Vec<String> = idle.map(|(id, _)| id.clone()).filter(|id| !self.transactions.has_group(id)).collect();
        for group in idle {
            if self.record(&Entry::GroupDeleted { group: group.clone() }).is_err() {
                return;
            }
            tracing::info!(group, "expired with its offsets");
            self.groups.remove(&group);
        }
    }
}
