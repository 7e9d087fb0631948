//! Who keeps the warm copy of which partition: decided by every process for itself, from what all announce. Pure; never
//! speaks to a broker.
//!
//! No leader, no assignment to agree on: for each partition all living processes that host its sub-topology and do not
//! process it are put in an order that depends on names alone (rendezvous hashing), and the first few keep a copy. Who
//! comes or goes moves the copies it gains or held, no others. Two processes that see it differently for a moment keep
//! one copy too many or too few; a copy can do no harm.

use std::collections::{BTreeMap, BTreeSet};

/// How long a process counts as living after its last word, milliseconds.
pub const LIVING_MS: i64 = 8_000;

/// A partition of a sub-topology, by name.
pub type Place = (String, i32);

/// What a process says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The sub-topologies it hosts.
    pub hosts: BTreeSet<String>,
    /// The partitions it processes.
    pub owns: BTreeSet<Place>,
}

impl Announced {
    /// As it stands in a record: `hosts NAME…`, then `owns NAME-PARTITION…`, a line each.
    #[must_use]
    pub fn to_text(&self) -> String {
        let hosts: String = self.hosts.iter().map(|name| format!(" {name}")).collect();
        let owns: String = self.owns.iter().map(|(name, partition)| format!(" {name}-{partition}")).collect();
        format!("hosts{hosts}\nowns{owns}\n")
    }

    /// The reverse; `None` for anything else.
    #[must_use]
    pub fn from_text(text: &[u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(text).ok()?.lines();
        let hosts = lines.next()?.strip_prefix("hosts")?.split_whitespace().map(str::to_owned).collect();
        let place = |text: &str| {
            let (name, partition) = text.rsplit_once('-')?;
            Some((name.to_owned(), partition.parse().ok()?))
        };
        let owns = lines.next()?.strip_prefix("owns")?.split_whitespace().map(place).collect::<Option<_>>()?;
        Some(Self { hosts, owns })
    }
}

/// The partitions that process `me` keeps copies of. `processes` are the living ones, `me` among them; `partitions` says
/// how many each sub-topology has; `standbys` is how many copies each partition shall have.
#[must_use]
pub fn copies_of(
    me: &str,
    processes: &BTreeMap<String, Announced>,
    partitions: &BTreeMap<String, i32>,
    standbys: usize,
) -> BTreeSet<Place> {
    let Some(mine) = processes.get(me) else { return BTreeSet::new() };
    let hosted = partitions.iter().filter(|(name, _)| mine.hosts.contains(*name));
    let places = hosted.flat_map(|(name, count)| (0..*count).map(move |partition| (name.clone(), partition)));
    let keeps = |place: &Place| {
        let may = processes.iter().filter(|(_, said)| said.hosts.contains(&place.0) && !said.owns.contains(place));
        let mut ranked: Vec<_> = may.map(|(name, _)| (rank(name, place), name.as_str())).collect();
        ranked.sort_unstable();
        ranked.iter().take(standbys).any(|(_, name)| *name == me)
    };
    places.filter(keeps).collect()
}

/// FNV-1a over the names, mixed so that neighbouring names spread: the same in every process and version.
fn rank(process: &str, (sub_topology, partition): &Place) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let parts = [process.as_bytes(), &[0], sub_topology.as_bytes(), &[0], &partition.to_be_bytes()];
    for byte in parts.concat() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^ (hash >> 33)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// Processes that host `orders` and share its partitions evenly.
    fn processes(count: usize, partitions: i32) -> BTreeMap<String, Announced> {
        let of = |n: usize| {
            let mine = (0..partitions).filter(|p| usize::try_from(*p).unwrap() % count == n);
            let owns = mine.map(|p| ("orders".to_owned(), p)).collect();
            (format!("worker-{n}"), Announced { hosts: BTreeSet::from(["orders".to_owned()]), owns })
        };
        (0..count).map(of).collect()
    }

    fn placed(of: &BTreeMap<String, Announced>, partitions: i32, standbys: usize) -> BTreeMap<String, BTreeSet<Place>> {
        let counts = BTreeMap::from([("orders".to_owned(), partitions), ("stock".to_owned(), 4)]);
        of.keys().map(|me| (me.clone(), copies_of(me, of, &counts, standbys))).collect()
    }

    #[test]
    fn every_partition_has_its_copies_where_it_is_not_processed() {
        for standbys in 0..4 {
            let all = processes(5, 32);
            let placed = placed(&all, 32, standbys);
            for partition in 0..32 {
                let place = ("orders".to_owned(), partition);
                let keepers: Vec<_> = placed.iter().filter(|(_, kept)| kept.contains(&place)).map(|(n, _)| n).collect();
                assert_eq!(keepers.len(), standbys);
                assert!(keepers.iter().all(|keeper| !all[*keeper].owns.contains(&place)));
            }
            let most = placed.values().map(BTreeSet::len).max().unwrap();
            assert!(most <= 14 * standbys, "{most} of {} copies in one process", 32 * standbys);
        }
    }

    #[test]
    fn two_processes_keep_each_others() {
        let placed = placed(&processes(2, 4), 4, 1);
        assert_eq!(placed["worker-0"], BTreeSet::from([("orders".to_owned(), 1), ("orders".to_owned(), 3)]));
        assert_eq!(placed["worker-1"], BTreeSet::from([("orders".to_owned(), 0), ("orders".to_owned(), 2)]));
    }

    #[test]
    fn who_comes_moves_only_what_it_gets() {
        let before = processes(4, 64);
        let mut after = before.clone();
        after.insert(
            "worker-new".into(),
            Announced { hosts: BTreeSet::from(["orders".to_owned()]), ..Announced::default() },
        );
        let (old, new) = (placed(&before, 64, 1), placed(&after, 64, 1));
        for (process, kept) in &old {
            assert!(new[process].is_subset(kept), "{process} gained a copy though a process came");
        }
        assert!(!new["worker-new"].is_empty());
    }

    #[test]
    fn nobody_keeps_what_it_does_not_host_and_one_alone_keeps_nothing_it_processes() {
        let mut all = processes(2, 4);
        all.get_mut("worker-1").unwrap().hosts = BTreeSet::from(["stock".to_owned()]);
        let placed = placed(&all, 4, 1);
        assert!(placed["worker-1"].iter().all(|(name, _)| name == "stock"));
        assert!(placed["worker-0"].iter().all(|(name, partition)| name == "orders" && partition % 2 == 1));
    }

    #[test]
    fn an_announcement_is_read_as_it_was_written() {
        let all = processes(2, 3);
        for said in all.values().chain([&Announced::default()]) {
            assert_eq!(Announced::from_text(said.to_text().as_bytes()).as_ref(), Some(said));
        }
        assert_eq!(Announced::from_text(b"http://127.0.0.1:80"), None);
        assert_eq!(Announced::from_text(b"hosts a\nowns b\n"), None);
    }
}
