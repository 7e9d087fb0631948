//! The idempotency key of a request, the ids that follow from it, and what this process remembers of recent ones.
//!
//! The memory only shortens the moment until tracking knows an order; it is bounded, lost at a restart, and never
//! the truth: that is intake's.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::request::Parts;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::problem::{Problem, ProblemType};

/// Longest key, characters.
const KEY_MAX: usize = 255;

/// 1 to 255 visible ASCII characters that the client chose for one request and its repetitions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

/// The header is there and cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an idempotency key is 1 to 255 visible ASCII characters, bare or in double quotes")]
pub struct MalformedKey;

impl IdempotencyKey {
    /// The name of the header.
    pub const HEADER: &'static str = "idempotency-key";

    /// Reads a header value: `"text"` as a structured field string, or the bare text. Both mean the same key.
    ///
    /// # Errors
    /// [`MalformedKey`] when it is empty, too long, or holds anything but visible ASCII.
    pub fn parse(header: &str) -> Result<IdempotencyKey, MalformedKey> {
        let header = header.trim_matches([' ', '\t']);
        let text = match header.strip_prefix('"') {
            Some(rest) => unquote(rest)?,
            None => header.to_owned(),
        };
        let fits = (1..=KEY_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(IdempotencyKey(text)) } else { Err(MalformedKey) }
    }

    /// The key of a request; `None` when it has none.
    pub(crate) fn of(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, MalformedKey> {
        let mut values = headers.get_all(Self::HEADER).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(MalformedKey);
        }
        IdempotencyKey::parse(value.to_str().map_err(|_| MalformedKey)?).map(Some)
    }

    /// The key without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<IdempotencyKey, Problem> {
        match IdempotencyKey::of(&parts.headers) {
            Ok(Some(key)) => Ok(key),
            Ok(None) => Err(ProblemType::KeyMissing.into()),
            Err(MalformedKey) => Err(ProblemType::KeyMalformed.into()),
        }
    }
}

/// The inside of a quoted string whose opening quote is gone.
fn unquote(rest: &str) -> Result<String, MalformedKey> {
    let mut text = String::with_capacity(rest.len());
    let mut chars = rest.chars();
    loop {
        match chars.next() {
            Some('"') if chars.as_str().is_empty() => return Ok(text),
            Some('\\') => match chars.next() {
                Some(c @ ('"' | '\\')) => text.push(c),
                _ => return Err(MalformedKey),
            },
            Some('"') | None => return Err(MalformedKey),
            Some(c) => text.push(c),
        }
    }
}

/// The id of the order that a (tenant, caller, key) places: always the same one, on every process.
pub fn order_id(tenant: &str, caller: &str, key: &IdempotencyKey) -> Uuid {
    derived_id("millrace/order", &[tenant, caller, key.as_str()])
}

/// A UUIDv8 from SHA-256 over the purpose and the parts, each with its length, so that no two lists look alike.
pub(crate) fn derived_id(purpose: &str, parts: &[&str]) -> Uuid {
    let mut hash = Sha256::new();
    for part in std::iter::once(&purpose).chain(parts) {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    let digest = hash.finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Uuid::new_v8(bytes)
}

/// What this process remembers of recent submits, by the id that follows from their key.
pub struct Submits {
    inner: Mutex<Inner>,
    remembered_max: usize,
}

#[derive(Default)]
struct Inner {
    in_flight: HashSet<Uuid>,
    remembered: HashMap<Uuid, Remembered>,
    oldest_first: VecDeque<Uuid>,
}

/// How a submit ended that this process remembers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remembered {
    /// Its record is durable.
    Acknowledged {
        /// Of its body.
        fingerprint: String,
    },
    /// Its record was sent and not acknowledged: it may exist.
    Unsettled {
        /// Of its body.
        fingerprint: String,
    },
}

/// What a submit meets.
pub(crate) enum Claim {
    /// Nobody else works on this id now; with what is remembered of it.
    Yours(Ticket, Option<Remembered>),
    /// Another request works on this id.
    InFlight,
}

impl Submits {
    /// Nothing yet, and later as many as this.
    pub fn new(remembered_max: usize) -> Arc<Submits> {
        Arc::new(Submits { inner: Mutex::default(), remembered_max: remembered_max.max(1) })
    }

    /// Takes an id for as long as the ticket lives.
    pub(crate) fn claim(self: &Arc<Self>, id: Uuid) -> Claim {
        let mut inner = self.lock();
        if !inner.in_flight.insert(id) {
            return Claim::InFlight;
        }
        let remembered = inner.remembered.get(&id).cloned();
        Claim::Yours(Ticket { submits: Arc::clone(self), id }, remembered)
    }

    /// Whether a record under this id was acknowledged here not long ago.
    pub(crate) fn was_acknowledged(&self, id: Uuid) -> bool {
        matches!(self.lock().remembered.get(&id), Some(Remembered::Acknowledged { .. }))
    }

    /// No step inside the lock can leave it half done, so a poisoned lock is as good as any.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to submit under one id; given back when dropped.
pub(crate) struct Ticket {
    submits: Arc<Submits>,
    id: Uuid,
}

impl Ticket {
    /// Keeps how it ended, and forgets the oldest when there are too many.
    pub(crate) fn remember(&self, end: Remembered) {
        let mut inner = self.submits.lock();
        let inner = &mut *inner;
        match inner.remembered.entry(self.id) {
            Entry::Occupied(mut known) => {
                known.insert(end);
            }
            Entry::Vacant(place) => {
                place.insert(end);
                inner.oldest_first.push_back(self.id);
            }
        }
        while inner.oldest_first.len() > self.submits.remembered_max {
            if let Some(oldest) = inner.oldest_first.pop_front() {
                inner.remembered.remove(&oldest);
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.submits.lock().in_flight.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> IdempotencyKey {
        IdempotencyKey::parse(text).unwrap()
    }

    #[test]
    fn a_key_is_the_same_with_and_without_quotes() {
        assert_eq!(key("\"8e03978e-40d5\""), key("8e03978e-40d5"));
        assert_eq!(key(r#""a\"b\\c""#).as_str(), r#"a"b\c"#);
        assert_eq!(key("  x ").as_str(), "x");
        assert_eq!(key(&"k".repeat(255)).as_str().len(), 255);
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "k".repeat(256);
        for text in ["", "\"\"", "\"open", "a b", "\"a b\"", "\"a\";p=1", "\"a\"b", r#""a\x""#, "käse", &long] {
            assert_eq!(IdempotencyKey::parse(text), Err(MalformedKey), "{text}");
        }
    }

    #[test]
    fn an_order_id_is_a_function_of_tenant_caller_and_key() {
        let id = order_id("default", "anonymous", &key("k-1"));
        assert_eq!(id.get_version_num(), 8);
        assert_eq!(id, order_id("default", "anonymous", &key("k-1")));
        // Stored by clients and used as the record's key: this value must never change.
        assert_eq!(id.to_string(), "74f47c63-8f0d-8089-a92a-b7857ab75bbf");
        for other in [
            order_id("default", "anonymous", &key("k-2")),
            order_id("default", "someone", &key("k-1")),
            order_id("other", "anonymous", &key("k-1")),
            order_id("defaulta", "nonymous", &key("k-1")),
        ] {
            assert_ne!(id, other);
        }
    }

    #[test]
    fn the_memory_is_bounded_and_forgets_the_oldest() {
        let submits = Submits::new(2);
        let ids = [1, 2, 3].map(Uuid::from_u128);
        for id in ids {
            let Claim::Yours(ticket, None) = submits.claim(id) else { panic!("nothing is known of {id}") };
            ticket.remember(Remembered::Unsettled { fingerprint: "f".into() });
            ticket.remember(Remembered::Acknowledged { fingerprint: "f".into() });
        }
        assert_eq!(ids.map(|id| submits.was_acknowledged(id)), [false, true, true]);
    }

    #[test]
    fn a_claim_excludes_others_until_it_is_dropped() {
        let submits = Submits::new(2);
        let id = Uuid::from_u128(7);
        let Claim::Yours(ticket, _) = submits.claim(id) else { panic!("free") };
        assert!(matches!(submits.claim(id), Claim::InFlight));
        assert!(matches!(submits.claim(Uuid::from_u128(8)), Claim::Yours(..)));
        drop(ticket);
        assert!(matches!(submits.claim(id), Claim::Yours(..)));
    }
}
