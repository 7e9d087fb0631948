//! Ids as numbers: 128 bits for an order, 64 for what is only compared. The same text gives the same number in every
//! run; the text itself is not kept.

use std::hash::{BuildHasherDefault, DefaultHasher, Hash, Hasher};

/// An order id as a number. Two of ten million orders share one with a chance of about 1 in 10^24.
pub(crate) fn id_of(id: &str) -> u128 {
    (u128::from(hash_of(&(0u8, id))) << 64) | u128::from(hash_of(&(1u8, id)))
}

/// Anything as a number.
pub(crate) fn hash_of(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// For maps whose keys are hashes already.
pub(crate) type PassThrough = BuildHasherDefault<LowBits>;

/// Takes the low half of a hash as it is.
#[derive(Default)]
pub(crate) struct LowBits(u64);

impl Hasher for LowBits {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}
