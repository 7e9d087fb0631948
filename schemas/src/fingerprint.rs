//! Tells whether two submits of one order id are the same order. Owns the canonical form; never compares or decides.

use sha2::{Digest, Sha256};

use crate::{Money, OrderPlaced};

/// Gathers fields as `name`, length, value, so that no two different orders gather the same bytes. A field that is not there
/// adds nothing: an optional field added later does not change the fingerprints of orders without it. Gathered first and
/// hashed at once: to feed a hash a few bytes at a time costs as much as to hash them.
struct Canonical(Vec<u8>);

impl Canonical {
    fn bytes(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.extend_from_slice(&(part.len() as u64).to_be_bytes());
            self.0.extend_from_slice(part);
        }
    }

    fn text(&mut self, name: &str, value: &str) {
        self.bytes(name, value.as_bytes());
    }

    fn number(&mut self, name: &str, value: i64) {
        self.bytes(name, &value.to_be_bytes());
    }
}

impl OrderPlaced {
    /// SHA-256 over every field but `order_id` and `placed_at`, in a canonical form: the first 16 bytes in lower hex.
    /// Lines count in the order they were sent.
    pub fn fingerprint(&self) -> String {
        let OrderPlaced {
            order_id: _,
            customer_id,
            currency,
            lines,
            payment_method,
            expected_total,
            channel,
            placed_at: _,
        } = self;
        let mut canonical = Canonical(Vec::with_capacity(512));
        canonical.text("customer_id", customer_id);
        canonical.text("currency", currency);
        for line in lines {
            canonical.text("line.sku", &line.sku);
            canonical.number("line.quantity", i64::from(line.quantity));
        }
        canonical.text("payment_method", payment_method);
        if let Some(Money { minor, currency }) = expected_total {
            canonical.number("expected_total.minor", *minor);
            canonical.text("expected_total.currency", currency);
        }
        canonical.text("channel", channel);
        hex(&Sha256::digest(&canonical.0)[..16])
    }
}

/// Bytes as lower hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}
