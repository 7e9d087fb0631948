//! Where the groups of a new grouping must stand so that every processor goes on where it stood. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use millrace_runtime::{Offset, Topology};

use super::Grouping;

/// A partition of a topic, by name.
pub(super) type Place = (String, i32);

/// A position that a group gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Carried {
    /// Whose.
    pub sub_topology: String,
    /// Of which topic.
    pub topic: String,
    /// Of which partition.
    pub partition: i32,
    /// The next offset to read.
    pub next: Offset,
}

/// A partition that the former groups of one new group do not stand at the same offset of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differing {
    /// The group that is to read it.
    pub sub_topology: String,
    /// Which topic.
    pub topic: String,
    /// Which partition.
    pub partition: i32,
    /// The former groups and where each stands; `None` where its position is gone or was never committed.
    pub stand: Vec<(String, Option<Offset>)>,
}

impl fmt::Display for Differing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stand = self.stand.iter().map(|(sub, next)| match next {
            Some(next) => format!("{sub} at {next}"),
            None => format!("{sub} nowhere"),
        });
        let stand: Vec<_> = stand.collect();
        write!(f, "{}-{} for {}: {}", self.topic, self.partition, self.sub_topology, stand.join(", "))
    }
}

/// What is known of the former groups.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Committed positions by sub-topology.
    pub(super) committed: BTreeMap<String, BTreeMap<Place, Offset>>,
    /// Where partitions begin: a group that never committed one starts there.
    pub(super) starts: BTreeMap<Place, Offset>,
}

impl Known {
    fn committed(&self, sub_topology: &str, place: &Place) -> Option<Offset> {
        self.committed.get(sub_topology)?.get(place).copied()
    }
}

/// The positions that the changed groups of the topology get, or why they cannot.
///
/// # Errors
/// Every partition whose former readers stand at different offsets: one group has one position, and a processor that
/// stood elsewhere would do records twice or never.
pub(super) fn plan(former: &Grouping, topology: &Topology, known: &Known) -> Result<Vec<Carried>, Vec<Differing>> {
    let wanted = Grouping::of(topology);
    let changed = former.changed(&wanted);
    let (mut carried, mut differing) = (Vec::new(), Vec::new());
    for sub in topology.sub_topologies.iter().filter(|sub| changed.contains(&sub.name)) {
        for input in &sub.inputs {
            let topic = topology.topic(*input);
            let readers = sub.processors.iter().map(|id| topology.processor(*id)).filter(|p| p.inputs.contains(input));
            // A processor that is new has stood nowhere: it goes on with its group.
            let groups: BTreeSet<&String> = readers.filter_map(|p| former.sub_topology_of.get(&p.name)).collect();
            if groups.is_empty() || groups.iter().all(|group| **group == sub.name) {
                continue;
            }
            for partition in 0..sub.partitions {
                let place = (topic.name.to_string(), partition);
                let stand: Vec<_> =
                    groups.iter().map(|group| ((*group).clone(), known.committed(group, &place))).collect();
                let start = known.starts.get(&place).copied().unwrap_or(0);
                let next: BTreeSet<Offset> = stand.iter().map(|(_, next)| next.unwrap_or(start)).collect();
                let nowhere = stand.iter().all(|(_, next)| next.is_none());
                match next.first() {
                    Some(_) if nowhere && known.committed(&sub.name, &place).is_none() => {}
                    Some(next_offset) if next.len() == 1 && !nowhere => carried.push(Carried {
                        sub_topology: sub.name.clone(),
                        topic: place.0,
                        partition,
                        next: *next_offset,
                    }),
                    // Different, or gone where this group has an old one of its own, which must not be taken for it.
                    _ => differing.push(Differing { sub_topology: sub.name.clone(), topic: place.0, partition, stand }),
                }
            }
        }
    }
    if differing.is_empty() { Ok(carried) } else { Err(differing) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use millrace_runtime::{Grouping as As, parse};

    fn topology() -> Topology {
        parse(include_str!("../../../topology.toml")).unwrap()
    }

    /// Where each processor stands, and the groups' committed positions that go with it.
    #[derive(Default)]
    struct World {
        known: Known,
        grouping: Option<Grouping>,
        expected: BTreeMap<(String, Place), Offset>,
    }

    impl World {
        /// Every group reads on to these offsets of its inputs.
        fn read(&mut self, topology: &Topology, to: impl Fn(&str, &Place) -> Offset) {
            self.grouping = Some(Grouping::of(topology));
            for sub in &topology.sub_topologies {
                for input in &sub.inputs {
                    for partition in 0..sub.partitions {
                        let place = (topology.topic(*input).name.to_string(), partition);
                        let next = to(&sub.name, &place);
                        self.known.committed.entry(sub.name.clone()).or_default().insert(place.clone(), next);
                        for id in &sub.processors {
                            let spec = topology.processor(*id);
                            if spec.inputs.contains(input) {
                                self.expected.insert((spec.name.clone(), place.clone()), next);
                            }
                        }
                    }
                }
            }
        }

        /// Regroups and checks that every processor stands where it stood.
        fn regroup(&mut self, topology: &Topology) -> Result<usize, Vec<Differing>> {
            let carried = plan(self.grouping.as_ref().unwrap(), topology, &self.known)?;
            for one in &carried {
                let place = (one.topic.clone(), one.partition);
                self.known.committed.entry(one.sub_topology.clone()).or_default().insert(place, one.next);
            }
            self.grouping = Some(Grouping::of(topology));
            for ((processor, place), next) in &self.expected {
                let sub = &self.grouping.as_ref().unwrap().sub_topology_of[processor];
                assert_eq!(self.known.committed(sub, place), Some(*next), "{processor} at {place:?}");
            }
            Ok(carried.len())
        }
    }

    #[test]
    fn there_and_back_every_processor_stands_where_it_stood() {
        let (named, apart) = (topology(), topology().regrouped(As::OnePerProcessor));
        let mut world = World::default();
        world.read(&named, |_, place| 100 + Offset::from(place.1));
        // intake 1, payment 2, fulfillment 6, tracking 4 inputs, 4 partitions each; stock stays as it is.
        assert_eq!(world.regroup(&apart), Ok(52));
        // The groups apart read on; what `orders` had committed before is old now and must not be found again.
        world.read(&apart, |_, place| 200 + Offset::from(place.1));
        assert_eq!(world.regroup(&named), Ok(36));
        world.read(&named, |_, _| 300);
        assert_eq!(world.regroup(&apart), Ok(52));
    }

    #[test]
    fn former_groups_at_different_offsets_are_named_not_chosen_from() {
        let (named, apart) = (topology(), topology().regrouped(As::OnePerProcessor));
        let mut world = World::default();
        let behind = |sub: &str, place: &Place| if sub == "payment" && place.1 == 2 { 7 } else { 9 };
        world.read(&apart, behind);
        let differing = world.regroup(&named).unwrap_err();
        let text: Vec<String> = differing.iter().map(ToString::to_string).collect();
        assert_eq!(text, ["orders.accepted-2 for orders: fulfillment at 9, payment at 7, tracking at 9"]);
        world.read(&apart, |_, _| 9);
        assert_eq!(world.regroup(&named), Ok(36));
    }

    #[test]
    fn one_that_never_committed_stands_at_the_beginning() {
        let (named, apart) = (topology(), topology().regrouped(As::OnePerProcessor));
        let mut world = World::default();
        world.read(&apart, |_, _| 5);
        world.known.committed.remove("tracking");
        let former = Grouping::of(&apart);
        let differing = plan(&former, &named, &world.known).unwrap_err();
        assert_eq!(
            differing.len(),
            12,
            "three of its inputs have other readers, which have read on from 0: {differing:?}"
        );
        world.known.starts = topology()
            .topics
            .iter()
            .flat_map(|topic| (0..topic.partitions).map(|p| ((topic.name.to_string(), p), 5)))
            .collect();
        let carried = plan(&former, &named, &world.known).expect("the topics begin at 5");
        assert_eq!(carried.len(), 32, "what only tracking reads is begun at the beginning, as it would have been");
    }

    #[test]
    fn positions_that_are_gone_are_not_replaced_by_older_ones() {
        let (named, apart) = (topology(), topology().regrouped(As::OnePerProcessor));
        let mut world = World::default();
        world.read(&named, |_, _| 100);
        world.regroup(&apart).unwrap();
        let old = world.known.committed.remove("orders").unwrap();
        world.known.committed.clear();
        world.known.committed.insert("orders".into(), old);
        let differing = world.regroup(&named).unwrap_err();
        assert!(differing[0].to_string().ends_with("for orders: intake nowhere"), "{}", differing[0]);
    }

    #[test]
    fn before_anything_was_done_there_is_nothing_to_carry() {
        let (named, apart) = (topology(), topology().regrouped(As::OnePerProcessor));
        let known = Known::default();
        assert_eq!(plan(&Grouping::of(&named), &apart, &known), Ok(vec![]));
        assert_eq!(plan(&Grouping::of(&apart), &named, &known), Ok(vec![]));
    }

    #[test]
    fn a_new_processor_goes_on_with_its_group() {
        let named = topology();
        let mut former = Grouping::of(&named);
        former.sub_topology_of.remove("tracking");
        let mut world = World::default();
        world.read(&named, |_, _| 3);
        assert_eq!(plan(&former, &named, &world.known), Ok(vec![]), "orders keeps its own positions");
    }
}
