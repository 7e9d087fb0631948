//! Consumer groups with the classic protocol: members, generations, rebalances, static membership.
//!
//! A group never looks into subscriptions or assignments: the leader among its members does. Answers to JoinGroup and
//! SyncGroup that must wait are returned later, as replies.
//!
//! ```text
//!            join                     all have joined              leader has synced
//!   Empty ─────────▶ PreparingRebalance ───────────▶ CompletingRebalance ───────────▶ Stable
//!     ▲                 ▲   ▲                                │ join, leave, lost          │
//!     │ last one left   │   └────────────────────────────────┘                            │
//!     └─────────────────┴─────────────────────────────────────── join, leave, lost ───────┘
//! ```

use std::collections::BTreeMap;

use bytes::Bytes;

use super::ErrorCode;
use super::journal::{CommittedOffset, GroupEntry, MemberEntry, Offsets};
pub use super::members::{Join, JoinRefused, Joined, MemberView};
use super::members::{Member, subscribes_to};
use super::{Reply, Token, TopicPartition};

/// Where a group is between two stable generations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupState {
    /// No members.
    Empty,
    /// Waiting for the members to join.
    PreparingRebalance,
    /// Waiting for the leader's assignment.
    CompletingRebalance,
    /// Members have their assignments.
    Stable,
}

impl GroupState {
    /// Kafka's name of the state.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// One consumer group.
#[derive(Debug)]
pub struct Group {
    id: String,
    state: GroupState,
    generation: i32,
    protocol_type: String,
    protocol: Option<String>,
    leader: Option<String>,
    members: BTreeMap<String, Member>,
    /// Ids given out to members that have not joined with them yet, and until when they may.
    promised: BTreeMap<String, i64>,
    /// When the current rebalance phase ends without those who are missing.
    deadline: i64,
    /// Committed offsets.
    pub offsets: BTreeMap<TopicPartition, CommittedOffset>,
    /// When a member was last here, or offsets were last committed, milliseconds.
    active_at: i64,
    /// Set when the journal must learn of this group.
    pub changed: bool,
    /// What the journal last learned of this group.
    stored: Option<GroupEntry>,
}

impl Group {
    /// An empty group.
    #[must_use]
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            state: GroupState::Empty,
            generation: 0,
            protocol_type: String::new(),
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            promised: BTreeMap::new(),
            deadline: i64::MAX,
            offsets: BTreeMap::new(),
            active_at: i64::MIN,
            changed: false,
            stored: None,
        }
    }

    /// State.
    #[must_use]
    pub fn state(&self) -> GroupState {
        self.state
    }

    /// Generation.
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// `consumer`, or empty.
    #[must_use]
    pub fn protocol_type(&self) -> &str {
        &self.protocol_type
    }

    /// Assignor in use, or empty.
    #[must_use]
    pub fn protocol(&self) -> &str {
        self.protocol.as_deref().unwrap_or("")
    }

    /// Members, for DescribeGroups.
    pub fn members(&self) -> impl Iterator<Item = MemberView> + '_ {
        self.members.iter().map(|(id, member)| MemberView {
            id: id.clone(),
            instance: member.instance.clone(),
            client: member.client.clone(),
            metadata: member.metadata(self.protocol()),
            assignment: member.assignment.clone(),
        })
    }

    /// Whether a topic's offsets are still needed: some member consumes it.
    #[must_use]
    pub fn subscribes_to(&self, topic: &str) -> bool {
        self.members.values().any(|member| subscribes_to(&member.metadata(self.protocol()), topic))
    }

    /// What the journal keeps of the group besides its offsets.
    #[must_use]
    pub fn entry(&self) -> GroupEntry {
        GroupEntry {
            group: self.id.clone(),
            time: self.active_at,
            generation: self.generation,
            protocol_type: self.protocol_type.clone(),
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            members: self
                .members
                .iter()
                .map(|(id, member)| MemberEntry {
                    id: id.clone(),
                    instance: member.instance.clone(),
                    client: member.client.clone(),
                    session_timeout: member.session_timeout,
                    rebalance_timeout: member.rebalance_timeout,
                    protocols: member
                        .protocols
                        .iter()
                        .map(|(name, metadata)| (name.clone(), metadata.to_vec()))
                        .collect(),
                    assignment: member.assignment.to_vec(),
                })
                .collect(),
        }
    }

    /// What a snapshot keeps: the last stable generation, never one whose assignment is still open.
    #[must_use]
    pub fn stored(&self) -> Option<&GroupEntry> {
        self.stored.as_ref()
    }

    /// The journal has learned of this state of the group.
    pub fn set_stored(&mut self, entry: GroupEntry) {
        self.changed = false;
        self.stored = Some(entry);
    }

    /// Takes offsets that are committed now.
    pub fn commit(&mut self, offsets: Offsets, now: i64) {
        self.offsets.extend(offsets);
        self.active_at = self.active_at.max(now);
    }

    /// Whether nobody has been here and nothing was committed since `before`.
    #[must_use]
    pub fn is_idle_since(&self, before: i64) -> bool {
        self.state == GroupState::Empty && self.promised.is_empty() && self.active_at < before
    }

    /// When a member was last here, or offsets were last committed, milliseconds.
    #[must_use]
    pub fn active_at(&self) -> i64 {
        self.active_at
    }

    /// A commit of offsets shows that the member is alive.
    pub fn note_alive(&mut self, member: &str, now: i64) {
        self.touch(member, now);
    }

    /// Takes the membership from the journal; sessions start anew.
    pub fn restore(&mut self, entry: GroupEntry, now: i64) {
        self.stored = Some(entry.clone());
        self.active_at = self.active_at.max(if entry.time == 0 { now } else { entry.time });
        self.generation = entry.generation;
        self.protocol_type = entry.protocol_type;
        self.protocol = entry.protocol;
        self.leader = entry.leader;
        self.members = entry
            .members
            .into_iter()
            .map(|member| {
                let restored = Member {
                    instance: member.instance,
                    client: member.client,
                    session_timeout: member.session_timeout,
                    rebalance_timeout: member.rebalance_timeout,
                    protocols: member
                        .protocols
                        .into_iter()
                        .map(|(name, metadata)| (name, Bytes::from(metadata)))
                        .collect(),
                    assignment: Bytes::from(member.assignment),
                    joining: None,
                    syncing: None,
                    synced: true,
                    alive_until: now + member.session_timeout,
                };
                (member.id, restored)
            })
            .collect();
        self.state = if self.members.is_empty() { GroupState::Empty } else { GroupState::Stable };
    }

    /// Starts the sessions of all members anew, as after a restart.
    pub fn renew_sessions(&mut self, now: i64) {
        for member in self.members.values_mut() {
            member.alive_until = now + member.session_timeout;
        }
    }

    fn member_of_instance(&self, instance: &str) -> Option<&str> {
        self.members.iter().find(|(_, member)| member.instance.as_deref() == Some(instance)).map(|(id, _)| id.as_str())
    }

    /// Checks who is speaking.
    fn identify(&self, member: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            return match self.member_of_instance(instance) {
                None => Err(ErrorCode::UnknownMemberId),
                Some(current) if current != member => Err(ErrorCode::FencedInstanceId),
                Some(_) => Ok(()),
            };
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Whether this member of this generation may commit offsets; generation -1 and no member id is a simple consumer.
    ///
    /// # Errors
    /// `FENCED_INSTANCE_ID`, `UNKNOWN_MEMBER_ID`, `ILLEGAL_GENERATION`, `REBALANCE_IN_PROGRESS`.
    pub fn may_commit(
        &self,
        generation: i32,
        member: &str,
        instance: Option<&str>,
        transactional: bool,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && member.is_empty() && instance.is_none() {
            return if transactional || self.state == GroupState::Empty {
                Ok(())
            } else {
                Err(ErrorCode::UnknownMemberId)
            };
        }
        if self.members.is_empty() && generation >= 0 && instance.is_none() {
            return Err(if transactional && !member.is_empty() {
                ErrorCode::UnknownMemberId
            } else {
                ErrorCode::IllegalGeneration
            });
        }
        if instance.is_some() || !member.is_empty() {
            self.identify(member, instance)?;
        }
        if generation != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        if !transactional && self.state == GroupState::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// A member wants to join; the answer comes through `replies`.
    pub fn join(&mut self, now: i64, token: Token, join: Join, fresh_id: String, replies: &mut Vec<(Token, Reply)>) {
        match self.try_join(now, token, join, fresh_id, replies) {
            Ok(()) => {}
            Err(refused) => replies.push((token, Reply::Join(Err(refused)))),
        }
    }

    fn try_join(
        &mut self,
        now: i64,
        token: Token,
        join: Join,
        fresh_id: String,
        replies: &mut Vec<(Token, Reply)>,
    ) -> Result<(), JoinRefused> {
        let given = join.member.clone();
        let refuse = |code| JoinRefused { code, member: given.clone() };
        if !self.accepts_protocols(&join) {
            return Err(refuse(ErrorCode::InconsistentGroupProtocol));
        }
        if !join.member.is_empty() {
            return self.join_known(now, token, join, replies).map_err(refuse);
        }
        if let Some(instance) = &join.instance {
            match self.member_of_instance(instance).map(str::to_owned) {
                Some(old) => self.replace_static(now, token, join, &old, fresh_id, replies),
                None => self.admit(now, token, fresh_id, join, replies),
            }
            return Ok(());
        }
        if join.wants_id_first {
            self.promised.insert(fresh_id.clone(), now + join.session_timeout);
            return Err(JoinRefused { code: ErrorCode::MemberIdRequired, member: fresh_id });
        }
        self.admit(now, token, fresh_id, join, replies);
        Ok(())
    }

    fn accepts_protocols(&self, join: &Join) -> bool {
        if join.protocols.is_empty() || join.protocol_type.is_empty() {
            return false;
        }
        let others = || {
            self.members
                .iter()
                .filter(|(id, member)| {
                    **id != join.member && (member.instance.is_none() || member.instance != join.instance)
                })
                .map(|(_, member)| member)
        };
        if others().next().is_none() {
            return true;
        }
        self.protocol_type == join.protocol_type
            && join
                .protocols
                .iter()
                .any(|(name, _)| others().all(|member| member.protocols.iter().any(|(other, _)| other == name)))
    }

    fn join_known(
        &mut self,
        now: i64,
        token: Token,
        join: Join,
        replies: &mut Vec<(Token, Reply)>,
    ) -> Result<(), ErrorCode> {
        let id = join.member.clone();
        if self.promised.remove(&id).is_some() {
            self.admit(now, token, id, join, replies);
            return Ok(());
        }
        self.identify(&id, join.instance.as_deref())?;
        let same = self.members.get(&id).is_some_and(|member| member.protocols == join.protocols);
        let is_leader = self.leader.as_deref() == Some(id.as_str());
        match self.state {
            GroupState::Empty => return Err(ErrorCode::UnknownMemberId),
            GroupState::PreparingRebalance => {
                self.update(now, &id, token, join, replies);
                self.complete_join_if_all_are_here(now, replies);
            }
            GroupState::CompletingRebalance if same => {
                // The answer to its first join was lost.
                self.touch(&id, now);
                replies.push((token, Reply::Join(Ok(self.joined(&id)))));
            }
            GroupState::Stable if same && !is_leader => {
                self.touch(&id, now);
                replies.push((token, Reply::Join(Ok(self.joined(&id)))));
            }
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.update(now, &id, token, join, replies);
                self.prepare_rebalance(now, replies);
            }
        }
        Ok(())
    }

    fn touch(&mut self, id: &str, now: i64) {
        if let Some(member) = self.members.get_mut(id) {
            member.alive_until = now + member.session_timeout;
        }
    }

    /// Adds a new member and starts (or continues) a rebalance.
    fn admit(&mut self, now: i64, token: Token, id: String, join: Join, replies: &mut Vec<(Token, Reply)>) {
        if self.members.is_empty() {
            self.protocol_type = join.protocol_type.clone();
        }
        let member = Member {
            instance: join.instance,
            client: join.client,
            session_timeout: join.session_timeout,
            rebalance_timeout: join.rebalance_timeout,
            protocols: join.protocols,
            assignment: Bytes::new(),
            joining: Some(token),
            syncing: None,
            synced: false,
            alive_until: now + join.session_timeout,
        };
        self.members.insert(id, member);
        self.prepare_rebalance(now, replies);
    }

    fn update(&mut self, now: i64, id: &str, token: Token, join: Join, replies: &mut Vec<(Token, Reply)>) {
        if let Some(member) = self.members.get_mut(id) {
            member.protocols = join.protocols;
            member.session_timeout = join.session_timeout;
            member.rebalance_timeout = join.rebalance_timeout;
            member.alive_until = now + join.session_timeout;
            if let Some(earlier) = member.joining.replace(token)
                && earlier != token
            {
                let refused = JoinRefused { code: ErrorCode::RebalanceInProgress, member: id.to_owned() };
                replies.push((earlier, Reply::Join(Err(refused))));
            }
        }
    }

    /// A static member came back without its id: it gets a new one, the old one is fenced, and if the group is stable it
    /// keeps its assignment without a rebalance.
    fn replace_static(
        &mut self,
        now: i64,
        token: Token,
        join: Join,
        old: &str,
        fresh_id: String,
        replies: &mut Vec<(Token, Reply)>,
    ) {
        let Some(mut member) = self.members.remove(old) else {
            return;
        };
        if let Some(waiting) = member.joining.take() {
            let refused = JoinRefused { code: ErrorCode::FencedInstanceId, member: old.to_owned() };
            replies.push((waiting, Reply::Join(Err(refused))));
        }
        if let Some(waiting) = member.syncing.take() {
            replies.push((waiting, Reply::Sync(Err(ErrorCode::FencedInstanceId))));
        }
        let leader_before = self.leader.clone();
        if self.leader.as_deref() == Some(old) {
            self.leader = Some(fresh_id.clone());
        }
        member.client = join.client.clone();
        let can_skip_assignment = join.can_skip_assignment;
        self.members.insert(fresh_id.clone(), member);
        self.update(now, &fresh_id, token, join, replies);
        match self.state {
            GroupState::Stable if self.choose_protocol() == self.protocol => {
                self.changed = true;
                if let Some(member) = self.members.get_mut(&fresh_id) {
                    member.joining = None;
                }
                let joined = self.joined(&fresh_id);
                let joined = if can_skip_assignment {
                    Joined { skip_assignment: joined.leader == fresh_id, ..joined }
                } else {
                    // The leader's old id makes the client a follower, which takes the assignment as it is.
                    Joined { leader: leader_before.unwrap_or_default(), members: Vec::new(), ..joined }
                };
                replies.push((token, Reply::Join(Ok(joined))));
            }
            GroupState::PreparingRebalance => self.complete_join_if_all_are_here(now, replies),
            _ => self.prepare_rebalance(now, replies),
        }
    }

    fn prepare_rebalance(&mut self, now: i64, replies: &mut Vec<(Token, Reply)>) {
        if self.state != GroupState::PreparingRebalance {
            for member in self.members.values_mut() {
                if let Some(token) = member.syncing.take() {
                    let reply = Reply::Sync(Err(ErrorCode::RebalanceInProgress));
                    replies.push((token, reply));
                }
                member.synced = false;
            }
            self.state = GroupState::PreparingRebalance;
            self.deadline = now + self.rebalance_timeout();
        }
        self.complete_join_if_all_are_here(now, replies);
    }

    fn rebalance_timeout(&self) -> i64 {
        let longest = self.members.values().map(|member| member.rebalance_timeout);
        longest.max().unwrap_or(0)
    }

    fn complete_join_if_all_are_here(&mut self, now: i64, replies: &mut Vec<(Token, Reply)>) {
        let all = self.members.values().all(|member| member.joining.is_some());
        if self.state == GroupState::PreparingRebalance && all && self.promised.is_empty() {
            self.complete_join(now, replies);
        }
    }

    /// Starts the next generation with those who have joined; static members who have not stay members.
    fn complete_join(&mut self, now: i64, replies: &mut Vec<(Token, Reply)>) {
        self.members.retain(|_, member| member.joining.is_some() || member.instance.is_some());
        let leader_is_here = |group: &Self| {
            let leader = group.leader.as_ref().and_then(|id| group.members.get(id));
            leader.is_some_and(|member| member.joining.is_some())
        };
        if !leader_is_here(self) {
            let present = self.members.iter().find(|(_, m)| m.joining.is_some());
            match present.map(|(id, _)| id.clone()) {
                Some(id) => self.leader = Some(id),
                None if self.members.is_empty() => self.leader = None,
                None => {
                    // Only static members, none of them back yet: their sessions decide.
                    self.deadline = now + self.rebalance_timeout();
                    return;
                }
            }
        }
        self.generation += 1;
        if self.members.is_empty() {
            self.become_empty();
            return;
        }
        self.protocol = self.choose_protocol();
        self.state = GroupState::CompletingRebalance;
        self.deadline = now + self.rebalance_timeout();
        let ids: Vec<String> = self.members.keys().cloned().collect();
        for id in ids {
            let joined = self.joined(&id);
            if let Some(member) = self.members.get_mut(&id) {
                member.alive_until = now + member.session_timeout;
                member.synced = false;
                if let Some(token) = member.joining.take() {
                    replies.push((token, Reply::Join(Ok(joined))));
                }
            }
        }
    }

    fn become_empty(&mut self) {
        self.state = GroupState::Empty;
        self.protocol = None;
        self.leader = None;
        self.deadline = i64::MAX;
        self.changed = true;
    }

    /// The assignor most members like best among those all have.
    fn choose_protocol(&self) -> Option<String> {
        let mut votes: BTreeMap<&str, usize> = BTreeMap::new();
        for member in self.members.values() {
            let best = member.protocols.iter().find(|(name, _)| {
                let has = |m: &Member| m.protocols.iter().any(|(other, _)| other == name);
                self.members.values().all(has)
            });
            if let Some((name, _)) = best {
                *votes.entry(name).or_default() += 1;
            }
        }
        let winner = votes.into_iter().max_by_key(|(_, count)| *count);
        winner.map(|(name, _)| name.to_owned())
    }

    fn joined(&self, id: &str) -> Joined {
        let leader = self.leader.clone().unwrap_or_default();
        let protocol = self.protocol.clone().unwrap_or_default();
        let members = if leader == id {
            self.members.iter().map(|(id, m)| (id.clone(), m.instance.clone(), m.metadata(&protocol))).collect()
        } else {
            Vec::new()
        };
        let generation = self.generation;
        Joined { generation, protocol, leader, member: id.to_owned(), members, skip_assignment: false }
    }

    /// A member asks for its assignment, the leader brings all; the answer comes through `replies`.
    #[expect(clippy::too_many_arguments, reason = "the fields of a SyncGroup request")]
    pub fn sync(
        &mut self,
        now: i64,
        token: Token,
        generation: i32,
        member: &str,
        instance: Option<&str>,
        assignments: Vec<(String, Bytes)>,
        replies: &mut Vec<(Token, Reply)>,
    ) {
        if let Err(code) = self.may_speak(generation, member, instance) {
            replies.push((token, Reply::Sync(Err(code))));
            return;
        }
        self.touch(member, now);
        match self.state {
            GroupState::Empty => {
                replies.push((token, Reply::Sync(Err(ErrorCode::UnknownMemberId))));
            }
            GroupState::PreparingRebalance => {
                replies.push((token, Reply::Sync(Err(ErrorCode::RebalanceInProgress))));
            }
            GroupState::Stable => {
                if let Some(member) = self.members.get_mut(member) {
                    member.synced = true;
                    replies.push((token, Reply::Sync(Ok(member.assignment.clone()))));
                }
                self.end_phase_if_all_have_synced();
            }
            GroupState::CompletingRebalance => {
                if let Some(member) = self.members.get_mut(member) {
                    member.synced = true;
                    if let Some(earlier) = member.syncing.replace(token) {
                        let reply = Reply::Sync(Err(ErrorCode::RebalanceInProgress));
                        replies.push((earlier, reply));
                    }
                }
                if self.leader.as_deref() == Some(member) {
                    self.assign(assignments);
                    self.changed = true;
                }
            }
        }
    }

    fn assign(&mut self, assignments: Vec<(String, Bytes)>) {
        let mut by_member: BTreeMap<String, Bytes> = assignments.into_iter().collect();
        for (id, member) in &mut self.members {
            member.assignment = by_member.remove(id).unwrap_or_default();
        }
        self.state = GroupState::Stable;
    }

    /// Answers everybody who waits for an assignment. Called when the journal knows the generation.
    pub fn answer_syncs(&mut self, now: i64, replies: &mut Vec<(Token, Reply)>) {
        if self.state != GroupState::Stable {
            return;
        }
        for member in self.members.values_mut() {
            if let Some(token) = member.syncing.take() {
                member.alive_until = now + member.session_timeout;
                let reply = Reply::Sync(Ok(member.assignment.clone()));
                replies.push((token, reply));
            }
        }
        self.end_phase_if_all_have_synced();
    }

    fn end_phase_if_all_have_synced(&mut self) {
        if self.members.values().all(|member| member.synced) {
            self.deadline = i64::MAX;
        }
    }

    fn may_speak(&self, generation: i32, member: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        self.identify(member, instance)?;
        if generation == self.generation { Ok(()) } else { Err(ErrorCode::IllegalGeneration) }
    }

    /// A member says it is alive.
    ///
    /// # Errors
    /// `REBALANCE_IN_PROGRESS` tells it to join again; otherwise who it is or its generation is wrong.
    pub fn heartbeat(
        &mut self,
        now: i64,
        generation: i32,
        member: &str,
        instance: Option<&str>,
    ) -> Result<(), ErrorCode> {
        self.may_speak(generation, member, instance)?;
        self.touch(member, now);
        match self.state {
            GroupState::PreparingRebalance => Err(ErrorCode::RebalanceInProgress),
            GroupState::Empty => Err(ErrorCode::UnknownMemberId),
            GroupState::CompletingRebalance | GroupState::Stable => Ok(()),
        }
    }

    /// A member leaves. With an instance id and no member id, whoever holds the instance id leaves.
    ///
    /// # Errors
    /// `UNKNOWN_MEMBER_ID`, `FENCED_INSTANCE_ID`.
    pub fn leave(
        &mut self,
        now: i64,
        member: &str,
        instance: Option<&str>,
        replies: &mut Vec<(Token, Reply)>,
    ) -> Result<(), ErrorCode> {
        if self.promised.remove(member).is_some() {
            self.complete_join_if_all_are_here(now, replies);
            return Ok(());
        }
        let id = match instance {
            Some(instance) if member.is_empty() => {
                self.member_of_instance(instance).ok_or(ErrorCode::UnknownMemberId)?.to_owned()
            }
            _ => {
                self.identify(member, instance)?;
                member.to_owned()
            }
        };
        self.remove(now, &id, replies);
        Ok(())
    }

    fn remove(&mut self, now: i64, id: &str, replies: &mut Vec<(Token, Reply)>) {
        let Some(member) = self.members.remove(id) else {
            return;
        };
        if let Some(token) = member.joining {
            let refused = JoinRefused { code: ErrorCode::UnknownMemberId, member: String::new() };
            replies.push((token, Reply::Join(Err(refused))));
        }
        if let Some(token) = member.syncing {
            replies.push((token, Reply::Sync(Err(ErrorCode::UnknownMemberId))));
        }
        match self.state {
            GroupState::Empty => {}
            GroupState::PreparingRebalance => self.complete_join_if_all_are_here(now, replies),
            GroupState::CompletingRebalance | GroupState::Stable => {
                self.prepare_rebalance(now, replies);
            }
        }
    }

    /// Ends sessions and rebalance phases whose time is up.
    pub fn tick(&mut self, now: i64, replies: &mut Vec<(Token, Reply)>) {
        if !self.members.is_empty() {
            self.active_at = now;
        }
        let promised = self.promised.len();
        self.promised.retain(|_, until| *until > now);
        if self.promised.len() != promised {
            self.complete_join_if_all_are_here(now, replies);
        }
        let lost: Vec<String> = self
            .members
            .iter()
            .filter(|(_, m)| m.alive_until <= now && m.joining.is_none() && m.syncing.is_none())
            .map(|(id, _)| id.clone())
            .collect();
        for id in lost {
            tracing::info!(group = self.id, member = id, "session ended");
            self.remove(now, &id, replies);
        }
        if now < self.deadline {
            return;
        }
        match self.state {
            GroupState::PreparingRebalance => self.complete_join(now, replies),
            GroupState::CompletingRebalance | GroupState::Stable => {
                // Members that joined but never asked for their assignment hold everybody up.
                self.deadline = i64::MAX;
                let silent: Vec<String> =
                    self.members.iter().filter(|(_, member)| !member.synced).map(|(id, _)| id.clone()).collect();
                for id in silent {
                    self.remove(now, &id, replies);
                }
            }
            GroupState::Empty => self.deadline = i64::MAX,
        }
    }
}
