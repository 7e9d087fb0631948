//! HTTP in, one record out; orders as people ask for them.
//!
//! The ingress turns a request into exactly one record, answers only once that record is durable, and reads an
//! order from whoever owns it. It decides nothing about an order, keeps no order in memory and speaks to neither
//! Kafka nor disk: the program hands it two doors ([`Publisher`], [`Orders`]) and merges its [`app`] with the
//! routes for health and metrics.
//!
//! There is no sign-in yet, so [`bind`] and [`serve`] take loopback addresses only, and requests that a web page
//! of another origin sends are refused.
//!
//! Reading order: [`app`] lists the routes; `submit` places an order; `acceptance` says when a submit is new, a
//! repetition or a conflict; `query` and `watch` read; `cancel` and `operators` produce the other records;
//! `problem` lists every error.

mod acceptance;
mod app;
mod body;
mod cancel;
mod card;
mod context;
mod doors;
mod fields;
mod idempotency;
mod json;
mod operators;
mod problem;
mod query;
mod serve;
mod settings;
mod status;
mod submit;
mod watch;

#[cfg(test)]
mod tests;

pub use acceptance::{Accepted, Taken, Verdict};
pub use app::{Ingress, app};
pub use doors::{Answer, KnownOrder, Orders, Outgoing, PublishError, Publisher, Unavailable, WaitFor};
pub use idempotency::{IdempotencyKey, MalformedKey, Submits, order_id};
pub use problem::{Problem, ProblemType};
pub use serve::{Drain, Drained, ServeError, bind, serve};
pub use settings::{OwnerSilent, Settings};
pub use status::Status;
pub use submit::placed;
