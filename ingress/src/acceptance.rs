//! Takes a submit exactly once: is it new, a repetition, or another body under a used key?
//!
//! [`decide`] is the whole rule, and [`Taken`] a submit from its claim to its end, without I/O: the simulation takes
//! submits through it as this room does. A record is answered for only when it is durable, and never kept in memory for
//! later. The last word between two bodies that race through two processes is intake's.

use std::sync::Arc;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::timeout;
use uuid::Uuid;

use crate::app::Ingress;
use crate::doors::{Outgoing, PublishError};
use crate::idempotency::{Claim, Remembered, Submits, Ticket};
use crate::problem::{Problem, ProblemType};
use crate::settings::OwnerSilent;
use crate::watch;

const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// A submit on its way to a record.
pub(crate) struct Submit {
    /// Follows from the key; the same for every repetition.
    pub(crate) id: Uuid,
    /// Of the body, without what changes from try to try.
    pub(crate) fingerprint: String,
    /// Who may know it from before.
    pub(crate) known_by: KnownBy,
    /// What is published when it is new.
    pub(crate) record: Outgoing,
}

/// Who knows whether a submit was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownBy {
    /// The owner of the order with this id, and the memory of this process.
    Tracking,
    /// Only the memory of this process.
    ThisProcess,
}

/// How a submit was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Its record is durable now.
    New,
    /// It was durable before; nothing was published.
    Repeated,
}

impl Accepted {
    /// Says in the answer when it is that of the first time.
    pub(crate) fn mark(self, headers: &mut HeaderMap) {
        match self {
            Accepted::New => {}
            Accepted::Repeated => {
                headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
            }
        }
    }
}

/// What a submit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// New, or sent before and never acknowledged.
    Publish,
    /// Durable already.
    Repetition,
    /// Its key was used for another body.
    OtherBody,
}

/// A submit that nobody else in this process works on; given up when dropped.
pub struct Taken {
    ticket: Ticket,
    remembered: Option<Remembered>,
    fingerprint: String,
}

impl Taken {
    /// Takes the submit of this id, whose body has this fingerprint; `None` while another works on the id.
    pub fn claim(submits: &Arc<Submits>, id: Uuid, fingerprint: String) -> Option<Taken> {
        match submits.claim(id) {
            Claim::Yours(ticket, remembered) => Some(Taken { ticket, remembered, fingerprint }),
            Claim::InFlight => None,
        }
    }

    /// What it is, by the fingerprint that tracking knows of its order, if it knows one.
    #[must_use]
    pub fn judge(&self, known: Option<&str>) -> Verdict {
        decide(known, self.remembered.as_ref(), &self.fingerprint)
    }

    /// Its record was published, or not. What was sent is remembered.
    ///
    /// # Errors
    /// What came of publishing it.
    pub fn published(self, outcome: Result<(), PublishError>) -> Result<Accepted, PublishError> {
        let Taken { ticket, fingerprint, .. } = self;
        match outcome {
            Ok(()) => ticket.remember(Remembered::Acknowledged { fingerprint }),
            Err(PublishError::NotAcknowledged) => ticket.remember(Remembered::Unsettled { fingerprint }),
            Err(PublishError::QueueFull) => {}
        }
        outcome.map(|()| Accepted::New)
    }
}

/// The rule: what tracking knows outweighs what this process remembers. A record that was sent and not acknowledged
/// is sent again for the same body, and keeps the key from another.
pub(crate) fn decide(known: Option<&str>, remembered: Option<&Remembered>, fingerprint: &str) -> Verdict {
    let (first, same) = match (known, remembered) {
        (None, None) => return Verdict::Publish,
        (Some(known), _) => (known, Verdict::Repetition),
        (None, Some(Remembered::Acknowledged { fingerprint })) => (fingerprint.as_str(), Verdict::Repetition),
        (None, Some(Remembered::Unsettled { fingerprint })) => (fingerprint.as_str(), Verdict::Publish),
    };
    if first == fingerprint { same } else { Verdict::OtherBody }
}

/// Takes a submit. Runs to its end also when the client hangs up, so that what was sent is remembered.
pub(crate) async fn accept(ingress: &Arc<Ingress>, submit: Submit) -> Result<Accepted, Problem> {
    let ingress = Arc::clone(ingress);
    let id = submit.id;
    match tokio::spawn(async move { accept_here(&ingress, submit).await }).await {
        Ok(outcome) => outcome,
        Err(error) => {
            tracing::error!(%id, %error, "a submit ended without an answer; its record may be stored");
            Err(ProblemType::Internal.into())
        }
    }
}

async fn accept_here(ingress: &Ingress, submit: Submit) -> Result<Accepted, Problem> {
    let Submit { id, fingerprint, known_by, record } = submit;
    let Some(taken) = Taken::claim(ingress.submits(), id, fingerprint) else {
        return Err(ProblemType::InFlight.into());
    };
    let known = match known_by {
        KnownBy::Tracking => known_fingerprint(ingress, id).await?,
        KnownBy::ThisProcess => None,
    };
    match taken.judge(known.as_deref()) {
        Verdict::Repetition => Ok(Accepted::Repeated),
        Verdict::OtherBody => Err(ProblemType::KeyReused.into()),
        Verdict::Publish => Ok(taken.published(publish(ingress, record).await)?),
    }
}

async fn known_fingerprint(ingress: &Ingress, id: Uuid) -> Result<Option<String>, Problem> {
    match watch::find_now(ingress, &id.to_string()).await {
        Ok(known) => Ok(known.and_then(|order| order.fingerprint)),
        Err(silent) => match ingress.settings().owner_silent {
            OwnerSilent::Refuse => Err(ProblemType::OwnerUnavailable.into()),
            OwnerSilent::Accept => {
                tracing::warn!(order = %id, reason = %silent, "taken without asking whether the key is known");
                Ok(None)
            }
        },
    }
}

/// Publishes and waits until the record is durable, at most as long as the settings say.
pub(crate) async fn publish(ingress: &Ingress, record: Outgoing) -> Result<(), PublishError> {
    let topic = record.topic;
    let outcome = match timeout(ingress.settings().publish_timeout, ingress.publisher().publish(record)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(PublishError::NotAcknowledged),
    };
    if let Err(error) = outcome {
        tracing::warn!(topic, %error, "a request was answered 503");
    }
    outcome
}

impl From<PublishError> for Problem {
    fn from(error: PublishError) -> Problem {
        match error {
            PublishError::NotAcknowledged => ProblemType::NotAcknowledged.into(),
            PublishError::QueueFull => ProblemType::QueueFull.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule_row_by_row() {
        let acknowledged = |print: &str| Some(Remembered::Acknowledged { fingerprint: print.into() });
        let unsettled = |print: &str| Some(Remembered::Unsettled { fingerprint: print.into() });
        let rows = [
            (None, None, Verdict::Publish),
            (Some("a"), None, Verdict::Repetition),
            (Some("b"), None, Verdict::OtherBody),
            (None, acknowledged("a"), Verdict::Repetition),
            (None, acknowledged("b"), Verdict::OtherBody),
            (None, unsettled("a"), Verdict::Publish),
            (None, unsettled("b"), Verdict::OtherBody),
            (Some("a"), acknowledged("b"), Verdict::Repetition),
            (Some("b"), acknowledged("a"), Verdict::OtherBody),
            (Some("a"), unsettled("b"), Verdict::Repetition),
            (Some("a"), unsettled("a"), Verdict::Repetition),
        ];
        for (known, remembered, verdict) in rows {
            assert_eq!(decide(known, remembered.as_ref(), "a"), verdict, "{known:?} {remembered:?}");
        }
    }
}
