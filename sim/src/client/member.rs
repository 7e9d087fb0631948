//! One group's member, as the client library keeps it beside the thread: it joins, syncs, sends heartbeats, and holds
//! each rebalance until the engine has answered it. The model of the library's group client with the cooperative
//! assignor and static membership, and of the look that a static member takes at its group when it comes back
//! (`worker/src/kafka_broker/membership.rs`); what else the worker makes of it is in [`super`].

use std::collections::{BTreeSet, VecDeque};

use millrace_broker::core::ErrorCode;
use millrace_broker::core::groups::Join;
use millrace_runtime::SubTopologyId;

use super::assignor;
use crate::defects::{ClientDefect, is_planted};
use crate::network::{Described, Reply, Request};
use crate::plan::{MS, Micros};
use crate::world::{Asker, Event, REQUEST_TIMEOUT, ThreadId, World, trace};

const SESSION_MS: i64 = 6_000;
const REBALANCE_MS: i64 = 20_000;
const HEARTBEAT: Micros = 1_500 * MS;
const RETRY: Micros = 100 * MS;
/// A member does not leave and join anew more often than this.
const ANEW_MAX: u32 = 3;

/// What a member does by the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    Join,
    Heartbeat,
    /// A request was not answered.
    Patience(u64),
}

/// Where a member stands with its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Outside,
    /// It asks whether the group still has a member of its name.
    Asking,
    /// It gives its place up, to join anew.
    Leaving,
    Joining,
    Syncing,
    Member,
}

/// A rebalance for the engine to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rebalance {
    Assign(BTreeSet<i32>),
    Revoke(BTreeSet<i32>),
    Lose(BTreeSet<i32>),
}

/// See the module.
pub(crate) struct Member {
    group: String,
    instance: Option<String>,
    client: String,
    partitions: i32,
    id: String,
    pub(crate) generation: i32,
    standing: Standing,
    owned: BTreeSet<i32>,
    rebalances: VecDeque<Rebalance>,
    /// The first of them was told to the engine.
    told: bool,
    rejoins: bool,
    /// It came back to its group: it takes no assignment before it has seen that the group is whole.
    looks: bool,
    /// The last question was how the group is, so that the next is a heartbeat.
    looked: bool,
    /// How often it left to join anew.
    anew: u32,
    /// Another has this name: this client is done.
    pub(crate) fenced: Option<String>,
    heard_at: Micros,
    /// Requests and timers of an earlier standing are void.
    round: u64,
    request: u64,
}

impl Member {
    pub(crate) fn new(group: String, client: String, is_static: bool, partitions: i32) -> Self {
        Self {
            group,
            instance: is_static.then(|| client.clone()),
            client,
            partitions,
            id: String::new(),
            generation: -1,
            standing: Standing::Outside,
            owned: BTreeSet::new(),
            rebalances: VecDeque::new(),
            told: false,
            rejoins: false,
            looks: false,
            looked: false,
            anew: 0,
            fenced: None,
            heard_at: 0,
            round: 0,
            request: 0,
        }
    }

    /// The rebalance the engine has not been told of yet.
    pub(crate) fn tell(&mut self) -> Option<Rebalance> {
        if self.told || self.looks {
            return None;
        }
        let next = self.rebalances.front()?.clone();
        self.told = true;
        Some(next)
    }

    /// Whether a rebalance waits to be told.
    pub(crate) fn has_news(&self) -> bool {
        self.fenced.is_some() || (!self.told && !self.looks && !self.rebalances.is_empty())
    }

    /// The group and generation it is at rest in; no generation while it is on its way into another, or does not know yet
    /// that it has lost its partitions.
    pub(crate) fn at_rest(&self) -> (&str, Option<i32>) {
        let rests = self.standing == Standing::Member && self.rebalances.is_empty() && !self.rejoins && !self.looks;
        (&self.group, rests.then_some(self.generation))
    }

    /// Who commits, for the broker to check; `None` where the partitions are no longer this member's.
    pub(crate) fn credentials(&self) -> Option<(i32, String, Option<String>)> {
        let lost = self.rebalances.iter().any(|rebalance| matches!(rebalance, Rebalance::Lose(_)));
        (!lost && self.generation >= 0).then(|| (self.generation, self.id.clone(), self.instance.clone()))
    }
}

/// Takes a member out to work on it beside the world.
fn with(world: &mut World, thread: ThreadId, sub: SubTopologyId, act: impl FnOnce(&mut Member, &mut Desk<'_>)) {
    let Some(mut member) = world.slots.get_mut(&thread).and_then(|slot| slot.members.remove(&sub)) else { return };
    act(&mut member, &mut Desk { world, thread, sub });
    let news = member.has_news();
    if let Some(slot) = world.slots.get_mut(&thread) {
        slot.members.insert(sub, member);
    }
    if news {
        world.wake_poll(thread);
    }
}

struct Desk<'a> {
    world: &'a mut World,
    thread: ThreadId,
    sub: SubTopologyId,
}

impl Desk<'_> {
    fn timer(&mut self, pause: Micros, timer: Timer, round: u64) {
        self.world.after(pause, Event::Timer(self.thread, self.sub, timer, round));
    }

    fn send(&mut self, member: &mut Member, request: Request, patience: Micros) {
        member.request += 1;
        let number = member.request;
        self.world.send(Asker::Member(self.thread, self.sub, number), request);
        self.timer(patience, Timer::Patience(number), member.round);
    }
}

impl World {
    /// A new member begins to join.
    pub(crate) fn member_begins(&mut self, thread: ThreadId, sub: SubTopologyId) {
        let pause = self.rng.u64(0..50 * MS);
        self.after(pause, Event::Timer(thread, sub, Timer::Join, 0));
    }

    pub(crate) fn member_timer(&mut self, thread: ThreadId, sub: SubTopologyId, timer: Timer, round: u64) {
        with(self, thread, sub, |member, desk| {
            if member.round != round || member.fenced.is_some() {
                return;
            }
            match timer {
                Timer::Join if member.instance.is_some() && member.id.is_empty() => member.ask(desk),
                Timer::Join => member.join(desk),
                Timer::Heartbeat => member.heartbeat(desk),
                Timer::Patience(number) if number == member.request => member.silence(desk),
                Timer::Patience(_) => {}
            }
        });
    }

    pub(crate) fn member_reply(&mut self, thread: ThreadId, sub: SubTopologyId, number: u64, reply: Reply) {
        with(self, thread, sub, |member, desk| {
            if member.request == number && member.fenced.is_none() {
                member.hear(reply, desk);
            }
        });
    }

    /// The clients of a thread are closed: members that are not static leave their groups.
    pub(crate) fn members_leave(&mut self, thread: ThreadId) {
        let Some(slot) = self.slots.get_mut(&thread) else { return };
        let members = std::mem::take(&mut slot.members);
        for (sub, member) in members {
            if member.instance.is_none() && !member.id.is_empty() {
                let request = Request::Leave { group: member.group, member: member.id, instance: None };
                self.send(Asker::Member(thread, sub, 0), request);
            }
        }
    }

    /// The engine has answered the rebalance it was told of.
    pub(crate) fn member_answered(&mut self, thread: ThreadId, sub: SubTopologyId) {
        with(self, thread, sub, |member, desk| {
            if member.told {
                member.answered(desk);
            }
        });
    }
}

impl Member {
    fn begin(&mut self, standing: Standing) {
        self.standing = standing;
        self.round += 1;
    }

    /// Who joins under a name the group has already is given its place back without a rebalance.
    fn ask(&mut self, desk: &mut Desk<'_>) {
        self.begin(Standing::Asking);
        self.looks = false;
        desk.send(self, Request::Describe { group: self.group.clone() }, REQUEST_TIMEOUT);
    }

    fn come_back(&mut self, comes_back: bool, desk: &mut Desk<'_>) {
        self.looks = comes_back && !is_planted(ClientDefect::GroupNotLookedAt);
        self.looked = false;
        self.join(desk);
    }

    /// What the group said of itself.
    fn described(&mut self, described: &Described, desk: &mut Desk<'_>) {
        match self.standing {
            Standing::Asking => {
                let known = self.instance.as_ref().is_some_and(|name| described.instances.contains(name));
                self.come_back(known, desk);
            }
            Standing::Member if self.looks => {
                let read: BTreeSet<i32> =
                    described.assignments.iter().flat_map(|a| assignor::read_assigned(a)).collect();
                let whole = !described.stable || (0..self.partitions).all(|partition| read.contains(&partition));
                if whole || self.anew == ANEW_MAX {
                    self.looks = false;
                    return desk.timer(HEARTBEAT, Timer::Heartbeat, self.round);
                }
                trace!(
                    desk.world,
                    "{:<5} joins   group {} anew: it is not whole",
                    desk.world.name_of(desk.thread),
                    self.group
                );
                desk.world.coverage.count("static members that joined anew", 1);
                self.anew += 1;
                self.rebalances.clear();
                self.rejoins = false;
                self.begin(Standing::Leaving);
                let (member, instance) = (self.id.clone(), self.instance.clone());
                desk.send(self, Request::Leave { group: self.group.clone(), member, instance }, 2 * REQUEST_TIMEOUT);
            }
            Standing::Member => desk.timer(HEARTBEAT, Timer::Heartbeat, self.round),
            Standing::Outside | Standing::Leaving | Standing::Joining | Standing::Syncing => {}
        }
    }

    /// Its place is given up, or will be when its session ends.
    fn left(&mut self, desk: &mut Desk<'_>) {
        self.id.clear();
        self.generation = -1;
        self.ask(desk);
    }

    fn join(&mut self, desk: &mut Desk<'_>) {
        self.begin(Standing::Joining);
        self.rejoins = false;
        let join = Join {
            member: self.id.clone(),
            instance: self.instance.clone(),
            client: self.client.clone(),
            session_timeout: SESSION_MS,
            rebalance_timeout: REBALANCE_MS,
            protocol_type: "consumer".into(),
            protocols: vec![("cooperative".into(), assignor::say_owned(self.generation, &self.owned))],
            wants_id_first: self.instance.is_none(),
            can_skip_assignment: false,
        };
        let patience = u64::try_from(REBALANCE_MS).unwrap_or(0) * MS + 2 * REQUEST_TIMEOUT;
        let request = Request::Join { group: self.group.clone(), join };
        desk.send(self, request, patience);
    }

    fn heartbeat(&mut self, desk: &mut Desk<'_>) {
        if self.standing != Standing::Member {
            return;
        }
        // Without a word from the coordinator for a session, the partitions are somebody else's.
        if desk.world.now > self.heard_at + u64::try_from(SESSION_MS).unwrap_or(0) * MS {
            self.id.clear();
            return self.lose(desk, "no heartbeat was answered for a session");
        }
        self.looked = self.looks && !self.looked;
        if self.looked {
            return desk.send(self, Request::Describe { group: self.group.clone() }, REQUEST_TIMEOUT);
        }
        let request = Request::Heartbeat {
            group: self.group.clone(),
            generation: self.generation,
            member: self.id.clone(),
            instance: self.instance.clone(),
        };
        desk.send(self, request, REQUEST_TIMEOUT);
    }

    /// No answer, or a broken connection.
    fn silence(&mut self, desk: &mut Desk<'_>) {
        match self.standing {
            Standing::Outside => {}
            // Nobody can tell: then it may be so.
            Standing::Asking => self.come_back(true, desk),
            Standing::Leaving => self.left(desk),
            Standing::Member => desk.timer(RETRY, Timer::Heartbeat, self.round),
            Standing::Joining | Standing::Syncing => {
                self.begin(Standing::Outside);
                desk.timer(RETRY, Timer::Join, self.round);
            }
        }
    }

    fn hear(&mut self, reply: Reply, desk: &mut Desk<'_>) {
        // Answered: what was to happen without an answer does not.
        self.request += 1;
        match reply {
            Reply::Disconnected => self.silence(desk),
            Reply::Joined(Ok(joined)) => {
                self.id = joined.member;
                self.generation = joined.generation;
                self.heard_at = desk.world.now;
                let members: Vec<_> = joined.members.into_iter().map(|(id, _, metadata)| (id, metadata)).collect();
                let assignments = if joined.leader == self.id && !members.is_empty() {
                    assignor::assign(self.partitions, &members)
                } else {
                    Vec::new()
                };
                self.begin(Standing::Syncing);
                let request = Request::Sync {
                    group: self.group.clone(),
                    generation: self.generation,
                    member: self.id.clone(),
                    instance: self.instance.clone(),
                    assignments,
                };
                let patience = u64::try_from(REBALANCE_MS).unwrap_or(0) * MS + 2 * REQUEST_TIMEOUT;
                desk.send(self, request, patience);
            }
            Reply::Synced(Ok(assignment)) => self.assigned(assignor::read_assigned(&assignment), desk),
            Reply::Described(described) => self.described(&described, desk),
            Reply::Done(_) if self.standing == Standing::Leaving => self.left(desk),
            Reply::Done(Ok(())) => {
                self.heard_at = desk.world.now;
                desk.timer(self.pause(), Timer::Heartbeat, self.round);
            }
            Reply::Joined(Err(refused)) => {
                if refused.code == ErrorCode::MemberIdRequired {
                    self.id = refused.member;
                }
                self.refused(refused.code, desk);
            }
            Reply::Synced(Err(code)) | Reply::Done(Err(code)) => self.refused(code, desk),
            Reply::Producer(_) | Reply::Produced(_) | Reply::Offsets(_) | Reply::Bounds(_) => {}
        }
    }

    fn refused(&mut self, code: ErrorCode, desk: &mut Desk<'_>) {
        trace!(desk.world, "{:<5} hears   {code:?} of group {}", desk.world.name_of(desk.thread), self.group);
        match code {
            ErrorCode::FencedInstanceId => {
                self.fenced = Some(format!("group {}: another has the name {}", self.group, self.client));
            }
            ErrorCode::RebalanceInProgress => {
                self.heard_at = desk.world.now;
                self.rejoin(desk);
            }
            ErrorCode::MemberIdRequired => self.join(desk),
            ErrorCode::UnknownMemberId => {
                self.id.clear();
                self.lose(desk, "the coordinator does not know this member");
            }
            ErrorCode::IllegalGeneration => self.lose(desk, "the group has gone on without this member"),
            _ => self.silence(desk),
        }
    }

    /// Until it next speaks to the coordinator.
    fn pause(&self) -> Micros {
        if self.looks { RETRY } else { HEARTBEAT }
    }

    /// Once the engine has answered what it was told.
    fn rejoin(&mut self, desk: &mut Desk<'_>) {
        if self.rebalances.is_empty() {
            self.join(desk);
        } else {
            self.rejoins = true;
            if self.standing == Standing::Member {
                // Still alive, and says so.
                desk.timer(self.pause(), Timer::Heartbeat, self.round);
            }
        }
    }

    fn lose(&mut self, desk: &mut Desk<'_>, why: &str) {
        trace!(
            desk.world,
            "{:<5} loses   {:?} of group {}: {why}",
            desk.world.name_of(desk.thread),
            self.owned,
            self.group
        );
        self.generation = -1;
        self.looks = false;
        self.begin(Standing::Outside);
        self.rejoins = true;
        let mut lost = std::mem::take(&mut self.owned);
        // An assignment the engine knows of is lost with the rest; one it does not know of never was.
        for (place, rebalance) in std::mem::take(&mut self.rebalances).into_iter().enumerate() {
            match rebalance {
                Rebalance::Assign(partitions) if place == 0 && self.told => lost.extend(partitions),
                Rebalance::Assign(_) => {}
                Rebalance::Revoke(partitions) | Rebalance::Lose(partitions) => lost.extend(partitions),
            }
        }
        self.told = false;
        if lost.is_empty() {
            self.join(desk);
        } else {
            self.rebalances.push_back(Rebalance::Lose(lost));
        }
    }

    fn assigned(&mut self, assigned: BTreeSet<i32>, desk: &mut Desk<'_>) {
        self.begin(Standing::Member);
        self.heard_at = desk.world.now;
        desk.timer(self.pause(), Timer::Heartbeat, self.round);
        let revoked: BTreeSet<i32> = self.owned.difference(&assigned).copied().collect();
        let added: BTreeSet<i32> = assigned.difference(&self.owned).copied().collect();
        if !revoked.is_empty() {
            self.rejoins = true;
            self.rebalances.push_back(Rebalance::Revoke(revoked));
        }
        if !added.is_empty() {
            self.rebalances.push_back(Rebalance::Assign(added));
        }
    }

    fn answered(&mut self, desk: &mut Desk<'_>) {
        self.told = false;
        match self.rebalances.pop_front() {
            Some(Rebalance::Assign(added)) => self.owned.extend(added),
            Some(Rebalance::Revoke(gone) | Rebalance::Lose(gone)) => self.owned.retain(|p| !gone.contains(p)),
            None => {}
        }
        if self.rejoins && self.rebalances.is_empty() {
            self.join(desk);
        }
    }
}
