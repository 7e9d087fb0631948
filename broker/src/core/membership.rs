//! The group coordinator's requests: finds the group, lets it decide, keeps the journal in step.

use bytes::Bytes;

use super::groups::{Group, GroupState, Join, JoinRefused, MemberView};
use super::journal::{Entry, Offsets};
use super::{Core, ErrorCode, Reply, Token, TopicPartition};

/// In whose name offsets are committed; all empty for a client that is no member.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CommitAs {
    /// Generation, -1 for none.
    pub generation: i32,
    /// Member id.
    pub member: String,
    /// Static membership id.
    pub instance: Option<String>,
}

/// What is known of a committed offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FetchedOffset {
    /// The group has not committed any.
    None,
    /// The last one committed.
    Committed(super::journal::CommittedOffset),
    /// A transaction that is still open is about to change it.
    Unstable,
}

/// A group as told to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupView {
    /// State.
    pub state: GroupState,
    /// `consumer`, or empty.
    pub protocol_type: String,
    /// Assignor, or empty.
    pub protocol: String,
    /// Members.
    pub members: Vec<MemberView>,
}

impl Core {
    pub(super) fn group_mut(&mut self, id: &str) -> &mut Group {
        self.groups.entry(id.to_owned()).or_insert_with(|| Group::new(id))
    }

    /// A member wants to join; [`Core::take_replies`] brings the answer.
    pub fn join_group(&mut self, now: i64, token: Token, group: &str, join: Join) {
        let refuse = |code| {
            let member = join.member.clone();
            Reply::Join(Err(JoinRefused { code, member }))
        };
        if group.is_empty() {
            self.replies.push((token, refuse(ErrorCode::InvalidGroupId)));
            return;
        }
        let allowed = self.settings.min_session_timeout..=self.settings.max_session_timeout;
        if !allowed.contains(&join.session_timeout) {
            let reply = refuse(ErrorCode::InvalidSessionTimeout);
            self.replies.push((token, reply));
            return;
        }
        if !join.member.is_empty() && !self.groups.contains_key(group) {
            self.replies.push((token, refuse(ErrorCode::UnknownMemberId)));
            return;
        }
        self.next_member += 1;
        // Never given out twice: the start count is in the journal.
        let name = join.instance.as_deref().unwrap_or(&join.client);
        let fresh_id = format!("{name}-{}-{}", self.starts, self.next_member);
        let mut replies = std::mem::take(&mut self.replies);
        self.group_mut(group).join(now, token, join, fresh_id, &mut replies);
        self.replies = replies;
        self.settle(now, group);
    }

    /// A member asks for its assignment; [`Core::take_replies`] brings the answer.
    #[expect(clippy::too_many_arguments, reason = "the fields of a SyncGroup request")]
    pub fn sync_group(
        &mut self,
        now: i64,
        token: Token,
        group: &str,
        generation: i32,
        member: &str,
        instance: Option<&str>,
        assignments: Vec<(String, Bytes)>,
    ) {
        let mut replies = std::mem::take(&mut self.replies);
        match self.groups.get_mut(group) {
            Some(found) => found.sync(now, token, generation, member, instance, assignments, &mut replies),
            None => replies.push((token, Reply::Sync(Err(ErrorCode::UnknownMemberId)))),
        }
        self.replies = replies;
        self.settle(now, group);
    }

    /// A member says it is alive.
    ///
    /// # Errors
    /// See [`Group::heartbeat`].
    pub fn heartbeat(
        &mut self,
        now: i64,
        group: &str,
        generation: i32,
        member: &str,
        instance: Option<&str>,
    ) -> Result<(), ErrorCode> {
        self.groups.get_mut(group).ok_or(ErrorCode::UnknownMemberId)?.heartbeat(now, generation, member, instance)
    }

    /// A member leaves.
    ///
    /// # Errors
    /// See [`Group::leave`].
    pub fn leave_group(
        &mut self,
        now: i64,
        group: &str,
        member: &str,
        instance: Option<&str>,
    ) -> Result<(), ErrorCode> {
        let mut replies = std::mem::take(&mut self.replies);
        let result = match self.groups.get_mut(group) {
            Some(found) => found.leave(now, member, instance, &mut replies),
            None => Err(ErrorCode::UnknownMemberId),
        };
        self.replies = replies;
        self.settle(now, group);
        result
    }

    /// Lets the journal know of a changed group, then answers those who waited for that.
    fn settle(&mut self, now: i64, id: &str) {
        let Some(group) = self.groups.get(id) else {
            return;
        };
        let mut stored = None;
        if group.changed {
            let entry = group.entry();
            if self.remember(&Entry::Group(entry.clone())).is_err() {
                return; // tried again at the next tick
            }
            stored = Some(entry);
        }
        if let Some(group) = self.groups.get_mut(id) {
            if let Some(entry) = stored {
                group.set_stored(entry);
            }
            group.answer_syncs(now, &mut self.replies);
        }
    }

    /// Starts the sessions of all members anew. Call it when clients can reach the broker again after a restart.
    pub fn renew_sessions(&mut self, now: i64) {
        for group in self.groups.values_mut() {
            group.renew_sessions(now);
        }
    }

    pub(super) fn tick_groups(&mut self, now: i64) {
        let ids: Vec<String> = self.groups.keys().cloned().collect();
        for id in ids {
            if let Some(group) = self.groups.get_mut(&id) {
                group.tick(now, &mut self.replies);
            }
            self.settle(now, &id);
        }
    }

    pub(super) fn may_commit(&self, group: &str, who: &CommitAs, transactional: bool) -> Result<(), ErrorCode> {
        let instance = who.instance.as_deref();
        match self.groups.get(group) {
            Some(found) => found.may_commit(who.generation, &who.member, instance, transactional),
            None => Group::new(group).may_commit(who.generation, &who.member, instance, transactional),
        }
    }

    /// Commits offsets.
    ///
    /// # Errors
    /// `UNKNOWN_MEMBER_ID`, `ILLEGAL_GENERATION`, `FENCED_INSTANCE_ID`, `REBALANCE_IN_PROGRESS`,
    /// `COORDINATOR_NOT_AVAILABLE`.
    pub fn commit_offsets(&mut self, now: i64, group: &str, who: &CommitAs, offsets: Offsets) -> Result<(), ErrorCode> {
        self.may_commit(group, who, false)?;
        if offsets.is_empty() {
            return Ok(());
        }
        self.remember(&Entry::Committed { group: group.to_owned(), time: now, offsets: offsets.clone() })?;
        let found = self.group_mut(group);
        found.commit(offsets, now);
        found.note_alive(&who.member, now);
        Ok(())
    }

    /// The group's offset for a partition. With `stable`, one that an open transaction is about to change is not told.
    #[must_use]
    pub fn fetch_offset(&self, group: &str, at: &TopicPartition, stable: bool) -> FetchedOffset {
        if stable && self.transactions.has_pending_offset(group, at) {
            return FetchedOffset::Unstable;
        }
        let found = self.groups.get(group).and_then(|g| g.offsets.get(at));
        found.map_or(FetchedOffset::None, |offset| FetchedOffset::Committed(offset.clone()))
    }

    /// Partitions the group has committed offsets for.
    #[must_use]
    pub fn committed_partitions(&self, group: &str) -> Vec<TopicPartition> {
        let found = self.groups.get(group);
        found.map_or(Vec::new(), |group| group.offsets.keys().cloned().collect())
    }

    /// A group.
    #[must_use]
    pub fn group(&self, id: &str) -> Option<GroupView> {
        self.groups.get(id).map(|group| GroupView {
            state: group.state(),
            protocol_type: group.protocol_type().to_owned(),
            protocol: group.protocol().to_owned(),
            members: group.members().collect(),
        })
    }

    /// Ids of all groups, sorted.
    #[must_use]
    pub fn group_ids(&self) -> Vec<String> {
        self.groups.keys().cloned().collect()
    }

    /// Deletes a group without members, and its offsets.
    ///
    /// # Errors
    /// `GROUP_ID_NOT_FOUND`, `NON_EMPTY_GROUP`, `COORDINATOR_NOT_AVAILABLE`.
    pub fn delete_group(&mut self, id: &str) -> Result<(), ErrorCode> {
        let group = self.groups.get(id).ok_or(ErrorCode::GroupIdNotFound)?;
        if group.state() != GroupState::Empty {
            return Err(ErrorCode::NonEmptyGroup);
        }
        self.remember(&Entry::GroupDeleted { group: id.to_owned() })?;
        self.groups.remove(id);
        Ok(())
    }

    /// Makes a group forget its offsets for some partitions, and says for each whether it did.
    ///
    /// # Errors
    /// `GROUP_ID_NOT_FOUND`, `NON_EMPTY_GROUP` if its members are no consumers, `KAFKA_STORAGE_ERROR`; for a single
    /// partition `UNKNOWN_TOPIC_OR_PARTITION`, `GROUP_SUBSCRIBED_TO_TOPIC`.
    pub fn delete_offsets(
        &mut self,
        id: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<Result<(), ErrorCode>>, ErrorCode> {
        let group = self.groups.get(id).ok_or(ErrorCode::GroupIdNotFound)?;
        let is_empty = group.state() == GroupState::Empty;
        if !is_empty && group.protocol_type() != "consumer" {
            return Err(ErrorCode::NonEmptyGroup);
        }
        let judge = |at: &TopicPartition| {
            if !self.has_partition(&at.topic, at.partition) {
                Err(ErrorCode::UnknownTopicOrPartition)
            } else if !is_empty && group.subscribes_to(&at.topic) {
                Err(ErrorCode::GroupSubscribedToTopic)
            } else {
                Ok(())
            }
        };
        let results: Vec<Result<(), ErrorCode>> = partitions.iter().map(judge).collect();
        let pairs = partitions.iter().zip(&results);
        let gone: Vec<TopicPartition> = pairs
            .filter(|(at, result)| result.is_ok() && group.offsets.contains_key(at))
            .map(|(at, _)| at.clone())
            .collect();
        if !gone.is_empty() {
            self.record(&Entry::OffsetsDeleted { group: id.to_owned(), partitions: gone.clone() })?;
            self.group_mut(id).offsets.retain(|at, _| !gone.contains(at));
        }
        Ok(results)
    }

    /// Protocol type and assignor of a group with members.
    #[must_use]
    pub fn group_protocol(&self, id: &str) -> Option<(&str, &str)> {
        let group = self.groups.get(id)?;
        (group.state() != GroupState::Empty).then(|| (group.protocol_type(), group.protocol()))
    }
}
