//! How long committed output stands still after one fault, many times over: the time between two committed events of the
//! partition that waits longest. Judges nothing; each figure is what the clock said.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::{Duration, Instant};

use millrace_runtime::{StoreSpec, TopicId};
use millrace_worker::{From, TopicReader};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};

use super::fleet::{self, Doors, Fleet};
use super::ground::{Ground, Role, Workers};
use super::watch::Watch;
use super::{millis, say};
use crate::support::node::Skipped;

/// Partitions of every topic of the shop.
const PARTITIONS: usize = 4;
/// How long a recovery may take before the measurement is given up.
const PATIENCE: Duration = Duration::from_secs(120);
/// Seconds in a row in which every partition must have moved for the pipeline to be steady.
const STEADY: usize = 3;

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

/// Cases that are measured one after the other on one pipeline.
struct Round {
    session: Duration,
    /// What becomes of the partitions of a worker that is told to end.
    leave: bool,
    /// The stores are filled first.
    full: bool,
    cases: &'static [(Event, &'static str)],
}

const ROUNDS: &[Round] = &[
    Round {
        session: Duration::from_secs(10),
        leave: false,
        full: false,
        cases: &[
            (Event::StopAndRestart, "worker stopped, starts again"),
            (Event::KillAndRestart, "worker killed, starts again"),
            (Event::Kill, "worker killed, other takes over"),
            (Event::Sleep, "worker asleep, other takes over"),
            (Event::RestartBroker, "broker restarted"),
            (Event::KillBroker, "broker killed and restarted"),
        ],
    },
    Round {
        session: Duration::from_secs(3),
        leave: true,
        full: false,
        cases: &[
            (Event::Stop, "worker stopped with --leave, other takes over"),
            (Event::Kill, "worker killed, other takes over"),
            (Event::Sleep, "worker asleep, other takes over"),
        ],
    },
    Round {
        session: Duration::from_secs(10),
        leave: false,
        full: true,
        cases: &[
            (Event::KillAndRestart, "worker killed, starts again, full stores"),
            (Event::LoseState, "worker killed, disk lost, starts again, full stores"),
        ],
    },
];

/// What is to be measured.
pub struct Asked {
    pub seed: u64,
    pub brokers: usize,
    /// How often each case.
    pub tries: usize,
    /// Orders placed before, where stores are to be full.
    pub before: usize,
    /// Orders a second meanwhile.
    pub rate: f64,
    /// What the name of a case must have in it; empty for all.
    pub only: String,
}

/// What was measured of one case.
#[derive(Debug, serde::Serialize)]
pub struct Measured {
    pub case: &'static str,
    pub session_ms: u64,
    /// Keys in the stores of both workers when it began.
    pub keys: usize,
    /// Each try's standstill, sorted.
    pub stood_still_ms: Vec<u64>,
}

/// All that was measured, and on what.
#[derive(Debug, serde::Serialize)]
pub struct Recovery {
    pub brokers: usize,
    /// Orders the stores were filled with where they are full.
    pub orders_before: usize,
    /// Orders a second meanwhile.
    pub rate: f64,
    pub measured: Vec<Measured>,
}

/// Measures what was asked for.
///
/// # Errors
/// [`Skipped`] when there is no Apache Kafka on this machine.
pub fn run(asked: &Asked) -> Result<Recovery, Skipped> {
    let Asked { seed, brokers, tries, before, rate, ref only } = *asked;
    let mut measured = Vec::new();
    for round in ROUNDS.iter().filter(|round| !round.full || before > 0) {
        let cases: Vec<_> = round.cases.iter().filter(|(_, case)| case.contains(only)).collect();
        if cases.is_empty() {
            continue;
        }
        let mut ground =
            Ground::start(brokers, 2, Workers { session: round.session, leave: round.leave, hand_over: true })?;
        let watch = Watch::start(ground.direct());
        if round.full {
            say(&format!("placing {before} orders"));
            fleet::fill(&ground.direct(), &ground.codec, seed, before);
            until_quiet(&watch);
        }
        let load = Fleet::start(Doors {
            kafka: ground.through_proxies(),
            http: ground.http(),
            codec: ground.codec.clone(),
            seed,
            orders: usize::MAX / 2,
            rate,
        });
        for (event, case) in cases {
            let keys = keys(&ground.direct());
            let mut gaps: Vec<u64> = Vec::new();
            for _ in 0..tries {
                until_shared(&ground);
                until_steady(&ground, &watch);
                gaps.push(millis(once(&mut ground, &watch, *event)));
            }
            gaps.sort_unstable();
            say(&format!("{case}, {keys} keys: {gaps:?} ms"));
            measured.push(Measured { case, session_ms: millis(round.session), keys, stood_still_ms: gaps });
        }
        load.finish();
        ground.stop_workers();
        let dir = ground.dir().to_owned();
        drop((watch, ground));
        let _ = std::fs::remove_dir_all(dir);
    }
    Ok(Recovery { brokers, orders_before: before, rate, measured })
}

/// Distinct keys of the topics that stores are made of.
fn keys(kafka: &str) -> usize {
    let topology = millrace_runtime::parse(include_str!("../../topology.toml")).expect("it is checked by its tests");
    let stores = topology.processors.iter().flat_map(|processor| &processor.stores);
    let topics_of =
        |store: &StoreSpec| -> Vec<TopicId> { store.tables.iter().copied().chain(store.changelog).collect() };
    let mut seen: BTreeMap<Vec<TopicId>, usize> = BTreeMap::new();
    stores
        .map(|store| {
            let topics = topics_of(store);
            *seen.entry(topics.clone()).or_insert_with(|| {
                let names: Vec<&str> = topics.iter().map(|topic| &*topology.topic(*topic).name).collect();
                let mut reader = TopicReader::open(kafka, &names, From::Beginning).unwrap();
                let mut live = HashSet::new();
                while !reader.has_caught_up() {
                    for placed in reader.read(Duration::from_millis(200), 10_000).unwrap() {
                        let Some(key) = placed.record.key else { continue };
                        if placed.record.value.is_some() {
                            live.insert(key)
                        } else {
                            live.remove(&key)
                        };
                    }
                }
                live.len()
            })
        })
        .sum()
}

/// Waits until nothing new has come for a while.
fn until_quiet(watch: &Watch) {
    let (mut events, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_secs(15) {
        std::thread::sleep(Duration::from_secs(1));
        if watch.events() != events {
            (events, since) = (watch.events(), Instant::now());
        }
    }
}

/// Waits until both workers have partitions of every group: what is done to one without is nothing.
fn until_shared(ground: &Ground) {
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", ground.direct()).create().expect("a client");
    // Version, then how many topics.
    let has_some = |assigned: Option<&[u8]>| assigned.and_then(|bytes| bytes.get(2..6)).is_some_and(|n| n != [0; 4]);
    let is_shared = |group: &str| {
        let found = client.fetch_group_list(Some(group), Duration::from_secs(5));
        found.is_ok_and(|found| {
            let members = found.groups().iter().flat_map(|group| group.members());
            members.filter(|member| has_some(member.assignment())).count() == 2
        })
    };
    let since = Instant::now();
    while !["millrace.orders", "millrace.stock"].iter().all(|group| is_shared(group)) {
        check_patience(ground, since, "the workers do not share the partitions");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Waits until every partition moves, second after second.
fn until_steady(ground: &Ground, watch: &Watch) {
    let since = Instant::now();
    let mut steady = 0;
    while steady < STEADY {
        check_patience(ground, since, "output does not become steady");
        let from = Instant::now();
        std::thread::sleep(Duration::from_secs(1));
        steady = if watch.moves_since(from, PARTITIONS) { steady + 1 } else { 0 };
    }
}

/// Keeps what Kafka has to say of what does not come in time, and ends.
fn check_patience(ground: &Ground, since: Instant, what: &str) {
    if since.elapsed() > PATIENCE {
        ground.keep_kafka();
        panic!("{what}; logs in {}", ground.dir().display());
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
        check_patience(ground, since, &format!("output does not go on after {event:?}"));
        std::thread::sleep(Duration::from_millis(20));
    }
    // It may have gone on for a moment after the fault, as a member that has not been missed yet does.
    until_steady(ground, watch);
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
            "{:<52} {:>8} {:>9} {:>6} {:>8} {:>8} {:>8}",
            "standstill of the slowest partition", "session", "keys", "tries", "median", "p90", "max"
        )?;
        for of in &self.measured {
            let at = |percent: usize| {
                of.stood_still_ms.get((of.stood_still_ms.len() * percent / 100).min(of.stood_still_ms.len() - 1))
            };
            let seconds = |ms: Option<&u64>| ms.map_or(String::new(), |ms| format!("{:.2} s", *ms as f64 / 1_000.0));
            writeln!(
                f,
                "{:<52} {:>6} s {:>9} {:>6} {:>8} {:>8} {:>8}",
                of.case,
                of.session_ms / 1_000,
                of.keys,
                of.stood_still_ms.len(),
                seconds(at(50)),
                seconds(at(90)),
                seconds(at(100)),
            )?;
        }
        write!(
            f,
            "{} brokers, full after {} orders, {} orders a second meanwhile",
            self.brokers, self.orders_before, self.rate
        )
    }
}
