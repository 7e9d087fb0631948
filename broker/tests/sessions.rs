//! Groups on the core alone, with time in the test's hand: sessions end, rebalances do not wait for the dead, and an
//! unfinished rebalance is not taken for a finished one after a restart.

use std::sync::Arc;

use bytes::Bytes;
use millrace_broker::core::disk::MemoryDisk;
use millrace_broker::core::groups::{GroupState, Join, Joined};
use millrace_broker::core::{CommitAs, Core, ErrorCode, Reply, Settings, Token};

const SESSION: i64 = 6_000;

fn open(disk: &Arc<MemoryDisk>, now: i64) -> Core {
    let settings = Settings { journal_rotation_bytes: 1, ..Settings::default() };
    Core::open(disk.clone(), settings, now).expect("opens")
}

fn join(member: &str) -> Join {
    Join {
        member: member.to_owned(),
        instance: None,
        client: "client".to_owned(),
        session_timeout: SESSION,
        rebalance_timeout: 60_000,
        protocol_type: "consumer".to_owned(),
        protocols: vec![("range".to_owned(), Bytes::from_static(b"subscription"))],
        wants_id_first: false,
        can_skip_assignment: false,
    }
}

fn joined(core: &mut Core) -> Vec<(Token, Joined)> {
    let replies = core.take_replies().into_iter();
    let joined = replies.filter_map(|(token, reply)| match reply {
        Reply::Join(Ok(joined)) => Some((token, joined)),
        _ => None,
    });
    joined.collect()
}

fn assign(core: &mut Core, now: i64, leader: &Joined) {
    let assignments = leader.members.iter();
    let assignments = assignments.map(|(id, _, _)| (id.clone(), Bytes::from(format!("for {id}")))).collect();
    let generation = leader.generation;
    core.sync_group(now, Token(99), "g", generation, &leader.member, None, assignments);
}

fn state(core: &Core) -> GroupState {
    core.group("g").expect("a group").state
}

/// A stable group of two; the first is the leader.
fn two_members(core: &mut Core) -> (Joined, Joined) {
    core.join_group(0, Token(1), "g", join(""));
    let (_, alone) = joined(core).remove(0);
    core.join_group(0, Token(2), "g", join(""));
    assert_eq!(core.heartbeat(0, "g", alone.generation, &alone.member, None), Err(ErrorCode::RebalanceInProgress));
    core.join_group(0, Token(3), "g", join(&alone.member));
    let mut both = joined(core);
    both.sort_by_key(|(_, joined)| joined.members.is_empty());
    let (_, follower) = both.remove(1);
    let (_, leader) = both.remove(0);
    assert_eq!(leader.members.len(), 2);
    assert_eq!(leader.generation, alone.generation + 1);
    assign(core, 0, &leader);
    let generation = follower.generation;
    core.sync_group(0, Token(4), "g", generation, &follower.member, None, Vec::new());
    let expected = Bytes::from(format!("for {}", follower.member));
    let replies = core.take_replies();
    assert!(replies.contains(&(Token(4), Reply::Sync(Ok(expected)))), "{replies:?}");
    assert_eq!(state(core), GroupState::Stable);
    (leader, follower)
}

#[test]
fn a_member_that_falls_silent_loses_its_session() {
    let disk = Arc::new(MemoryDisk::new());
    let mut core = open(&disk, 0);
    let (leader, follower) = two_members(&mut core);
    let generation = leader.generation;
    core.heartbeat(SESSION - 1, "g", generation, &leader.member, None).expect("alive");
    core.tick(SESSION - 1);
    assert_eq!(state(&core), GroupState::Stable, "both are in time");
    core.tick(SESSION);
    assert_eq!(state(&core), GroupState::PreparingRebalance);
    // The rebalance waits for the living only.
    core.join_group(SESSION, Token(5), "g", join(&leader.member));
    let (token, again) = joined(&mut core).remove(0);
    assert_eq!((token, again.generation), (Token(5), generation + 1));
    assert_eq!(again.members.len(), 1);
    let silent = CommitAs { generation, member: follower.member, instance: None };
    let refused = core.commit_offsets(SESSION, "g", &silent, Vec::new());
    assert_eq!(refused, Err(ErrorCode::UnknownMemberId));
}

#[test]
fn a_member_that_asks_for_its_assignment_after_the_leader_brought_it_stays() {
    let disk = Arc::new(MemoryDisk::new());
    let mut core = open(&disk, 0);
    // The follower syncs last, into a group that is stable already.
    let (leader, follower) = two_members(&mut core);
    for now in (0..200_000).step_by(1_000) {
        core.tick(now);
        for member in [&leader.member, &follower.member] {
            core.heartbeat(now, "g", leader.generation, member, None).expect("nobody asked to rebalance");
        }
    }
    assert_eq!(state(&core), GroupState::Stable);
}

#[test]
fn an_unfinished_rebalance_is_forgotten_by_a_restart() {
    let disk = Arc::new(MemoryDisk::new());
    let mut core = open(&disk, 0);
    let (leader, follower) = two_members(&mut core);
    // A third joins; the next generation is announced, but the leader has not assigned anything yet.
    core.join_group(1, Token(6), "g", join(""));
    core.join_group(1, Token(7), "g", join(&leader.member));
    core.join_group(1, Token(8), "g", join(&follower.member));
    let next = joined(&mut core);
    assert_eq!(next.len(), 3);
    assert_eq!(state(&core), GroupState::CompletingRebalance);
    core.tick(2_000); // rotates the journal in the middle of it
    drop(core);

    let mut core = open(&disk, 2_000);
    assert_eq!(state(&core), GroupState::Stable);
    let generation = leader.generation;
    let speak = |core: &mut Core, generation, member: &str| core.heartbeat(2_000, "g", generation, member, None);
    assert_eq!(speak(&mut core, generation, &follower.member), Ok(()));
    for (_, joined) in next {
        let refused = speak(&mut core, joined.generation, &joined.member);
        assert!(matches!(refused, Err(ErrorCode::IllegalGeneration | ErrorCode::UnknownMemberId)), "{refused:?}");
    }
}
