//! The smallest topology that has everything: records in, counts kept as a table of the output, a store with a
//! changelog of its own, deadlines, calls, dead letters. Shared by the engine's tests.

#![allow(dead_code)]

use std::sync::Arc;

use millrace_runtime::testing::{Driver, Handler};
use millrace_runtime::*;

/// Wiring of the counting topology.
pub const TOPOLOGY: &str = r#"
application = "counting"
[engine]
commit_records = 5
commit_latency = "100ms"
park_retry = "1s"
park_tries_max = 3
[topics.words]
partitions = 2
retention = "7d"
[topics.counts]
partitions = 2
cleanup = "compact"
sink = true
[processors.count]
inputs = ["words"]
outputs = ["counts"]
on-poison = "dead-letter"
[processors.count.stores.counts]
table-of = ["counts"]
[processors.count.stores.last]
[processors.count.settings]
patience_ms = 1000
[sub-topologies]
counting = ["count"]
"#;

/// Counts words. `!poison` cannot be processed, `?later` not yet while the switch is off, `ask:` calls out, `wait:` has a
/// deadline.
struct Count {
    open: Arc<std::sync::atomic::AtomicBool>,
}

impl Processor for Count {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        let word = record.value.ok_or_else(|| Failure::poison("a tombstone is no word"))?;
        if word.starts_with(b"!") && !self.open.load(std::sync::atomic::Ordering::Relaxed) {
            step.put(1, record.key, b"half done")?;
            return Err(Failure::poison("it is poison"));
        }
        if word.starts_with(b"?") && !self.open.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(Failure::NotYet("the switch is off".into()));
        }
        self.add(record.key, word, step)
    }

    fn on_deadline(&mut self, due: &Due<'_>, step: &mut Step<'_>) -> Outcome {
        self.add(due.key, b"fired", step)
    }

    fn on_answer(&mut self, answer: &Answered<'_>, step: &mut Step<'_>) -> Outcome {
        let mut text = b"answered ".to_vec();
        text.extend_from_slice(answer.response);
        self.add(answer.key, &text, step)
    }
}

impl Count {
    fn add(&mut self, key: &[u8], word: &[u8], step: &mut Step<'_>) -> Outcome {
        let before = step.get(0, key)?;
        let count = before.as_deref().map_or(0, count_of) + 1;
        let now = step.now();
        step.put(1, key, word)?;
        step.count("words", "counted");
        step.emit("counts", key, "Counted", |out| {
            let deadline = if word.starts_with(b"wait:") { now + 1_000 } else { 0 };
            out.extend(format!("{count} {deadline} {}", String::from_utf8_lossy(word)).bytes());
        })
    }
}

/// The count in a stored or emitted value.
#[must_use]
pub fn count_of(value: &[u8]) -> u64 {
    let text = std::str::from_utf8(value).expect("counts are text");
    text.split(' ').next().and_then(|n| n.parse().ok()).expect("a count begins with a number")
}

fn deadline(value: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(value).ok()?;
    text.split(' ').nth(1)?.parse().ok().filter(|at| *at > 0)
}

fn call(key: &[u8], value: &[u8]) -> Option<CallRequest> {
    let text = std::str::from_utf8(value).ok()?;
    let asked = text.splitn(3, ' ').nth(2)?.strip_prefix("ask:")?;
    Some(CallRequest { id: format!("{}/{}", String::from_utf8_lossy(key), count_of(value)), request: asked.into() })
}

/// The processor, and the switch that lets held and poison words through.
#[must_use]
pub fn definition() -> (ProcessorDefinition, Arc<std::sync::atomic::AtomicBool>) {
    let open = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let switch = open.clone();
    let fold: Fold = Arc::new(|record, _| Ok(record.value.map_or(Change::Delete, |v| Change::Put(v.to_vec()))));
    let counts = StoreDefinition {
        name: "counts",
        tables: vec![TableDefinition { topic: "counts", fold }],
        format: "text 1".into(),
        open: Some(|key, value| Open { deadline: deadline(value), call: call(key, value), waiting: None }),
    };
    let last = StoreDefinition { name: "last", tables: vec![], format: "text 1".into(), open: None };
    let definition = ProcessorDefinition {
        name: "count",
        stores: vec![counts, last],
        globals: vec![],
        settings: &["patience_ms"],
        build: Arc::new(move |_| Box::new(Count { open: open.clone() })),
    };
    (definition, switch)
}

/// A driver over the counting topology, with changes to its text.
#[must_use]
pub fn driver(change: impl FnOnce(&str) -> String) -> (Driver, Arc<std::sync::atomic::AtomicBool>) {
    let echo = |call: &Call| Some([if call.repeated { &b"again "[..] } else { b"" }, &call.request].concat());
    driver_that_answers(change, Box::new(echo))
}

/// The same, whose calls are answered so.
#[must_use]
pub fn driver_that_answers(
    change: impl FnOnce(&str) -> String,
    handler: Handler,
) -> (Driver, Arc<std::sync::atomic::AtomicBool>) {
    let (definition, switch) = definition();
    let mut topology = parse(&change(TOPOLOGY)).expect("the topology is right");
    let definitions = vec![definition];
    check_definitions(&mut topology, &definitions).expect("code and file agree");
    (Driver::new(topology, definitions, handler), switch)
}

/// The final count of each key, from the topic alone; panics on a gap or a repeat.
#[must_use]
pub fn counts(driver: &Driver) -> std::collections::BTreeMap<Vec<u8>, u64> {
    try_counts(driver).expect("counts go up one by one")
}

/// The final count of each key, from the topic alone.
///
/// # Errors
/// The key whose counts have a gap or a repeat.
pub fn try_counts(driver: &Driver) -> Result<std::collections::BTreeMap<Vec<u8>, u64>, String> {
    let mut counts = std::collections::BTreeMap::new();
    for (_, record) in driver.records("counts") {
        let key = record.key.expect("counts have keys");
        let count = count_of(record.value.as_deref().expect("counts have values"));
        let before = counts.insert(key.clone(), count).unwrap_or(0);
        if count != before + 1 {
            return Err(format!("{}: {before}, then {count}", String::from_utf8_lossy(&key)));
        }
    }
    Ok(counts)
}
