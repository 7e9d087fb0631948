//! Which processors form which sub-topology, as the application last agreed on it: one record on a compacted topic.
//! Owns what is recorded and what a member of a group may do by it; carrying positions over is [`regroup`]'s.
//!
//! ```text
//!   none ──first apply──▶ settled(A) ──apply of B──▶ moving(A) ──one transaction──▶ settled(B)
//!                              ▲                         │        (positions and record together)
//!                              └────────── refused ──────┘
//! ```
//! Two rules keep every processor at one place, whatever crashes when:
//! - **Who joins a group, joins first and reads the record after** (to the end of the topic, each time partitions come).
//!   While it says `moving`, the member waits; where it says another grouping, the member stops.
//! - **Who regroups, writes `moving` first and looks for members after.** So of a member and a regrouping at the same
//!   time at least one sees the other, and positions are read and written while nobody can move them.

mod plan;
pub mod regroup;

use std::collections::{BTreeMap, BTreeSet};

pub use self::plan::{Carried, Differing};
use millrace_runtime::Topology;

/// Key of the one record.
pub(crate) const KEY: &[u8] = b"grouping";

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// Whether positions are being carried over to another grouping.
    pub phase: Phase,
    /// The sub-topology of each processor; while positions are carried over, the former one.
    pub sub_topology_of: BTreeMap<String, String>,
}

/// See [`Grouping::phase`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Processors run grouped like this.
    Settled,
    /// Nobody may process: positions are on their way.
    Moving,
}

/// What a member of a group may do by the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Process: its processors are the group's.
    Agreed,
    /// Wait: positions are on their way.
    Moving,
    /// Stop: the group has these processors, not the ones that this member knows.
    Other(Vec<String>),
}

impl Grouping {
    /// As the topology says.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        let named = topology.sub_topologies.iter().flat_map(|sub| {
            let names = sub.processors.iter().map(|id| topology.processor(*id).name.clone());
            names.map(|name| (name, sub.name.clone()))
        });
        Self { phase: Phase::Settled, sub_topology_of: named.collect() }
    }

    /// The processors of a sub-topology.
    #[must_use]
    pub fn processors(&self, sub_topology: &str) -> BTreeSet<&str> {
        let members = self.sub_topology_of.iter().filter(|(_, sub)| *sub == sub_topology);
        members.map(|(processor, _)| processor.as_str()).collect()
    }

    /// Every sub-topology whose processors differ between the two.
    #[must_use]
    pub fn changed(&self, other: &Self) -> BTreeSet<String> {
        let all: BTreeSet<&String> = self.sub_topology_of.values().chain(other.sub_topology_of.values()).collect();
        all.into_iter().filter(|sub| self.processors(sub) != other.processors(sub)).cloned().collect()
    }

    /// What a member of the sub-topology may do, whose own topology is `own`.
    pub(crate) fn standing(recorded: Option<&Self>, own: &Self, sub_topology: &str) -> Standing {
        match recorded {
            // Never applied: nothing has been agreed on, so nothing can contradict it.
            None => Standing::Agreed,
            Some(recorded) if recorded.phase == Phase::Moving => Standing::Moving,
            Some(recorded) if recorded.processors(sub_topology) == own.processors(sub_topology) => Standing::Agreed,
            Some(recorded) => {
                Standing::Other(recorded.processors(sub_topology).into_iter().map(str::to_owned).collect())
            }
        }
    }

    /// As it stands in the record: the phase, then a line `processor sub-topology` each.
    pub(crate) fn to_text(&self) -> String {
        let phase = match self.phase {
            Phase::Settled => "settled",
            Phase::Moving => "moving",
        };
        let lines = self.sub_topology_of.iter().map(|(processor, sub)| format!("{processor} {sub}\n"));
        std::iter::once(format!("{phase}\n")).chain(lines).collect()
    }

    /// The reverse; `None` for what this program did not write.
    pub(crate) fn from_text(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        let phase = match lines.next()? {
            "settled" => Phase::Settled,
            "moving" => Phase::Moving,
            _ => return None,
        };
        let pairs = lines.map(|line| line.split_once(' ').map(|(p, sub)| (p.to_owned(), sub.to_owned())));
        Some(Self { phase, sub_topology_of: pairs.collect::<Option<_>>()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grouping(pairs: &[(&str, &str)]) -> Grouping {
        let sub_topology_of = pairs.iter().map(|(p, s)| ((*p).to_owned(), (*s).to_owned())).collect();
        Grouping { phase: Phase::Settled, sub_topology_of }
    }

    #[test]
    fn the_record_is_read_as_it_was_written() {
        let mut recorded = grouping(&[("intake", "orders"), ("stock", "stock")]);
        assert_eq!(Grouping::from_text(recorded.to_text().as_bytes()), Some(recorded.clone()));
        recorded.phase = Phase::Moving;
        assert_eq!(Grouping::from_text(recorded.to_text().as_bytes()), Some(recorded));
        assert_eq!(Grouping::from_text(b"resting\nintake orders\n"), None);
        assert_eq!(Grouping::from_text(b"settled\nintake\n"), None);
    }

    #[test]
    fn a_member_processes_only_what_its_group_was_agreed_to_have() {
        let own = grouping(&[("a", "one"), ("b", "one"), ("c", "two")]);
        assert_eq!(Grouping::standing(None, &own, "one"), Standing::Agreed);
        assert_eq!(Grouping::standing(Some(&own.clone()), &own, "one"), Standing::Agreed);
        let apart = grouping(&[("a", "one"), ("b", "other"), ("c", "two")]);
        assert_eq!(Grouping::standing(Some(&apart), &own, "one"), Standing::Other(vec!["a".into()]));
        assert_eq!(Grouping::standing(Some(&apart), &own, "two"), Standing::Agreed, "its processors are the same");
        let moving = Grouping { phase: Phase::Moving, ..own.clone() };
        assert_eq!(Grouping::standing(Some(&moving), &own, "two"), Standing::Moving);
    }

    #[test]
    fn a_group_that_gains_or_loses_a_processor_has_changed() {
        let one = grouping(&[("a", "one"), ("b", "one"), ("c", "two")]);
        let other = grouping(&[("a", "one"), ("b", "b"), ("c", "two")]);
        assert_eq!(one.changed(&other), BTreeSet::from(["b".to_owned(), "one".to_owned()]));
        assert!(one.changed(&one).is_empty());
    }
}
