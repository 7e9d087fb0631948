//! How soon after a transaction the next one may begin. Owns what was learnt of the coordinator; never a clock, and never
//! waits itself.
//!
//! The coordinator answers a commit when its outcome stands in its log, and writes the markers afterwards (KIP-98). Until
//! they are written it refuses partitions of the next transaction as concurrent, and the client library then waits 20 ms
//! before it asks again (`retry_backoff_ms` in `rdkafka_txnmgr.c`, not a setting; the Java client waits as long). Markers
//! take a few milliseconds, so at light load, where the next records are often there at once, that pause would be most of
//! a transaction. The library does not say that it was refused, but the first record then cannot be delivered any sooner.

use std::time::Duration;

/// The library's pause after a refusal.
const REFUSED: Duration = Duration::from_millis(20);
/// A transaction that is filled for longer hides the pause behind work: it says nothing, and nothing is to be gained.
const SHORT: Duration = Duration::from_millis(12);
/// By how much more is waited after a refusal, and by how much less where there was none: so about one in 33 is refused, as
/// a quantile is tracked (Robbins and Monro 1951). Whoever never waits too little waits too much.
const UP: Duration = Duration::from_micros(960);
const DOWN: Duration = Duration::from_micros(30);
/// Short transactions without waiting, where waiting for as long as the library does not help: records are late there for
/// another reason, the way to the broker for one.
const REST: u32 = 10_000;

/// See the module. Begins without waiting, which is right where the coordinator is never busy.
#[derive(Debug, Default)]
pub(super) struct Completion {
    wait: Duration,
    /// Short transactions that are not to be waited for.
    rest: u32,
    /// The last transaction was short, as the next one then probably is.
    short: bool,
}

impl Completion {
    /// What is left to wait, so long after the last transaction ended.
    pub(super) fn before_next(&self, ended: Duration) -> Duration {
        if self.short && self.rest == 0 { self.wait.saturating_sub(ended) } else { Duration::ZERO }
    }

    /// Learns from a transaction: how long after its begin its records were asked to be delivered, and the first one was.
    pub(super) fn learn(&mut self, filled: Duration, delivered: Duration) {
        self.short = filled <= SHORT;
        if !self.short {
            return;
        }
        if self.rest > 0 {
            self.rest -= 1;
        } else if delivered < REFUSED {
            self.wait = self.wait.saturating_sub(DOWN);
        } else {
            self.wait += UP;
            if self.wait > REFUSED {
                *self = Self { rest: REST, ..Self::default() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Short transactions, one as soon after the other as it may be, on a coordinator that takes so long to complete one;
    /// how long each took, waiting included.
    fn transactions(completion: &mut Completion, completes: Duration, way: Duration, times: u32) -> Vec<Duration> {
        let one = |_| {
            let waited = completion.before_next(Duration::ZERO);
            let delivered = if waited < completes { 21 * MS + way } else { way };
            completion.learn(MS, delivered);
            waited + delivered
        };
        (0..times).map(one).collect()
    }

    #[test]
    fn it_learns_how_long_the_coordinator_takes() {
        let mut completion = Completion::default();
        let took = transactions(&mut completion, 5 * MS, 2 * MS, 3_300);
        assert!(took[0] > 20 * MS, "{:?}", took[0]);
        let refused = took.iter().filter(|took| **took > 9 * MS).count();
        assert!((90..=110).contains(&refused), "{refused} of {} met a busy coordinator", took.len());
    }

    #[test]
    fn a_coordinator_that_is_never_busy_is_never_waited_for() {
        let mut completion = Completion::default();
        let took = transactions(&mut completion, Duration::ZERO, 2 * MS, 100);
        assert!(took.iter().all(|took| *took == 2 * MS), "{took:?}");
    }

    #[test]
    fn it_forgets_what_does_not_hold_any_more() {
        let mut completion = Completion::default();
        transactions(&mut completion, 9 * MS, MS, 100);
        assert!(completion.wait > 8 * MS);
        transactions(&mut completion, Duration::ZERO, MS, 400);
        assert_eq!(completion.wait, Duration::ZERO);
    }

    #[test]
    fn a_long_way_to_the_broker_is_not_taken_for_a_refusal() {
        let mut completion = Completion::default();
        let took = transactions(&mut completion, Duration::ZERO, 40 * MS, 5_000);
        let waited = took.iter().filter(|took| **took > 40 * MS).count();
        assert!(waited <= 21, "{waited} of {} waited", took.len());
    }

    #[test]
    fn long_transactions_neither_wait_nor_teach() {
        let mut completion = Completion::default();
        transactions(&mut completion, 5 * MS, MS, 100);
        let before = completion.wait;
        completion.learn(100 * MS, 101 * MS);
        assert_eq!(completion.before_next(Duration::ZERO), Duration::ZERO);
        assert_eq!(completion.wait, before);
        completion.learn(MS, MS);
        assert_eq!(completion.before_next(2 * MS), before - DOWN - 2 * MS);
    }
}
