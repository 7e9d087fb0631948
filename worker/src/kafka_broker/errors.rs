//! What an error of the client library means for the engine. Pure; never calls the library.

use millrace_runtime::BrokerError;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

/// What the three flags of a transaction error and its code say, in the order the library asks for: abort first, then
/// retriable, everything else is fatal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Abort the transaction.
    Abort,
    /// Call the same function again.
    Again,
    /// Another producer has this `transactional.id`, or the coordinator gave this one up.
    Fenced,
    /// Not allowed: no repetition helps.
    Refused,
    /// This producer is of no use any more; what it last asked for may have happened.
    Broken,
}

/// Flags of a transaction error.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flags {
    pub(super) abort: bool,
    pub(super) retriable: bool,
}

pub(super) fn verdict(code: RDKafkaErrorCode, flags: Flags) -> Verdict {
    match code {
        _ if flags.abort => Verdict::Abort,
        _ if flags.retriable => Verdict::Again,
        RDKafkaErrorCode::Fenced
        | RDKafkaErrorCode::ProducerFenced
        | RDKafkaErrorCode::InvalidProducerEpoch
        | RDKafkaErrorCode::InvalidProducerIdMapping
        | RDKafkaErrorCode::FencedInstanceId => Verdict::Fenced,
        RDKafkaErrorCode::TransactionalIdAuthorizationFailed
        | RDKafkaErrorCode::TopicAuthorizationFailed
        | RDKafkaErrorCode::GroupAuthorizationFailed
        | RDKafkaErrorCode::ClusterAuthorizationFailed
        | RDKafkaErrorCode::InvalidTransactionTimeout
        | RDKafkaErrorCode::UnsupportedFeature
        | RDKafkaErrorCode::UnsupportedVersion
        | RDKafkaErrorCode::Authentication
        | RDKafkaErrorCode::SaslAuthenticationFailed => Verdict::Refused,
        _ => Verdict::Broken,
    }
}

/// The verdict on an error of a transactional call; a failed flush leaves records undelivered, so it aborts.
pub(crate) fn judge(error: &KafkaError) -> Verdict {
    match error {
        KafkaError::Transaction(inner) => {
            verdict(inner.code(), Flags { abort: inner.txn_requires_abort(), retriable: inner.is_retriable() })
        }
        KafkaError::Flush(_) => Verdict::Abort,
        KafkaError::MessageProduction(code) => verdict(*code, Flags { abort: false, retriable: false }),
        _ => Verdict::Broken,
    }
}

/// What the group's coordinator says of the member whose positions it refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Member {
    /// Another one has its place, or nobody: it was given up, and only who joins anew has partitions.
    Gone,
    /// A rebalance has overtaken it. It will hear of that, unless its heartbeats do not come through.
    Overtaken,
    /// It is not about the member.
    Unmentioned,
}

/// Who the positions were refused to.
pub(super) fn member(error: &KafkaError) -> Member {
    match error.rdkafka_error_code() {
        Some(RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::FencedInstanceId) => Member::Gone,
        Some(RDKafkaErrorCode::IllegalGeneration) => Member::Overtaken,
        _ => Member::Unmentioned,
    }
}

/// What the library says, with the reason it gives.
pub(crate) fn say(error: &KafkaError) -> String {
    match error {
        KafkaError::Transaction(inner) => format!("{} ({})", inner.string(), inner.name()),
        other => other.to_string(),
    }
}

/// An error of a question to the cluster: what mends itself may be asked again.
pub(super) fn of_question(what: &str, error: &KafkaError) -> BrokerError {
    let code = error.rdkafka_error_code();
    let refused = code.is_some_and(|code| {
        verdict(code, Flags { abort: false, retriable: false }) == Verdict::Refused
            || code == RDKafkaErrorCode::FencedInstanceId
    });
    let text = format!("{what}: {error}");
    if refused { BrokerError::Fatal(text) } else { BrokerError::Retry(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abort_is_asked_before_retriable_and_nothing_means_broken() {
        let of = |abort, retriable| verdict(RDKafkaErrorCode::OperationTimedOut, Flags { abort, retriable });
        assert_eq!(of(true, true), Verdict::Abort);
        assert_eq!(of(false, true), Verdict::Again);
        assert_eq!(of(false, false), Verdict::Broken);
    }

    #[test]
    fn fencing_is_told_from_breaking() {
        let none = Flags { abort: false, retriable: false };
        assert_eq!(verdict(RDKafkaErrorCode::Fenced, none), Verdict::Fenced);
        assert_eq!(verdict(RDKafkaErrorCode::InvalidProducerIdMapping, none), Verdict::Fenced);
        assert_eq!(verdict(RDKafkaErrorCode::TopicAuthorizationFailed, none), Verdict::Refused);
        assert_eq!(verdict(RDKafkaErrorCode::Fatal, none), Verdict::Broken);
    }

    #[test]
    fn a_failed_flush_aborts() {
        assert_eq!(judge(&KafkaError::Flush(RDKafkaErrorCode::OperationTimedOut)), Verdict::Abort);
    }
}
