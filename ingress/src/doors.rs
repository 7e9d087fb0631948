//! What the ingress asks of the rest of the program: make a record durable, and find an order.
//!
//! Only traits and the plain values that pass through them. Never an implementation: the program wires them.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use serde::Deserialize;

/// The answer of a door: a boxed future, so that doors can be held as `Arc<dyn ..>`.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// One record on its way to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Topic to write to.
    pub topic: &'static str,
    /// Key, plain UTF-8; the partition follows from it (murmur2).
    pub key: String,
    /// Framed Avro bytes.
    pub value: Vec<u8>,
    /// Record headers: `ce_*`, `x-request-id` and, when the client sent them, `traceparent` and `tracestate`.
    pub headers: Vec<(&'static str, String)>,
}

/// Makes records durable.
pub trait Publisher: Send + Sync + 'static {
    /// Answers once the record is durable (acks=all) or is known not to be acknowledged.
    fn publish(&self, record: Outgoing) -> Answer<'_, Result<(), PublishError>>;
}

/// Why a record was not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// Sent, but the broker has not said that it has it. The record may be durable or may yet become so.
    #[error("the broker did not acknowledge the record; it may or may not be stored, so send the same again")]
    NotAcknowledged,
    /// Never sent: the producer's queue has no room. The record is certainly not stored.
    #[error("the producer's queue is full; nothing was sent, so try again in a moment")]
    QueueFull,
}

/// How long to wait, and for which version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitFor {
    /// Answer at once when the order has at least this version; 1 waits for an order to become known.
    pub min_version: u64,
    /// Otherwise answer with what is known when this much time has passed.
    pub at_most: Duration,
}

/// Finds orders, wherever their owner runs.
pub trait Orders: Send + Sync + 'static {
    /// The order as tracking knows it; `None` when its owner does not know it. With `wait`, answers when the order
    /// has reached the version or the time is up, whichever is first; answering earlier is allowed.
    fn find<'a>(
        &'a self,
        order_id: &'a str,
        wait: Option<WaitFor>,
    ) -> Answer<'a, Result<Option<KnownOrder>, Unavailable>>;
}

/// The owner of an order cannot be asked now: its partition is moving or restoring, or its process is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the owner of the order cannot answer now ({0}); ask again in a moment")]
pub struct Unavailable(
    /// What stands in the way, for the log.
    pub String,
);

/// An order as tracking knows it: its JSON text, served as it is, and the few fields the ingress looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownOrder {
    /// Number of events folded so far; grows with every change.
    pub version: u64,
    /// Status in tracking's words, for example `confirmed`.
    pub status: String,
    /// Fingerprint of the body that was placed; `None` while tracking has heard of the order only from others.
    pub fingerprint: Option<String>,
    /// The whole view as JSON text.
    pub json: String,
}

impl KnownOrder {
    /// Reads the view that tracking keeps.
    ///
    /// # Errors
    /// When the text is not a JSON object with `version` and `status`.
    pub fn from_json(json: String) -> Result<KnownOrder, serde_json::Error> {
        #[derive(Deserialize)]
        struct Head {
            version: u64,
            status: String,
            #[serde(default)]
            fingerprint: Option<String>,
        }
        let head: Head = serde_json::from_str(&json)?;
        let fingerprint = head.fingerprint.filter(|text| !text.is_empty());
        Ok(KnownOrder { version: head.version, status: head.status, fingerprint, json })
    }
}
