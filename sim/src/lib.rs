//! The whole pipeline in one thread under a seed. The production code of `runtime`, `processors`, the core of `broker`, how
//! `ingress` takes a submit, the rules of `psp`, the warehouse of `replay` and the audit of `audit` run in simulated time, over a network that loses,
//! delays and repeats, on disks that fail, in processes that end and sleep at any moment. The same seed is the same run.
//!
//! First faults happen; then they stop, and everything must drain, and every promise must hold.
//!
//! Reading order: [`plan`](Options) (what a seed decides), `world` (time, network, broker), `client` (the model of the
//! worker's clients), `process` (a stream thread as a coroutine), `simulation` (a run), `checks` (what must hold).

#![forbid(unsafe_code)]

mod batches;
mod campaign;
mod checks;
mod client;
mod coverage;
mod defects;
mod disk;
mod ingress;
mod network;
mod plan;
mod process;
mod provider;
mod shop;
mod simulation;
mod world;

pub use campaign::{COVERED_FROM, Campaign, campaign, shrink};
pub use checks::check_of;
pub use coverage::{Coverage, Move};
pub use defects::{ClientDefect, Defect, plant};
pub use plan::{Fault, Faults, Options};

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// What does not hold; empty when all does.
    pub violations: Vec<String>,
    /// What happened, a line a step; empty unless it was asked for.
    pub trace: Vec<String>,
    /// The same for two runs exactly when they were the same.
    pub digest: u64,
    /// How many orders were to be placed.
    pub orders: usize,
    /// How many workers there were.
    pub workers: usize,
    /// How many events happened.
    pub steps: u64,
    /// How much time passed in it, milliseconds.
    pub simulated_ms: u64,
    /// What happened, counted.
    pub coverage: Coverage,
}

/// Whether a run writes down what happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    /// Line by line.
    Kept,
    /// Not at all, which is faster.
    Left,
}

/// Runs a seed.
#[must_use]
pub fn run(options: Options, trace: Trace) -> Outcome {
    simulation::Simulation::new(options, trace == Trace::Kept).run()
}
