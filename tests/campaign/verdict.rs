//! What must be true after a campaign: every promise by `millrace audit`, the producers' own log against the first topic,
//! no transaction left open. Reads past the proxies; starts nothing but the auditor.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use millrace_runtime::{DeadLetters, InputRecord};
use millrace_schemas::{OrderPlaced, topics};
use millrace_worker::{From, PlacedRecord, TopicReader};
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::Value;

use super::fleet::{Answer, ClientLog};
use super::ground::Ground;
use super::{Settings, Struck, say};
use crate::support::processes::Process;

/// How long everything may take to drain once all is healed: a few of the longest time-outs of the topology.
const DRAIN: Duration = Duration::from_secs(240);
/// How long a transaction may stay open after that.
const CLOSE: Duration = Duration::from_secs(40);
/// How what is wrong begins when the auditor found it.
pub const PROMISE: &str = "a promise does not hold";
/// How many offenders are named.
const NAMED: usize = 5;

/// The outcome of a campaign.
#[derive(Debug, serde::Serialize)]
pub struct Verdict {
    pub seed: u64,
    pub brokers: usize,
    pub seconds: u64,
    pub acknowledged: usize,
    pub refused: usize,
    pub indeterminate: usize,
    /// Distinct submits on the first topic.
    pub known: usize,
    /// Records there of orders that stood there already.
    pub repeats: usize,
    /// Committed events of orders.
    pub events: usize,
    pub struck: Vec<Struck>,
    /// Processes that ended without being told to, and what they said.
    pub ended_by_themselves: Vec<String>,
    /// The auditor's report, as it prints it.
    pub audit: Value,
    /// What is not as it must be; empty when all holds.
    pub wrongs: Vec<String>,
}

impl Verdict {
    pub fn holds(&self) -> bool {
        self.wrongs.is_empty()
    }
}

/// Waits until everything has drained, and judges.
pub fn judge(ground: &mut Ground, log: &Arc<ClientLog>, settings: &Settings) -> Verdict {
    let mut wrongs = Vec::new();
    let FirstTopic { submits: known, orders, repeats, .. } = first_topic(ground);
    let answers = log.answers();
    let of = |wanted: Answer| -> BTreeSet<&String> {
        answers.iter().filter(|(_, answer)| **answer == wanted).map(|(submit, _)| submit).collect()
    };
    let lost: Vec<_> = of(Answer::Acknowledged).into_iter().filter(|submit| !known.contains(*submit)).collect();
    let unasked: Vec<_> = known.iter().filter(|submit| !answers.contains_key(*submit)).collect();
    let refused: Vec<_> = of(Answer::Refused).into_iter().filter(|submit| known.contains(*submit)).collect();
    for (what, offenders) in
        [("acknowledged, but unknown", lost), ("known, but never submitted", unasked), ("refused, but known", refused)]
    {
        wrongs.extend(offence(&format!("orders are {what}"), &offenders));
    }
    let audit = audit(ground, orders, &mut wrongs);
    // Read again, now that everything has drained: what was still on its way stands there by now.
    wrongs.extend(poison_astray(&log.poison(), &first_topic(ground).poison, &letters_of_intake(ground)));
    if known.len() < settings.at_least {
        wrongs.push(format!("{} orders are known, and this campaign is for {}", known.len(), settings.at_least));
    }
    wrongs.extend(open_transactions(ground));
    Verdict {
        seed: settings.seed,
        brokers: settings.brokers,
        seconds: 0,
        acknowledged: log.count(Answer::Acknowledged),
        refused: log.count(Answer::Refused),
        indeterminate: log.count(Answer::Indeterminate),
        known: known.len(),
        repeats,
        events: 0,
        struck: Vec::new(),
        ended_by_themselves: ground.ended.iter().map(|(role, said)| format!("{role:?}: {said}")).collect(),
        audit,
        wrongs,
    }
}

/// What stands on the first topic, whoever wrote it and however often.
#[derive(Default)]
struct FirstTopic {
    submits: BTreeSet<String>,
    /// Distinct orders.
    orders: usize,
    /// Records of orders that stand there already: a client that was in doubt sent them again.
    repeats: usize,
    /// Records that are no orders, by their keys: how often each stands there.
    poison: BTreeMap<String, usize>,
}

fn first_topic(ground: &Ground) -> FirstTopic {
    let (mut found, mut orders) = (FirstTopic::default(), BTreeSet::new());
    each_record(ground, topics::ORDERS_PLACED, |PlacedRecord { record, .. }| {
        match ground.codec.decode::<OrderPlaced>(record.value.as_deref().unwrap_or_default()) {
            Ok(order) => {
                found.submits.insert(order.customer_id);
                found.repeats += usize::from(!orders.insert(order.order_id));
            }
            Err(_) => *found.poison.entry(key_of(&record)).or_default() += 1,
        }
    });
    found.orders = orders.len();
    found
}

/// Why intake gave records to its dead letters, by their keys.
fn letters_of_intake(ground: &Ground) -> BTreeMap<String, Vec<String>> {
    let mut letters = DeadLetters::default();
    each_record(ground, "dead-letters.intake", |placed| letters.add(&placed.topic, placed.partition, placed.record));
    let mut reasons: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for letter in letters.iter() {
        reasons.entry(key_of(&letter.record)).or_default().push(letter.reason.clone());
    }
    reasons
}

fn key_of(record: &InputRecord) -> String {
    String::from_utf8_lossy(record.key.as_deref().unwrap_or_default()).into_owned()
}

/// Gives every committed record of a topic.
fn each_record(ground: &Ground, topic: &str, mut take: impl FnMut(PlacedRecord)) {
    let mut reader = TopicReader::open(&ground.direct(), &[topic], From::Beginning).unwrap();
    while !reader.has_caught_up() {
        reader.read(Duration::from_millis(200), 10_000).unwrap().into_iter().for_each(&mut take);
    }
}

/// A record that is no order becomes a dead letter as often as it stands on the first topic, and nothing else does.
///
/// Only the topic says how often: a producer that gives a record up begins a new epoch and numbers what it sends again
/// anew, so that the broker cannot know a record that arrived before, idempotent or not (librdkafka, `rdkafka_broker.c`).
fn poison_astray(
    sent: &BTreeMap<String, Answer>,
    standing: &BTreeMap<String, usize>,
    letters: &BTreeMap<String, Vec<String>>,
) -> Vec<String> {
    let lost: Vec<_> = sent
        .iter()
        .filter(|(key, answer)| **answer == Answer::Acknowledged && !standing.contains_key(*key))
        .map(|(key, _)| key)
        .collect();
    let unasked: Vec<_> = standing.keys().filter(|key| !sent.contains_key(*key)).collect();
    let keys: BTreeSet<_> = standing.keys().chain(letters.keys()).collect();
    let of = |key: &String| (standing.get(key).copied().unwrap_or(0), letters.get(key).map_or(&[][..], Vec::as_slice));
    let astray: Vec<_> = keys.into_iter().map(|key| (key, of(key))).filter(|(_, (n, why))| *n != why.len()).collect();
    [
        offence("poison records are acknowledged, but unknown", &lost),
        offence("records are no orders, but nobody sent them so", &unasked),
        offence("keys have another number of records that are no orders than of dead letters of intake", &astray),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// How many offend and in what, the first of them named; `None` when nobody does.
fn offence<T: fmt::Debug>(what: &str, offenders: &[T]) -> Option<String> {
    let named = &offenders[..offenders.len().min(NAMED)];
    (!offenders.is_empty()).then(|| format!("{} {what}: {named:?}", offenders.len()))
}

/// Lets `millrace audit` wait until every order has ended; when they do not, what it says of those that have not.
fn audit(ground: &mut Ground, orders: usize, wrongs: &mut Vec<String>) -> Value {
    let (kafka, registry, psp, until) = (ground.direct(), ground.registry(), ground.provider(), orders.to_string());
    let common = ["audit", "--kafka", &kafka, "--registry", &registry, "--psp", &psp, "--output", "json"];
    let mut auditor = Process::start(ground.dir(), "audit", &[&common[..], &["--until", &until]].concat());
    let since = Instant::now();
    while auditor.is_alive() && since.elapsed() < DRAIN {
        ground.tend();
        std::thread::sleep(Duration::from_millis(100));
    }
    let drained = !auditor.is_alive();
    let (code, said) = if drained {
        auditor.until_it_ends(Duration::from_secs(1))
    } else {
        wrongs.push(format!("not every order has ended {DRAIN:?} after all was healed"));
        ground.keep_kafka();
        auditor.kill();
        Process::start(ground.dir(), "audit-open", &common).until_it_ends(DRAIN)
    };
    // It stands behind whatever the auditor had to log, whose lines begin with a brace, too.
    let report: Value = said.find("{\n").and_then(|at| serde_json::from_str(&said[at..]).ok()).unwrap_or_default();
    if code != Some(0) {
        let broken = report["promises"].as_array().into_iter().flatten().filter(|verdict| verdict["holds"] != true);
        wrongs.extend(broken.map(|verdict| format!("{PROMISE}: {verdict}")));
        if report.is_null() {
            wrongs.push(format!("the audit ended with {code:?}: {said}"));
        }
    }
    report
}

/// Partitions of any topic, positions and changelogs included, whose last stable offset stays behind their end.
fn open_transactions(ground: &Ground) -> Vec<String> {
    let reader = |isolation: &str| -> BaseConsumer {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", ground.direct()).set("isolation.level", isolation).create().unwrap()
    };
    let (committed, all) = (reader("read_committed"), reader("read_uncommitted"));
    let end = |of: &BaseConsumer, topic: &str, partition| {
        of.fetch_watermarks(topic, partition, Duration::from_secs(10)).map_or(-1, |(_, end)| end)
    };
    let since = Instant::now();
    let metadata = all.fetch_metadata(None, Duration::from_secs(10)).unwrap();
    let topics = metadata.topics().iter();
    let mut open: Vec<(&str, i32)> =
        topics.flat_map(|topic| topic.partitions().iter().map(|partition| (topic.name(), partition.id()))).collect();
    assert!(open.iter().any(|(topic, _)| *topic == "__consumer_offsets"), "nobody committed anything");
    loop {
        open.retain(|(topic, partition)| end(&committed, topic, *partition) != end(&all, topic, *partition));
        if open.is_empty() || since.elapsed() > CLOSE {
            break;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    open.iter().map(|(topic, partition)| format!("a transaction stays open in {topic}-{partition}")).collect()
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<24} {:>5} {:>16} {:>16}", "fault", "times", "stood still, max", "median")?;
        let mut kinds: BTreeMap<_, Vec<u64>> = BTreeMap::new();
        for struck in self.struck.iter().filter(|struck| struck.took_effect) {
            kinds.entry(struck.kind).or_default().push(struck.stood_still_ms);
        }
        for (kind, mut gaps) in kinds {
            gaps.sort_unstable();
            let seconds = |ms: u64| format!("{:.1} s", ms as f64 / 1_000.0);
            let (most, median) = (gaps[gaps.len() - 1], gaps[gaps.len() / 2]);
            writeln!(f, "{kind:<24} {:>5} {:>16} {:>16}", gaps.len(), seconds(most), seconds(median))?;
        }
        let missed = self.struck.iter().filter(|struck| !struck.took_effect).count();
        writeln!(f, "\n{missed} more met nothing\n")?;
        writeln!(
            f,
            "{} orders known of {} acknowledged, {} indeterminate, {} refused; {} sent twice; {} committed events in {} s, \
             seed {}",
            self.known,
            self.acknowledged,
            self.indeterminate,
            self.refused,
            self.repeats,
            self.events,
            self.seconds,
            self.seed
        )?;
        let (orders, dead) = (&self.audit["orders"], &self.audit["dead_letters"]);
        writeln!(f, "audit: {orders} dead letters {dead}")?;
        for ended in &self.ended_by_themselves {
            writeln!(f, "ended by itself: {ended}")?;
        }
        for wrong in &self.wrongs {
            writeln!(f, "WRONG: {wrong}")?;
        }
        write!(f, "{}", if self.holds() { "every promise holds" } else { "NOT EVERY PROMISE HOLDS" })
    }
}

/// Prints it.
pub fn print(verdict: &Verdict) {
    say(&format!("\n{verdict}"));
}
