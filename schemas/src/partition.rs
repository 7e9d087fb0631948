//! Which partition a key is on, as Java clients decide it. Owns the hash; never knows how many partitions a topic has.

/// The partition of a key among `partitions` (at least 1; anything less counts as 1): Kafka's default for keyed records.
pub fn murmur2_partition(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & 0x7fff_ffff) as i32 % partitions.max(1)
}

/// MurmurHash2, 32 bits, with Kafka's seed.
pub fn murmur2(bytes: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const MULTIPLIER: u32 = 0x5bd1_e995;
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(MULTIPLIER);
        word ^= word >> 24;
        hash = hash.wrapping_mul(MULTIPLIER) ^ word.wrapping_mul(MULTIPLIER);
    }
    if !rest.is_empty() {
        for (position, &byte) in rest.iter().enumerate() {
            hash ^= u32::from(byte) << (8 * position);
        }
        hash = hash.wrapping_mul(MULTIPLIER);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(MULTIPLIER);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Known hashes of Java's client.
    #[test]
    fn hashes_as_kafka_does() {
        let known: [(&str, i32); 6] = [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ];
        for (key, hash) in known {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_negative_hash_loses_its_sign_not_its_magnitude() {
        assert_eq!(murmur2_partition(b"21", 10), (-973_932_308_i32 & 0x7fff_ffff) % 10);
        assert_ne!(murmur2_partition(b"21", 10), 973_932_308 % 10);
    }

    #[test]
    fn partitions_are_in_range_whatever_is_asked() {
        for partitions in [i32::MIN, -1, 0, 1, 2, 12, i32::MAX] {
            for key in ["", "order-1", "order-2"] {
                let partition = murmur2_partition(key.as_bytes(), partitions);
                assert!((0..partitions.max(1)).contains(&partition), "{key} of {partitions}: {partition}");
            }
        }
    }
}
