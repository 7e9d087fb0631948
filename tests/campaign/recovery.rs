//! How long committed output stands still after one fault, many times over: the time between two committed events of the
//! partition that waits longest. Judges nothing; each figure is what the clock said.

use std::fmt;
use std::time::{Duration, Instant};

use super::fleet::{Doors, Fleet};
use super::ground::{Ground, Role};
use super::watch::Watch;
use super::{millis, say};
use crate::support::node::Skipped;

/// Partitions of every topic of the shop.
const PARTITIONS: usize = 4;
/// How long a recovery may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is done to a pipeline of two workers that share the partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// One is told to end; the other takes over.
    Stop,
    /// One is told to end and starts again at once, on its disk.
    StopAndRestart,
    /// One is killed and starts again at once, on its disk.
    KillAndRestart,
    /// One is killed; the other takes over.
    Kill,
    /// One sleeps past its session; the other takes over.
    Sleep,
    /// The broker is stopped and started.
    RestartBroker,
    /// The broker is killed and started.
    KillBroker,
    /// One is killed, loses its disk, and starts again at once.
    LoseState,
}

/// Each event, its words, and the session time-out it is measured with.
const CASES: &[(Event, &str, Duration)] = &[
    (Event::Stop, "worker stopped, other takes over", DEFAULT),
    (Event::StopAndRestart, "worker stopped, starts again", DEFAULT),
    (Event::KillAndRestart, "worker killed, starts again", DEFAULT),
    (Event::LoseState, "worker killed, disk lost, starts again", DEFAULT),
    (Event::Kill, "worker killed, other takes over", DEFAULT),
    (Event::Sleep, "worker asleep, other takes over", DEFAULT),
    (Event::RestartBroker, "only broker restarted", DEFAULT),
    (Event::KillBroker, "only broker killed and restarted", DEFAULT),
    (Event::Kill, "worker killed, other takes over, fast", FAST),
    (Event::Sleep, "worker asleep, other takes over, fast", FAST),
];
const DEFAULT: Duration = Duration::from_secs(10);
const FAST: Duration = Duration::from_secs(3);

/// What was measured of one case.
#[derive(Debug, serde::Serialize)]
pub struct Measured {
    pub case: &'static str,
    pub session_ms: u64,
    /// Each try's standstill, sorted.
    pub stood_still_ms: Vec<u64>,
}

/// All that was measured, and on what.
#[derive(Debug, serde::Serialize)]
pub struct Recovery {
    pub brokers: usize,
    /// Orders there were before the first event.
    pub orders_before: usize,
    pub rate: f64,
    pub measured: Vec<Measured>,
}

/// Measures every case so many times, with so many orders in the stores at least.
pub fn run(seed: u64, brokers: usize, tries: usize, before: usize, rate: f64) -> Result<Recovery, Skipped> {
    let mut measured = Vec::new();
    for session in [DEFAULT, FAST] {
        let mut ground = Ground::start(brokers, 2, session)?;
        let fleet = |orders, rate| {
            Fleet::start(Doors {
                kafka: ground.through_proxies(),
                http: ground.http(),
                codec: ground.codec.clone(),
                seed,
                orders,
                rate,
            })
        };
        let watch = Watch::start(ground.direct());
        if before > 0 {
            let filling = fleet(before, 1e9);
            while !filling.is_done() {
                std::thread::sleep(Duration::from_millis(100));
            }
            say(&format!("{before} orders placed"));
        }
        let load = fleet(usize::MAX / 2, rate);
        for (event, case, _) in CASES.iter().filter(|(_, _, of)| *of == session) {
            let mut gaps: Vec<u64> = Vec::new();
            for _ in 0..tries {
                until_steady(&watch);
                gaps.push(millis(once(&mut ground, &watch, *event)));
            }
            gaps.sort_unstable();
            say(&format!("{case}: {gaps:?} ms"));
            measured.push(Measured { case, session_ms: millis(session), stood_still_ms: gaps });
        }
        load.finish();
        ground.stop_workers();
        let dir = ground.dir().to_owned();
        drop((watch, ground));
        let _ = std::fs::remove_dir_all(dir);
    }
    Ok(Recovery { brokers, orders_before: before, rate, measured })
}

/// Waits until every partition moves, second after second.
fn until_steady(watch: &Watch) {
    let since = Instant::now();
    let mut steady = 0;
    while steady < 5 {
        assert!(since.elapsed() < PATIENCE, "output does not become steady");
        let from = Instant::now();
        std::thread::sleep(Duration::from_secs(1));
        steady = if watch.moves_since(from, PARTITIONS) { steady + 1 } else { 0 };
    }
}

fn once(ground: &mut Ground, watch: &Watch, event: Event) -> Duration {
    let victim = Role::Worker("w1".into());
    let from = Instant::now();
    match event {
        Event::Stop => {
            ground.stop(&victim);
        }
        Event::StopAndRestart => {
            ground.stop(&victim);
            ground.launch(&victim);
        }
        Event::Kill => ground.kill(&victim),
        Event::KillAndRestart => {
            ground.kill(&victim);
            ground.launch(&victim);
        }
        Event::LoseState => {
            ground.kill(&victim);
            let _ = std::fs::remove_dir_all(ground.state_of("w1"));
            ground.launch(&victim);
        }
        Event::Sleep => ground.process(&victim).signal("STOP"),
        Event::RestartBroker => ground.kafka[0].restart(),
        Event::KillBroker => {
            ground.kafka[0].kill9();
            ground.kafka[0].restart();
        }
    }
    let done = Instant::now();
    let since = Instant::now();
    while !watch.moves_since(done, PARTITIONS) {
        assert!(since.elapsed() < PATIENCE, "output does not go on after {event:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    // It may have gone on for a moment after the fault, as a member that has not been missed yet does.
    until_steady(watch);
    let gap = watch.longest_gap(from, done);
    match event {
        Event::Stop | Event::Kill => ground.launch(&victim),
        Event::Sleep => ground.process(&victim).signal("CONT"),
        _ => {}
    }
    ground.tend();
    gap
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<42} {:>8} {:>6} {:>8} {:>8} {:>8}",
            "standstill of the slowest partition", "session", "tries", "median", "p90", "max"
        )?;
        for of in &self.measured {
            let at = |percent: usize| {
                of.stood_still_ms.get((of.stood_still_ms.len() * percent / 100).min(of.stood_still_ms.len() - 1))
            };
            let seconds = |ms: Option<&u64>| ms.map_or(String::new(), |ms| format!("{:.2} s", *ms as f64 / 1_000.0));
            writeln!(
                f,
                "{:<42} {:>6} s {:>6} {:>8} {:>8} {:>8}",
                of.case,
                of.session_ms / 1_000,
                of.stood_still_ms.len(),
                seconds(at(50)),
                seconds(at(90)),
                seconds(at(100)),
            )?;
        }
        write!(
            f,
            "{} brokers, {} orders before, {} orders a second meanwhile",
            self.brokers, self.orders_before, self.rate
        )
    }
}
