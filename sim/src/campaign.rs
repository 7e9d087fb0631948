//! Many seeds, on as many OS threads as there are, and what to do about one that fails: make it smaller. Owns the order in
//! which seeds are taken; never what one does.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Coverage, Fault, Options, Outcome, Trace, run};

/// At most so many failing seeds are kept.
const FAILURES_MAX: usize = 5;
/// From so many seeds on, every fault must have struck and every move been made.
pub const COVERED_FROM: u64 = 1_000;
/// How often each fault must have struck by then.
const STRIKES_MIN: u64 = 20;
/// What else must have happened so often by then.
const WANTED: &[&str] = &[
    "aborts",
    "compactions",
    "copies promoted",
    "dead letters",
    "deadlines",
    "foreign records between",
    "late ends refused",
    "positions refused",
    "producers replaced",
    "records copied",
    "records handed over",
    "records parked",
    "records restored",
    "static members that joined anew",
    "stores rebuilt",
    "submits asked again",
    "submits of another body refused",
    "submits taken before",
    "threads fenced",
];

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Campaign {
    /// Seeds that were run.
    pub seeds: u64,
    /// Those that failed, the lowest first; a few of them.
    pub failures: Vec<Outcome>,
    /// How many failed.
    pub failed: u64,
    /// Events of all runs.
    pub steps: u64,
    /// Simulated time of all runs, milliseconds.
    pub simulated_ms: u64,
    /// What happened in all of them.
    pub coverage: Coverage,
}

/// Runs `seeds` seeds from `from` on, `jobs` at a time; `done` is told of each. Stops early when some have failed.
pub fn campaign(
    from: u64,
    seeds: u64,
    jobs: usize,
    of: impl Fn(u64) -> Options + Sync,
    done: impl Fn() + Sync,
) -> Campaign {
    let next = AtomicU64::new(from);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new(Campaign::default());
    std::thread::scope(|scope| {
        for _ in 0..jobs.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from.saturating_add(seeds) {
                        return;
                    }
                    let outcome = run(of(seed), Trace::Left);
                    let mut sum = sum.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    sum.take(outcome);
                    if sum.failures.len() >= FAILURES_MAX {
                        stop.store(true, Ordering::Relaxed);
                    }
                    drop(sum);
                    done();
                }
            });
        }
    });
    sum.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

impl Campaign {
    fn take(&mut self, outcome: Outcome) {
        self.seeds += 1;
        self.steps += outcome.steps;
        self.simulated_ms += outcome.simulated_ms;
        self.coverage.add(&outcome.coverage);
        if !outcome.violations.is_empty() {
            self.failed += 1;
            self.failures.push(outcome);
            self.failures.sort_by_key(|failure| failure.seed);
            self.failures.truncate(FAILURES_MAX);
        }
    }

    /// What a campaign of this size should have seen and has not; empty for small ones.
    #[must_use]
    pub fn gaps(&self) -> Vec<String> {
        if self.seeds < COVERED_FROM {
            return Vec::new();
        }
        let rare = Fault::ALL.into_iter().filter_map(|fault| {
            let times = self.coverage.faults.get(&fault).copied().unwrap_or(0);
            (times < STRIKES_MIN)
                .then(|| format!("{} struck {times} times, at least {STRIKES_MIN} wanted", fault.name()))
        });
        let times = |what: &str| self.coverage.counts.get(what).copied().unwrap_or(0);
        let counts = WANTED.iter().filter(|what| times(what) < STRIKES_MIN);
        let counts = counts.map(|what| format!("{what}: {} times, at least {STRIKES_MIN} wanted", times(what)));
        let moves =
            crate::coverage::wanted_moves().into_iter().filter(|moved| !self.coverage.moves.contains_key(moved));
        let moves = moves.map(|(what, from, to)| format!("no {what} ever went from {from} to {to}"));
        rare.chain(counts).chain(moves).collect()
    }
}

/// The smallest run like this one that still fails: without the faults it does not need, with fewer orders.
#[must_use]
pub fn shrink(options: Options) -> Options {
    let fails = |options: Options| !run(options, Trace::Left).violations.is_empty();
    let mut best = options;
    for fault in Fault::ALL {
        let smaller = Options { faults: best.faults.without(fault), ..best };
        if smaller != best && fails(smaller) {
            best = smaller;
        }
    }
    let mut orders = 64;
    while orders > 1 {
        orders /= 2;
        let smaller = Options { orders: Some(orders), ..best };
        if fails(smaller) {
            best = smaller;
        }
    }
    best
}
