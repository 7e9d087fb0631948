//! Many seeds, on as many OS threads as there are, and what to do about one that fails: make it smaller. Owns the order in
//! which seeds are taken; never what one does.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::{Coverage, Fault, Options, Outcome, Trace, check_of, run};

/// At most so many failing seeds are kept.
const FAILURES_MAX: usize = 5;
/// From so many seeds on, every fault must have struck and every move been made.
pub const COVERED_FROM: u64 = 1_000;
/// How often each fault must have struck by then.
const STRIKES_MIN: u64 = 20;
/// A seed of a useful size has at least so many faults that struck,
const FAULTS_MIN: u64 = 10;
/// so many orders,
const ORDERS_MIN: usize = 50;
/// and so many workers.
const WORKERS_MIN: usize = 3;
/// Of so many seeds one may be smaller.
const SMALL_ONE_OF: u64 = 100;
/// What else must have happened so often by then.
const WANTED: &[&str] = &[
    "aborts",
    "compactions",
    "copies promoted",
    "dead letters",
    "deadlines",
    "foreign records between",
    "late ends refused",
    "opposite answers",
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
    /// Seeds that are too small to count for much: of fewer than ten faults, 50 orders or three workers.
    pub small: u64,
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
    /// Adds a run.
    pub fn take(&mut self, outcome: Outcome) {
        self.seeds += 1;
        let struck: u64 = outcome.coverage.faults.values().sum();
        let useful = struck >= FAULTS_MIN && outcome.orders >= ORDERS_MIN && outcome.workers >= WORKERS_MIN;
        self.small += u64::from(!useful);
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
        let small = (self.small * SMALL_ONE_OF > self.seeds).then(|| {
            format!(
                "{} of {} seeds had fewer than {FAULTS_MIN} faults, {ORDERS_MIN} orders or {WORKERS_MIN} workers, \
                 at most one of {SMALL_ONE_OF} may",
                self.small, self.seeds
            )
        });
        rare.chain(counts).chain(moves).chain(small).collect()
    }
}

/// The smallest run like this one that still fails by the same check: without the faults it does not need, with fewer
/// orders. Given back as it is where it does not fail.
#[must_use]
pub fn shrink(options: Options) -> Options {
    shrink_by(options, |options| run(options, Trace::Left).violations)
}

fn shrink_by(options: Options, violations: impl Fn(Options) -> Vec<String>) -> Options {
    let all = violations(options);
    let Some(check) = all.first().map(|violation| check_of(violation)) else { return options };
    // What fails by another check is another failure, and would hide the one that is looked for.
    let fails = |options| violations(options).iter().any(|violation| check_of(violation) == check);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Faults;

    const TWICE: &str = "orders.events-1 offset 26: the event o-001/due/0 is there twice";

    /// Needs a crash; without commands that are repeated it does not drain instead.
    fn violations(options: Options) -> Vec<String> {
        let (crash, command) = (options.faults.has(Fault::ProcessCrash), options.faults.has(Fault::CommandTwice));
        match (crash, command, options.orders.unwrap_or(64)) {
            (_, _, ..4) | (false, ..) => Vec::new(),
            (true, true, _) => vec![TWICE.into()],
            (true, false, _) => vec!["it does not drain: 1 of 50 orders have not ended".into()],
        }
    }

    /// A run of nothing but so many lost requests.
    fn outcome(struck: u64, orders: usize, workers: usize) -> Outcome {
        let mut coverage = Coverage::default();
        coverage.faults.insert(Fault::RequestLost, struck);
        Outcome {
            seed: 1,
            violations: Vec::new(),
            trace: Vec::new(),
            digest: 0,
            orders,
            workers,
            steps: 1,
            simulated_ms: 1,
            coverage,
        }
    }

    #[test]
    fn seeds_of_no_useful_size_are_a_gap() {
        let mut campaign = Campaign::default();
        for small in [outcome(9, 50, 3), outcome(10, 49, 3), outcome(10, 50, 2)] {
            campaign.take(small);
        }
        assert_eq!(campaign.small, 3);
        let complains = |campaign: &Campaign| campaign.gaps().iter().any(|gap| gap.contains("of 1000 seeds had fewer"));
        for _ in campaign.seeds..COVERED_FROM {
            campaign.take(outcome(10, 50, 3));
        }
        assert_eq!((campaign.small, complains(&campaign)), (3, false));
        campaign.small = COVERED_FROM / SMALL_ONE_OF + 1;
        assert!(complains(&campaign), "{:?}", campaign.gaps());
    }

    #[test]
    fn a_smaller_run_fails_by_the_same_check() {
        let faults = Faults::none().with(Fault::ProcessCrash).with(Fault::CommandTwice);
        let smallest = Options { orders: Some(4), faults, ..Options::of_seed(7) };
        assert_eq!(shrink_by(Options::of_seed(7), violations), smallest);
    }

    #[test]
    fn a_run_that_fails_by_several_checks_is_made_smaller_by_the_first() {
        let both = |options| [vec![TWICE.to_owned()], violations(options)].concat();
        let alone = Options { orders: Some(1), faults: Faults::none(), ..Options::of_seed(7) };
        assert_eq!(shrink_by(Options::of_seed(7), both), alone);
    }

    #[test]
    fn a_run_that_does_not_fail_stays_as_it_is() {
        assert_eq!(shrink_by(Options::of_seed(7), |_| Vec::new()), Options::of_seed(7));
    }
}
