//! The numbers of the ingress: limits, time-outs and caps, with the values it runs with unless told otherwise.
//!
//! Values only; who applies each is said beside it.

use std::time::Duration;

/// What to do with a new order while its owner cannot say whether the key is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerSilent {
    /// Publish: intake settles repetitions on record, so orders are taken while a partition moves.
    Accept,
    /// Answer 503: a key that was used for another body is then never acknowledged.
    Refuse,
}

/// Limits, time-outs and caps.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Tenant of every request until sign-in exists.
    pub tenant: String,
    /// Caller of every request until sign-in exists.
    pub caller: String,
    /// Largest request body, bytes.
    pub body_max: usize,
    /// Deepest nesting of a JSON body; an order needs 3.
    pub depth_max: usize,
    /// Most lines in one order; intake has the same limit.
    pub lines_max: usize,
    /// Largest quantity in one line; intake has the same limit.
    pub quantity_max: i64,
    /// How long a record may take to become durable before the answer is 503.
    pub publish_timeout: Duration,
    /// How long the owner of an order may take to be found.
    pub lookup_timeout: Duration,
    /// What to do when it is not found by then.
    pub owner_silent: OwnerSilent,
    /// Longest `wait` of a query.
    pub wait_max: Duration,
    /// Longest `Prefer: wait` of a submit.
    pub prefer_wait_max: Duration,
    /// How long a request's header may take to arrive; also how long an idle connection stays open.
    pub header_timeout: Duration,
    /// How long a request's body may take to arrive.
    pub body_timeout: Duration,
    /// How long requests under way may take to end once the server drains.
    pub drain_timeout: Duration,
    /// Most writing requests at work at once; one more is answered 503.
    pub writes_max: usize,
    /// Most queries at work or waiting at once; one more is answered 503.
    pub queries_max: usize,
    /// Most connections open at once; one more waits in the listen queue.
    pub connections_max: usize,
    /// How many of the latest submits are remembered for repetitions that come before tracking knows the order.
    pub remembered_max: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            tenant: "default".into(),
            caller: "anonymous".into(),
            body_max: 1 << 20,
            depth_max: 8,
            lines_max: 2000,
            quantity_max: 1_000_000,
            publish_timeout: Duration::from_secs(5),
            lookup_timeout: Duration::from_secs(2),
            owner_silent: OwnerSilent::Accept,
            wait_max: Duration::from_secs(30),
            prefer_wait_max: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(20),
            writes_max: 1024,
            queries_max: 4096,
            connections_max: 8192,
            remembered_max: 65_536,
        }
    }
}
