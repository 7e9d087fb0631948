//! A chain of three processors in two sub-topologies, with a way back: words are numbered per key, each is asked about on
//! another partition and told back, and a last topic says how many of both a key has seen. Every link is counted, so a
//! record that is lost, doubled or out of order shows. For the tests of hand-over.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millrace_runtime::testing::{Driver, Stored};
use millrace_runtime::*;

/// `words` come from outside; `first` is a table of its writer, `asks` and `told` cross partitions.
pub const TOPOLOGY: &str = r#"
application = "relay"
[engine]
hand_over = true
commit_records = 40
commit_latency = "100ms"
[topics.words]
partitions = 2
retention = "7d"
[topics.first]
partitions = 2
retention = "7d"
[topics.asks]
partitions = 2
retention = "7d"
[topics.told]
partitions = 2
retention = "7d"
[topics.last]
partitions = 2
cleanup = "compact"
sink = true
[processors.number]
inputs = ["words"]
outputs = ["first"]
[processors.number.stores.numbers]
table-of = ["first"]
ttl = "7d"
[processors.ask]
inputs = ["first", "told"]
outputs = ["asks", "last"]
on-poison = "dead-letter"
[processors.ask.stores.seen]
table-of = ["last"]
[processors.tell]
inputs = ["asks"]
outputs = ["told"]
[processors.tell.stores.asked]
[sub-topologies]
front = ["number", "ask"]
back = ["tell"]
"#;

fn text(value: Option<&[u8]>) -> &str {
    std::str::from_utf8(value.unwrap_or_default()).expect("the relay writes text")
}

/// The numbers a value begins with.
fn numbers(value: &str) -> (u64, u64) {
    let mut words = value.split(' ').map(|word| word.parse().unwrap_or(0));
    (words.next().unwrap_or(0), words.next().unwrap_or(0))
}

/// Numbers the words of a key: `n word`.
struct Number;

impl Processor for Number {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        let before = step.get(0, record.key)?;
        let number = before.map_or(0, |value| numbers(text(Some(&value))).0) + 1;
        let word = text(record.value).to_owned();
        step.emit("first", record.key, "Numbered", |out| out.extend(format!("{number} {word}").bytes()))
    }
}

/// Asks about each number and keeps count of both: `numbered told`.
struct Ask {
    open: Arc<AtomicBool>,
}

impl Processor for Ask {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        let value = text(record.value);
        if value.contains("!poison") {
            return Err(Failure::poison("it is poison"));
        }
        if value.contains("?later") && !self.open.load(Ordering::Relaxed) {
            return Err(Failure::NotYet("the switch is off".into()));
        }
        let before = step.get(0, record.key)?;
        let (numbered, told) = before.map_or((0, 0), |value| numbers(text(Some(&value))));
        let (number, _) = numbers(value);
        let (numbered, told) = if record.topic == "told" {
            (numbered, told + 1)
        } else {
            if number != numbered + 1 && !value.contains("skip") {
                return Err(Failure::fatal(format!("number {number} of {} after {numbered}", text(Some(record.key)))));
            }
            let key = text(Some(record.key));
            step.emit("asks", format!("ask-{}", number % 5).as_bytes(), "Asked", |out| {
                out.extend(format!("{number} {key}").bytes());
            })?;
            (number, told)
        };
        step.emit("last", record.key, "Seen", |out| out.extend(format!("{numbered} {told}").bytes()))
    }
}

/// Tells whoever asked.
struct Tell;

impl Processor for Tell {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        let before = step.get(0, record.key)?;
        let count = before.map_or(0, |value| numbers(text(Some(&value))).0) + 1;
        step.put(0, record.key, format!("{count}").as_bytes())?;
        let value = text(record.value);
        let (number, key) = value.split_once(' ').expect("asks name who asks");
        step.emit("told", key.as_bytes(), "Told", |out| out.extend(number.bytes()))
    }
}

fn latest(topic: &'static str) -> TableDefinition {
    let fold: Fold = Arc::new(|record, _| Ok(record.value.map_or(Change::Delete, |v| Change::Put(v.to_vec()))));
    TableDefinition { topic, fold }
}

/// A driver over the relay, with changes to its topology's text, and the switch that lets held words through.
#[must_use]
pub fn driver(change: impl FnOnce(&str) -> String) -> (Driver, Arc<AtomicBool>) {
    let open = Arc::new(AtomicBool::new(false));
    let switch = open.clone();
    let define = |name, store, tables, build: Build| ProcessorDefinition {
        name,
        stores: vec![StoreDefinition { name: store, tables, format: "text 1".into(), open: None }],
        globals: vec![],
        settings: &[],
        build,
    };
    let definitions = vec![
        define("number", "numbers", vec![latest("first")], Arc::new(|_| Box::new(Number))),
        define("ask", "seen", vec![latest("last")], Arc::new(move |_| Box::new(Ask { open: open.clone() }))),
        define("tell", "asked", vec![], Arc::new(|_| Box::new(Tell))),
    ];
    let mut topology = parse(&change(TOPOLOGY)).expect("the topology is right");
    check_definitions(&mut topology, &definitions).expect("code and file agree");
    (Driver::new(topology, definitions, Box::new(|_| None)), switch)
}

/// Words under seven keys, on both partitions.
pub fn feed(driver: &mut Driver, from: usize, to: usize) {
    for n in from..to {
        driver.produce("words", format!("key-{}", n % 7).as_bytes(), format!("word {n}").as_bytes());
    }
}

/// What each key has seen in the end: how many of its words were numbered and how many told.
#[must_use]
pub fn seen(driver: &Driver) -> BTreeMap<String, (u64, u64)> {
    let last = driver.records("last").into_iter();
    last.map(|(_, record)| (text(record.key.as_deref()).to_owned(), numbers(text(record.value.as_deref())))).collect()
}

/// Checks that of `words` words every one was numbered once and told once.
///
/// # Errors
/// What is wrong.
pub fn check(driver: &Driver, words: usize) -> Result<(), String> {
    let seen = seen(driver);
    let (numbered, told) = seen.values().fold((0, 0), |(n, t), (numbered, told)| (n + numbered, t + told));
    let told_records = driver.records("told").len();
    let wrong = seen.iter().find(|(_, (numbered, told))| numbered != told);
    if let Some((key, counts)) = wrong {
        return Err(format!("{key} has seen {counts:?}"));
    }
    if (numbered, told, told_records) == (words as u64, words as u64, words) {
        Ok(())
    } else {
        Err(format!("{words} words, {numbered} numbered, {told} told, {told_records} told on record"))
    }
}

/// A record of a stranger.
#[must_use]
pub fn stranger(key: &str, value: &str) -> Stored {
    Stored {
        offset: 0,
        timestamp: 0,
        key: Some(key.as_bytes().to_vec()),
        value: Some(value.as_bytes().to_vec()),
        headers: Vec::new(),
    }
}

/// A partition of a topic of the relay.
#[must_use]
pub fn at(driver: &Driver, topic: &str, partition: i32) -> TopicPartition {
    TopicPartition { topic: driver.topology().find_topic(topic).expect("the relay has it"), partition }
}
