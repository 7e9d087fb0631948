//! A campaign: real processes on a real Apache Kafka under load, one fault after the other drawn from a seed, then
//! healed, drained and judged from the topics, the provider's ledger and what the producers were told. Owns the course
//! of events; how faults are done is in [`faults`], what must be true in [`verdict`].

pub mod faults;
pub mod fleet;
pub mod ground;
pub mod planted;
pub mod provider_door;
pub mod recovery;
pub mod verdict;
pub mod watch;

use std::io::Write;
use std::time::{Duration, Instant};

use millrace_chaos::{Draw, Kind, Plan};

use self::fleet::{Answer, Doors, Fleet};
use self::ground::{Ground, Workers};
use self::verdict::Verdict;
use self::watch::Watch;
use crate::support::node::Skipped;

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(5);
/// How long after a fault a standstill is still put down to it.
const AFTERMATH: Duration = Duration::from_secs(3);

/// What a campaign is to be.
#[derive(Clone, Debug)]
pub struct Settings {
    pub seed: u64,
    pub brokers: usize,
    pub workers: usize,
    /// Tasks pass records on in memory.
    pub hand_over: bool,
    pub kinds: Vec<Kind>,
    pub length: Length,
    pub orders: usize,
    /// How many of them must be known at the end.
    pub at_least: usize,
    /// Orders a second.
    pub rate: f64,
    /// Percentage of the usual quiet between faults.
    pub hurry: u32,
}

/// When faults end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// After this long.
    For(Duration),
    /// When every kind has met something so often. The load goes on until there are as many orders as there must be.
    Rounds(usize),
}

/// What one fault did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Struck {
    #[serde(serialize_with = "by_name")]
    pub kind: Kind,
    /// It met what it was about.
    pub took_effect: bool,
    /// How long it lasted.
    pub lasted_ms: u64,
    /// The longest time without committed output around it.
    pub stood_still_ms: u64,
}

fn by_name<S: serde::Serializer>(kind: &Kind, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(kind.name())
}

/// A running campaign.
pub struct Campaign {
    pub ground: Ground,
    pub draw: Draw,
    watch: Watch,
    fleet: Fleet,
    began: Instant,
    reported: Instant,
    now: Option<Kind>,
}

/// Runs a campaign to its verdict.
///
/// # Errors
/// [`Skipped`] when there is no Apache Kafka on this machine.
pub fn run(settings: &Settings) -> Result<Verdict, Skipped> {
    let members = Workers { session: ground::SESSION, leave: false, hand_over: settings.hand_over };
    let ground = Ground::start(settings.brokers, settings.workers, members)?;
    say(&format!("seed {}, logs in {}", settings.seed, ground.dir().display()));
    let doors = Doors {
        kafka: ground.through_proxies(),
        http: ground.http(),
        codec: ground.codec.clone(),
        seed: settings.seed,
        orders: settings.orders,
        rate: settings.rate,
    };
    let mut campaign = Campaign {
        watch: Watch::start(ground.direct()),
        fleet: Fleet::start(doors),
        draw: Draw::new(settings.seed ^ 0xfa17),
        ground,
        began: Instant::now(),
        reported: Instant::now(),
        now: None,
    };
    let (struck, wrongs) = campaign.strike(settings);
    campaign.now = None;
    campaign.heal();
    let Campaign { mut ground, watch, fleet, began, .. } = campaign;
    let log = fleet.finish();
    say(&format!("{:>4} s  healed; waiting until every order has ended", began.elapsed().as_secs()));
    let mut verdict = verdict::judge(&mut ground, &log, settings);
    verdict.wrongs.extend(wrongs);
    verdict.seconds = began.elapsed().as_secs();
    verdict.events = watch.events();
    verdict.struck = struck;
    drop(watch);
    ground.stop_workers();
    if verdict.holds() {
        let dir = ground.dir().to_owned();
        drop(ground);
        let _ = std::fs::remove_dir_all(dir);
    } else {
        say(&format!("logs are kept in {}", ground.dir().display()));
    }
    Ok(verdict)
}

impl Campaign {
    /// Faults until the length is reached.
    fn strike(&mut self, settings: &Settings) -> (Vec<Struck>, Vec<String>) {
        let (mut struck, mut wrongs) = (Vec::new(), Vec::new());
        for next in Plan::new(settings.seed, &settings.kinds, settings.hurry) {
            let over = match settings.length {
                Length::For(length) => self.began.elapsed() >= length,
                Length::Rounds(rounds) => {
                    let missing: Vec<&Kind> = rare(&settings.kinds, &struck, rounds).collect();
                    if !missing.is_empty() && !missing.contains(&&next.kind) {
                        // It has done its part: the campaign goes on for those that met too little.
                        continue;
                    }
                    self.fleet.has_finished() || missing.is_empty()
                }
            };
            if over {
                break;
            }
            self.rest(next.quiet);
            self.now = Some(next.kind);
            let from = Instant::now();
            let took_effect = faults::inject(self, next.kind).unwrap_or_else(|wrong| {
                say(&format!("{}: {wrong}", next.kind));
                wrongs.push(format!("{}: {wrong}", next.kind));
                true
            });
            let to = Instant::now();
            self.now = None;
            self.rest(AFTERMATH.min(next.quiet));
            struck.push((next.kind, took_effect, from, to));
        }
        self.rest(AFTERMATH);
        while self.fleet.log.count(Answer::Acknowledged) < settings.at_least && !self.fleet.has_finished() {
            self.rest(AFTERMATH);
        }
        if let Length::Rounds(rounds) = settings.length {
            let rare = rare(&settings.kinds, &struck, rounds);
            wrongs.extend(rare.map(|kind| format!("{kind} met something less than {rounds} times")));
        }
        let of = |(kind, took_effect, from, to): Blow| Struck {
            kind,
            took_effect,
            lasted_ms: millis(to - from),
            stood_still_ms: millis(self.watch.longest_gap(from, to + AFTERMATH)),
        };
        (struck.into_iter().map(of).collect(), wrongs)
    }

    /// Lets time pass: processes that ended by themselves are started again, progress is told.
    pub fn rest(&mut self, how_long: Duration) {
        let until = Instant::now() + how_long;
        loop {
            self.ground.tend();
            self.tell();
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
    }

    fn tell(&mut self) {
        if self.reported.elapsed() < PROGRESS {
            return;
        }
        self.reported = Instant::now();
        let log = &self.fleet.log;
        say(&format!(
            "{:>4} s  {} acknowledged, {} refused, {} indeterminate; {} committed events  {}",
            self.began.elapsed().as_secs(),
            log.count(Answer::Acknowledged),
            log.count(Answer::Refused),
            log.count(Answer::Indeterminate),
            self.watch.events(),
            self.now.map_or("", Kind::name),
        ));
    }

    fn heal(&mut self) {
        self.ground.proxies.iter().for_each(millrace_chaos::Proxy::heal);
        self.ground.door.behave(provider_door::Manner::Plain);
        self.ground.tend();
    }
}

/// A fault, whether it met what it was about, and from when to when.
type Blow = (Kind, bool, Instant, Instant);

/// Kinds that met what they are about less often than this.
fn rare<'a>(kinds: &'a [Kind], struck: &'a [Blow], times: usize) -> impl Iterator<Item = &'a Kind> {
    let met = |kind: &Kind| struck.iter().filter(|(of, took_effect, ..)| of == kind && *took_effect).count();
    kinds.iter().filter(move |kind| met(kind) < times)
}

/// Milliseconds of a duration.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One line for people, whatever captures the output of tests.
pub fn say(line: &str) {
    let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
}
