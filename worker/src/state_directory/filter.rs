//! A Bloom filter over the keys of a run: says for certain that a key is not there, or that it may be. Owns its bits and
//! the hash they stand on, which are kept on disk and so must never change; see Bloom, "Space/time trade-offs in hash coding
//! with allowable errors" (1970), and Kirsch and Mitzenmacher, "Less hashing, same performance" (2006), for two hashes
//! that stand for all.

/// Bits for each key: about one key in a hundred that is not there seems to be.
const BITS_PER_KEY: usize = 10;
/// Bits that are set for each key.
const PROBES: u64 = 7;
const LEAST_BYTES: usize = 8;

/// The keys of one run, approximately.
#[derive(Debug)]
pub(super) struct Filter(Vec<u8>);

impl Filter {
    /// An empty one with room for so many keys.
    pub(super) fn for_keys(count: usize) -> Self {
        Self(vec![0; (count * BITS_PER_KEY).div_ceil(8).max(LEAST_BYTES)])
    }

    /// Adds the hash of a key.
    pub(super) fn add(&mut self, hash: u64) {
        for bit in self.bits(hash) {
            self.0[bit / 8] |= 1 << (bit % 8);
        }
    }

    /// As it was kept; `None` when that cannot be one.
    pub(super) fn from_bytes(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() >= LEAST_BYTES).then_some(Self(bytes))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether a key of this hash may be there.
    pub(super) fn may_have(&self, hash: u64) -> bool {
        self.bits(hash).all(|bit| self.0[bit / 8] & (1 << (bit % 8)) != 0)
    }

    fn bits(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let count = self.0.len() as u64 * 8;
        let step = hash.rotate_left(32) | 1;
        (0..PROBES).map(move |probe| {
            // The high half of the product: a number below `count`.
            let at = (u128::from(hash.wrapping_add(step.wrapping_mul(probe))) * u128::from(count)) >> 64;
            usize::try_from(at).expect("below the number of bits")
        })
    }
}

/// FNV-1a, then mixed so that every bit of the key moves every bit of the hash (the finalizer of SplitMix64).
pub(super) fn hash(key: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_key_is_found_and_few_others() {
        let of = |name: &str, number: u32| hash(format!("{name}-{number}").as_bytes());
        let keys: Vec<u64> = (0..20_000).map(|number| of("order", number)).collect();
        let mut filter = Filter::for_keys(keys.len());
        keys.iter().for_each(|key| filter.add(*key));
        let filter = Filter::from_bytes(filter.bytes().to_vec()).unwrap();
        assert!(keys.iter().all(|key| filter.may_have(*key)));
        let wrong = (0..20_000).filter(|number| filter.may_have(of("other", *number))).count();
        assert!(wrong < 20_000 / 50, "{wrong} of 20,000");
    }

    #[test]
    fn one_without_keys_has_nothing() {
        assert!(!Filter::for_keys(0).may_have(hash(b"a")));
    }

    /// Filters on disks stand on it.
    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash(b""), 0xf52a_15e9_a9b5_e89b);
        assert_eq!(hash(b"order-1"), 0xedf2_3fc2_e07f_a9d3);
    }
}
