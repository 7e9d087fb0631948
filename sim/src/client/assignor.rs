//! The cooperative assignor of the group's leader: who gets which partition of the leading topic. Balanced, moves as
//! little as it can, and gives nothing away that another has not given up yet. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

/// What a member tells the leader: the partitions it owns, and since which generation.
pub(crate) fn say_owned(generation: i32, owned: &BTreeSet<i32>) -> Bytes {
    let mut bytes = generation.to_be_bytes().to_vec();
    for partition in owned {
        bytes.extend(partition.to_be_bytes());
    }
    bytes.into()
}

fn numbers(bytes: &[u8]) -> impl Iterator<Item = i32> {
    bytes.chunks_exact(4).map(|n| i32::from_be_bytes([n[0], n[1], n[2], n[3]]))
}

/// An assignment on the wire, and back.
pub(crate) fn say_assigned(partitions: &BTreeSet<i32>) -> Bytes {
    partitions.iter().flat_map(|partition| partition.to_be_bytes()).collect::<Vec<u8>>().into()
}

pub(crate) fn read_assigned(bytes: &[u8]) -> BTreeSet<i32> {
    numbers(bytes).collect()
}

/// An assignment of `partitions` partitions to members, by id and metadata.
pub(crate) fn assign(partitions: i32, members: &[(String, Bytes)]) -> Vec<(String, Bytes)> {
    let mut owners: BTreeMap<i32, (i32, usize)> = BTreeMap::new();
    for (place, (_, metadata)) in members.iter().enumerate() {
        let mut said = numbers(metadata);
        let generation = said.next().unwrap_or(-1);
        for partition in said {
            // Of two that claim it, the newer generation knows better.
            let entry = owners.entry(partition).or_insert((generation, place));
            if generation > entry.0 {
                *entry = (generation, place);
            }
        }
    }
    let count = members.len().max(1);
    let all = usize::try_from(partitions).unwrap_or(0);
    let most = |taken: usize| if taken < all % count { all / count + 1 } else { all / count };
    // Those who own most are served first with the larger shares, so that little moves.
    let mut order: Vec<usize> = (0..members.len()).collect();
    let owned = |place: usize| owners.values().filter(|(_, owner)| *owner == place).count();
    order.sort_by_key(|place| std::cmp::Reverse(owned(*place)));
    let mut shares = vec![BTreeSet::new(); members.len()];
    let mut room = vec![0; members.len()];
    for (rank, place) in order.iter().enumerate() {
        room[*place] = most(rank);
    }
    let mut free = Vec::new();
    for partition in 0..partitions {
        match owners.get(&partition) {
            Some((_, owner)) if shares[*owner].len() < room[*owner] => {
                shares[*owner].insert(partition);
            }
            _ => free.push(partition),
        }
    }
    for partition in free {
        let Some(place) = (0..members.len()).find(|place| shares[*place].len() < room[*place]) else { continue };
        room[place] -= usize::from(owners.contains_key(&partition));
        // It moves in the next round, when its owner has given it up.
        if !owners.contains_key(&partition) {
            shares[place].insert(partition);
        }
    }
    members.iter().zip(shares).map(|((id, _), share)| (id.clone(), say_assigned(&share))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(owned: &[&[i32]]) -> Vec<Vec<i32>> {
        let members: Vec<_> = owned
            .iter()
            .enumerate()
            .map(|(n, owned)| (n.to_string(), say_owned(1, &owned.iter().copied().collect())))
            .collect();
        assign(4, &members).iter().map(|(_, bytes)| read_assigned(bytes).into_iter().collect()).collect()
    }

    #[test]
    fn new_members_share_evenly() {
        assert_eq!(round(&[&[], &[]]), [vec![0, 1], vec![2, 3]]);
    }

    #[test]
    fn what_is_owned_moves_in_two_rounds() {
        assert_eq!(round(&[&[0, 1, 2, 3], &[]]), [vec![0, 1], vec![]]);
        assert_eq!(round(&[&[0, 1], &[]]), [vec![0, 1], vec![2, 3]]);
    }

    #[test]
    fn what_is_balanced_stays() {
        assert_eq!(round(&[&[1, 3], &[0, 2]]), [vec![1, 3], vec![0, 2]]);
    }
}
