//! How long a run takes: the lengths of its windows, how often its blocks are repeated, and what it does when nothing is
//! named. Owns those numbers; never measures.

use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::scenario::Scenario;
use crate::session::Session;
use crate::statistics::{Side, blocks};

/// How long things take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(crate) enum Effort {
    /// Only whether everything runs; its figures say nothing
    Smoke,
    /// Rough figures in minutes: most of them of one pair of blocks, so without an interval
    Short,
    /// An interval for the main figures, the others of longer windows: an hour and a half
    Medium,
    /// Figures to be quoted: hours
    Full,
}

/// What the summary does in one sitting.
const IN_SUMMARY: &[Scenario] =
    &[Scenario::Orders, Scenario::Light, Scenario::Latency, Scenario::Start, Scenario::Crash];

/// The lengths of one effort.
#[derive(Clone, Copy)]
pub(crate) struct Lengths {
    pub(crate) warm_window: Duration,
    /// The limit for a Java machine; others have half of it.
    pub(crate) warm_at_most: Duration,
    pub(crate) warm_share: f64,
    pub(crate) probe: Duration,
    pub(crate) tolerance: f64,
    pub(crate) tries: usize,
    pub(crate) measure: Duration,
    /// Orders on their way under pressure.
    pub(crate) in_flight: u64,
    /// Orders in the stores where it matters.
    pub(crate) keys: u64,
    pub(crate) key_steps: &'static [u64],
    pub(crate) soak: Duration,
    pub(crate) commit_intervals_ms: &'static [u64],
    /// Units of the SKU that sells out.
    pub(crate) hot_stock: i64,
    /// How many processes there are, one after the other.
    pub(crate) processes: &'static [usize],
    /// How long orders go on while processes change.
    pub(crate) change: Duration,
}

impl Lengths {
    /// See [`Session::warm_up`].
    pub(crate) fn warm_up(&self, session: &mut Session<'_>) -> anyhow::Result<(f64, f64)> {
        let at_most = if session.contender().is_java() { self.warm_at_most } else { self.warm_at_most / 2 };
        session.warm_up(self.warm_window, at_most, self.warm_share)
    }
}

impl Effort {
    pub(crate) fn lengths(self) -> Lengths {
        let seconds = Duration::from_secs;
        match self {
            Self::Smoke => Lengths {
                warm_window: seconds(1),
                warm_at_most: seconds(4),
                warm_share: 0.2,
                probe: seconds(3),
                tolerance: 0.3,
                tries: 2,
                measure: seconds(3),
                in_flight: 1_000,
                keys: 3_000,
                key_steps: &[2_000, 6_000],
                soak: seconds(5),
                commit_intervals_ms: &[100],
                hot_stock: 500,
                processes: &[1, 2],
                change: seconds(4),
            },
            Self::Short => Lengths {
                warm_window: seconds(3),
                warm_at_most: seconds(15),
                warm_share: 0.05,
                probe: seconds(5),
                tolerance: 0.06,
                tries: 3,
                measure: seconds(8),
                in_flight: 8_000,
                keys: 20_000,
                key_steps: &[5_000, 25_000],
                soak: seconds(30),
                commit_intervals_ms: &[10],
                hot_stock: 4_000,
                processes: &[2],
                change: seconds(12),
            },
            Self::Medium => Lengths {
                warm_window: seconds(4),
                warm_at_most: seconds(40),
                warm_share: 0.04,
                probe: seconds(8),
                tolerance: 0.04,
                tries: 5,
                measure: seconds(15),
                in_flight: 8_000,
                keys: 100_000,
                key_steps: &[10_000, 100_000],
                soak: seconds(240),
                commit_intervals_ms: &[10, 50, 100, 500],
                hot_stock: 20_000,
                processes: &[1, 2, 4],
                change: seconds(24),
            },
            Self::Full => Lengths {
                warm_window: seconds(5),
                warm_at_most: seconds(180),
                warm_share: 0.03,
                probe: seconds(30),
                tolerance: 0.02,
                tries: 12,
                measure: seconds(60),
                in_flight: 20_000,
                keys: 1_000_000,
                key_steps: &[10_000, 100_000, 1_000_000, 10_000_000],
                soak: seconds(3_600),
                commit_intervals_ms: &[5, 10, 20, 50, 100, 200, 500, 1_000, 2_000],
                hot_stock: 100_000,
                processes: &[1, 2, 4],
                change: seconds(60),
            },
        }
    }

    /// What is done when no scenario is named: all of them. The summary has the figures of five others in one sitting,
    /// which saves the warm-up of each.
    pub(crate) fn scenarios(self) -> Vec<Scenario> {
        let left_out = if self == Self::Full { [Scenario::Summary].as_slice() } else { IN_SUMMARY };
        Scenario::value_variants().iter().copied().filter(|scenario| !left_out.contains(scenario)).collect()
    }

    /// The sides of the blocks, in their order.
    pub(crate) fn sides(self, scenario: Scenario) -> Vec<Side> {
        match (self, scenario) {
            (Self::Smoke | Self::Short | Self::Medium, Scenario::Orders | Scenario::Summary) => blocks(1),
            (Self::Smoke | Self::Short | Self::Medium, _) => vec![Side::A, Side::B],
            (Self::Full, Scenario::Soak | Scenario::Keys | Scenario::Conformance) => blocks(1),
            (Self::Full, _) => blocks(3),
        }
    }

    /// How long the broker is kept busy before anything is measured: the code of a Java machine becomes fast only as it runs,
    /// and whoever comes first would pay for that.
    pub(crate) fn broker_warm_up(self) -> Duration {
        Duration::from_secs(match self {
            Self::Smoke => 2,
            Self::Short => 40,
            Self::Medium => 90,
            Self::Full => 180,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_is_done_by_itself_or_in_the_summary() {
        for scenario in Scenario::value_variants() {
            let by_itself = Effort::Short.scenarios().contains(scenario);
            assert_ne!(by_itself, IN_SUMMARY.contains(scenario), "{scenario:?}");
            assert_eq!(Effort::Full.scenarios().contains(scenario), *scenario != Scenario::Summary, "{scenario:?}");
        }
    }
}
