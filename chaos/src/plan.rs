//! What goes wrong when, drawn from a seed: the same seed gives the same plan. Pure; injects nothing.

use std::fmt;
use std::time::Duration;

/// A kind of fault. Each is injected, lasts a while, and is healed before the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `kill -9` of a worker, which starts again on its disk.
    KillWorker,
    /// A worker is told to end, and starts again.
    StopWorker,
    /// A worker sleeps past its session and wakes.
    PauseWorker,
    /// Workers join under load and leave again.
    ScaleWorkers,
    /// `kill -9` of the ingress.
    KillIngress,
    /// `kill -9` of the warehouse.
    KillWarehouse,
    /// `kill -9` of a broker.
    KillBroker,
    /// Every broker, one after the other, is stopped and started.
    RollBrokers,
    /// Every client loses its connections.
    CutConnections,
    /// Nothing passes between clients and brokers; connections stay.
    StallConnections,
    /// A request to end a transaction is held, its connection cut; it reaches the broker later.
    HoldEndTxn,
    /// The same for positions of a group.
    HoldTxnOffsetCommit,
    /// Requests are executed, their answers lost.
    LoseAnswers,
    /// A worker's state directory takes no more bytes.
    DiskFull,
    /// A worker is killed and finds its state directory corrupted.
    CorruptState,
    /// A worker is killed and finds its state directory gone.
    LoseState,
    /// The payment service provider is slow.
    SlowProvider,
    /// It acts and never answers.
    SilentProvider,
    /// It acts, or not, and answers nonsense.
    WrongProvider,
    /// `kill -9` of it.
    KillProvider,
    /// A worker with another partition count in its topology is started, and must refuse.
    WrongPartitions,
    /// The schema registry is gone while a worker starts.
    RegistryDown,
}

impl Kind {
    /// Every kind.
    pub const ALL: &[Self] = &[
        Self::KillWorker,
        Self::StopWorker,
        Self::PauseWorker,
        Self::ScaleWorkers,
        Self::KillIngress,
        Self::KillWarehouse,
        Self::KillBroker,
        Self::RollBrokers,
        Self::CutConnections,
        Self::StallConnections,
        Self::HoldEndTxn,
        Self::HoldTxnOffsetCommit,
        Self::LoseAnswers,
        Self::DiskFull,
        Self::CorruptState,
        Self::LoseState,
        Self::SlowProvider,
        Self::SilentProvider,
        Self::WrongProvider,
        Self::KillProvider,
        Self::WrongPartitions,
        Self::RegistryDown,
    ];

    /// As it is written in arguments and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::KillWorker => "kill-worker",
            Self::StopWorker => "stop-worker",
            Self::PauseWorker => "pause-worker",
            Self::ScaleWorkers => "scale-workers",
            Self::KillIngress => "kill-ingress",
            Self::KillWarehouse => "kill-warehouse",
            Self::KillBroker => "kill-broker",
            Self::RollBrokers => "roll-brokers",
            Self::CutConnections => "cut-connections",
            Self::StallConnections => "stall-connections",
            Self::HoldEndTxn => "hold-end-txn",
            Self::HoldTxnOffsetCommit => "hold-txn-offset-commit",
            Self::LoseAnswers => "lose-answers",
            Self::DiskFull => "disk-full",
            Self::CorruptState => "corrupt-state",
            Self::LoseState => "lose-state",
            Self::SlowProvider => "slow-provider",
            Self::SilentProvider => "silent-provider",
            Self::WrongProvider => "wrong-provider",
            Self::KillProvider => "kill-provider",
            Self::WrongPartitions => "wrong-partitions",
            Self::RegistryDown => "registry-down",
        }
    }

    /// `all`, or names with commas between.
    ///
    /// # Errors
    /// The name that is none.
    pub fn list(text: &str) -> Result<Vec<Self>, String> {
        if text == "all" {
            return Ok(Self::ALL.to_vec());
        }
        let of = |name: &str| {
            Self::ALL.iter().copied().find(|kind| kind.name() == name).ok_or_else(|| {
                let known: Vec<&str> = Self::ALL.iter().map(|kind| kind.name()).collect();
                format!("there is no fault {name}; there are all, {}", known.join(", "))
            })
        };
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(of).collect()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A generator of numbers from a seed (splitmix64): small, and the same on every machine.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 when `end` is 0.
    pub fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.bits() % (end.max(1) as u64)).unwrap_or(0)
    }

    /// A time between the two.
    pub fn between(&mut self, least: Duration, most: Duration) -> Duration {
        let span = u64::try_from(most.saturating_sub(least).as_millis()).unwrap_or(u64::MAX);
        least + Duration::from_millis(self.bits() % (span + 1))
    }
}

/// What comes next: quiet for a while, then this fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Next {
    /// How long nothing happens.
    pub quiet: Duration,
    /// What happens then.
    pub kind: Kind,
}

/// An endless plan: the kinds come in rounds, each round every kind once in an order of its own, with quiet of three to
/// ten seconds between faults, shortened to `hurry` percent.
#[derive(Clone, Debug)]
pub struct Plan {
    draw: Draw,
    kinds: Vec<Kind>,
    round: Vec<Kind>,
    hurry: u32,
}

impl Plan {
    /// From a seed; `hurry` is the percentage of the usual quiet.
    #[must_use]
    pub fn new(seed: u64, kinds: &[Kind], hurry: u32) -> Self {
        Self { draw: Draw::new(seed), kinds: kinds.to_vec(), round: Vec::new(), hurry }
    }
}

impl Iterator for Plan {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        if self.round.is_empty() {
            self.round.clone_from(&self.kinds);
            for last in (1..self.round.len()).rev() {
                let other = self.draw.below(last + 1);
                self.round.swap(last, other);
            }
        }
        let kind = self.round.pop()?;
        let quiet = self.draw.between(Duration::from_secs(3), Duration::from_secs(10));
        Some(Next { quiet: quiet * self.hurry / 100, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_plan() {
        let of = |seed| Plan::new(seed, Kind::ALL, 100).take(100).collect::<Vec<_>>();
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
    }

    #[test]
    fn every_kind_comes_as_often_as_any_other() {
        let two_rounds: Vec<Kind> =
            Plan::new(3, Kind::ALL, 100).take(2 * Kind::ALL.len()).map(|next| next.kind).collect();
        for kind in Kind::ALL {
            assert_eq!(two_rounds.iter().filter(|other| *other == kind).count(), 2, "{kind}");
        }
    }

    #[test]
    fn quiet_is_three_to_ten_seconds() {
        for next in Plan::new(5, Kind::ALL, 100).take(1_000) {
            assert!((Duration::from_secs(3)..=Duration::from_secs(10)).contains(&next.quiet), "{next:?}");
        }
        assert!(Plan::new(5, Kind::ALL, 10).take(100).all(|next| next.quiet <= Duration::from_secs(1)));
    }

    #[test]
    fn kinds_are_read_by_name() {
        assert_eq!(Kind::list("all").unwrap().len(), Kind::ALL.len());
        assert_eq!(Kind::list("kill-worker, disk-full").unwrap(), [Kind::KillWorker, Kind::DiskFull]);
        assert!(Kind::list("kill-worker,nothing").unwrap_err().contains("nothing"));
        for kind in Kind::ALL {
            assert_eq!(Kind::list(kind.name()).unwrap(), [*kind]);
        }
        assert_eq!(Plan::new(1, &[], 100).next(), None);
    }
}
