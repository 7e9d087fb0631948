//! A Kafka Streams application on this broker: `exactly_once_v2`, a repartition topic, a state store with its changelog
//! and a standby, in two processes, while the processes and the broker are killed (`kill -9`) in turn. Every word must
//! have been counted 1, 2, 3 and so on, nothing left out and nothing twice.
//!
//! The long form: `MILLRACE_STREAMS_SECONDS=300 cargo test -p millrace-broker --test streams -- --nocapture`.
//! `MILLRACE_STREAMS_GUARANTEE=at_least_once` shows what the test is worth: it fails.

#[path = "../../tests/kafka/node.rs"]
mod node;

mod clients;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clients::process::Process;
use clients::*;
use node::JavaClients;
use rdkafka::consumer::Consumer;
use rdkafka::producer::{BaseProducer, BaseRecord};

const PARTITIONS: i32 = 4;
const WORDS: usize = 40;
/// A start or a takeover may take so long on a loaded machine; when nothing happens for longer, something is stuck.
const STUCK: Duration = Duration::from_secs(120);
/// Each instance and the broker are killed once in the short form.
const SHORT_ROUNDS: usize = 2;

/// What one instance of the application has said so far.
#[derive(Default)]
struct Said {
    running: AtomicBool,
    standby: AtomicBool,
    errors: Mutex<String>,
}

/// One instance of the application; its state directory outlives it.
struct Instance {
    child: Child,
    said: Arc<Said>,
}

/// What it takes to start instances.
struct Application {
    java: JavaClients,
    classes: PathBuf,
    servers: String,
    guarantee: String,
}

impl Application {
    fn start(&self, state: &Path) -> Instance {
        let mut child = self
            .java
            .program(&self.classes, "Counts")
            .args([&self.servers, &state.display().to_string(), &self.guarantee])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("java starts");
        let said = Arc::new(Said::default());
        let (out, heard) = (child.stdout.take().expect("piped"), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                match line.split(' ').collect::<Vec<_>>()[..] {
                    ["running"] => heard.running.store(true, Ordering::SeqCst),
                    ["tasks", _, standby] if standby != "0" => heard.standby.store(true, Ordering::SeqCst),
                    _ => {}
                }
            }
        });
        let (err, heard) = (child.stderr.take().expect("piped"), said.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(err).lines().map_while(Result::ok) {
                let mut errors = heard.errors.lock().expect("no panic holds it");
                errors.push_str(&line);
                errors.push('\n');
            }
        });
        Instance { child, said }
    }
}

impl Instance {
    /// `kill -9`.
    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }

    fn until(&mut self, what: &str, condition: impl Fn(&Said) -> bool) {
        let deadline = Instant::now() + STUCK;
        while !condition(&self.said) {
            let ended = self.child.try_wait().expect("our own child can be asked");
            let errors = self.said.errors.lock().expect("no panic holds it");
            assert!(ended.is_none() && Instant::now() < deadline, "waited in vain: {what}: {ended:?}\n{errors}");
            drop(errors);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Writes words until it is told to stop.
struct Writer {
    stop: AtomicBool,
    written: AtomicUsize,
}

impl Writer {
    fn run(&self, producer: &BaseProducer) {
        while !self.stop.load(Ordering::SeqCst) {
            for _ in 0..10 {
                let number = self.written.load(Ordering::SeqCst);
                // The key says nothing of the word, so the words of a partition are counted in all of them.
                let (key, word) = (number.to_string(), word(number));
                let record = BaseRecord::to("words").partition((number % PARTITIONS as usize) as i32);
                producer.send(record.key(&key).payload(&word)).map_err(|(error, _)| error).expect("enqueued");
                self.written.fetch_add(1, Ordering::SeqCst);
            }
            producer.poll(Duration::from_millis(50));
        }
    }
}

fn word(number: usize) -> String {
    // Three in a row, so that a word comes from every partition.
    format!("word {}", number / 3 % WORDS)
}

/// All counts that came out, in order, by word.
type Counted = BTreeMap<String, Vec<usize>>;

fn counted(servers: &str) -> Counted {
    let mut counted = Counted::new();
    for partition in 0..PARTITIONS {
        for (key, value) in keyed_to_end(servers, "counted", partition) {
            counted.entry(key).or_default().push(value.parse().expect("a count"));
        }
    }
    counted
}

fn keyed_to_end(servers: &str, topic: &str, partition: i32) -> Vec<(String, String)> {
    let consumer = reader(servers, topic, partition, "read_committed");
    let deadline = Instant::now() + PATIENCE;
    let mut found = Vec::new();
    loop {
        assert!(Instant::now() < deadline, "no end of {topic}/{partition}");
        match consumer.poll(Duration::from_millis(100)) {
            None => {}
            Some(Ok(message)) => found.push((key(&message), value(&message))),
            Some(Err(rdkafka::error::KafkaError::PartitionEOF(_))) => {
                consumer.unassign().ok();
                return found;
            }
            Some(Err(error)) => panic!("{error}"),
        }
    }
}

/// What is wrong with the counts of `written` words, if anything is.
fn wrong(counted: &Counted, written: usize) -> Result<(), String> {
    let mut expected: BTreeMap<String, usize> = BTreeMap::new();
    for number in 0..written {
        *expected.entry(word(number)).or_default() += 1;
    }
    for (word, times) in &expected {
        let counts = counted.get(word).map(Vec::as_slice).unwrap_or_default();
        let first_wrong = (0..counts.len().max(*times)).find(|at| counts.get(*at) != Some(&(at + 1)) || at >= times);
        if let Some(at) = first_wrong {
            let place = &counts[at.saturating_sub(3).min(counts.len())..(at + 3).min(counts.len())];
            return Err(format!("{word}, written {times} times: count {} is not there, but {place:?}", at + 1));
        }
    }
    match counted.keys().find(|word| !expected.contains_key(*word)) {
        Some(word) => Err(format!("{word} was never written")),
        None => Ok(()),
    }
}

fn outputs(counted: &Counted) -> usize {
    counted.values().map(Vec::len).sum()
}

/// How far everything has come: what is in each topic, what of it readers of committed records see, and where the
/// application stands.
fn standing(servers: &str) -> String {
    let topics = ["words", "counts-by-word-repartition", "counts-counts-changelog", "counted"];
    let all = topics.iter().flat_map(|topic| (0..PARTITIONS).map(move |partition| (*topic, partition)));
    let lines = all.map(|(topic, partition)| {
        let end = |isolation| reader(servers, topic, partition, isolation).fetch_watermarks(topic, partition, PATIENCE);
        let (committed, end) = (end("read_committed"), end("read_uncommitted"));
        let group = crate::committed(servers, "counts", topic, partition);
        format!("{topic}/{partition}: {end:?}, of it committed {committed:?}, read by the group up to {group:?}\n")
    });
    lines.collect()
}

/// Waits until so many more counts have come out than there are now.
fn until_more(servers: &str, more: usize, instances: &[Instance]) {
    let before = outputs(&counted(servers));
    let deadline = Instant::now() + STUCK;
    while outputs(&counted(servers)) < before + more {
        let errors = || instances.iter().map(|one| one.said.errors.lock().expect("no panic").clone());
        assert!(Instant::now() < deadline, "nothing is counted any more\n{}", errors().collect::<String>());
        std::thread::sleep(Duration::from_millis(300));
    }
}

#[test]
fn a_streams_application_counts_exactly_once_while_it_and_the_broker_are_killed() {
    let Ok(java) = JavaClients::find() else { return };
    let long = std::env::var("MILLRACE_STREAMS_SECONDS").ok();
    let long = long.map(|seconds| Duration::from_secs(seconds.parse().expect("a number of seconds")));
    let guarantee = std::env::var("MILLRACE_STREAMS_GUARANTEE").unwrap_or_else(|_| "exactly_once_v2".to_owned());
    let began = Instant::now();
    let dir = tempfile::tempdir().expect("a folder");
    let classes = dir.path().join("classes");
    std::fs::create_dir(&classes).expect("created");
    java.compile(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java/Counts.java"), &classes);

    let mut broker = Process::start(&dir.path().join("broker"), 0);
    let servers = broker.servers();
    create_topic(&servers, "words", PARTITIONS, &[]);
    create_topic(&servers, "counted", PARTITIONS, &[]);
    let writer = Arc::new(Writer { stop: AtomicBool::new(false), written: AtomicUsize::new(0) });
    let producer = Arc::new(producer(&servers));
    let writing = std::thread::spawn({
        let (writer, producer) = (writer.clone(), producer.clone());
        move || writer.run(&producer)
    });

    let application = Application { java, classes, servers: servers.clone(), guarantee };
    let states = [dir.path().join("state-0"), dir.path().join("state-1")];
    let mut instances = states.each_ref().map(|state| application.start(state));
    for instance in &mut instances {
        instance.until("running", |said| said.running.load(Ordering::SeqCst));
        instance.until("a standby", |said| said.standby.load(Ordering::SeqCst));
    }
    until_more(&servers, 100, &instances);
    let mut rounds = 0;
    while long.map_or(rounds < SHORT_ROUNDS, |long| began.elapsed() < long) {
        let victim = rounds % 2;
        instances[victim].kill();
        if rounds % 3 == 2 {
            // The other one has to take over before it comes back.
            until_more(&servers, 100, &instances);
        }
        instances[victim] = application.start(&states[victim]);
        let address = broker.kill();
        broker = Process::start(&dir.path().join("broker"), address.port());
        until_more(&servers, 100, &instances);
        instances[victim].until("running", |said| said.running.load(Ordering::SeqCst));
        rounds += 1;
    }

    writer.stop.store(true, Ordering::SeqCst);
    writing.join().expect("it wrote");
    drain(&producer);
    let written = writer.written.load(Ordering::SeqCst);
    let there: usize = (0..PARTITIONS).map(|partition| keyed_to_end(&servers, "words", partition).len()).sum();
    assert_eq!(there, written, "all that was written is there, and once");
    let mut deadline = Instant::now() + STUCK;
    let mut last = counted(&servers);
    while outputs(&last) < written {
        let faults = || {
            let errors = instances.iter().map(|one| one.said.errors.lock().expect("no panic").clone());
            format!("{:?}\n{}{}", wrong(&last, written), standing(&servers), errors.collect::<String>())
        };
        assert!(Instant::now() < deadline, "{} of {written} counted: {}", outputs(&last), faults());
        std::thread::sleep(Duration::from_millis(100));
        let now = counted(&servers);
        if outputs(&now) > outputs(&last) {
            deadline = Instant::now() + STUCK;
        }
        last = now;
    }
    assert_eq!(wrong(&last, written), Ok(()));
    let metadata = reader(&servers, "words", 0, "read_committed").fetch_metadata(None, PATIENCE).expect("answered");
    let topics: Vec<&str> = metadata.topics().iter().map(rdkafka::metadata::MetadataTopic::name).collect();
    for topic in ["counts-by-word-repartition", "counts-counts-changelog"] {
        assert!(topics.contains(&topic), "{topics:?}");
    }
    eprintln!("{written} words counted in {:?}, {rounds} kills of an instance and of the broker", began.elapsed());
}

type Spoil = fn(&mut Vec<usize>);

#[test]
fn a_count_that_is_missing_or_there_twice_is_found() {
    let mut right = Counted::new();
    for number in 0..200 {
        let counts = right.entry(word(number)).or_default();
        counts.push(counts.len() + 1);
    }
    assert_eq!(wrong(&right, 200), Ok(()));
    let spoils: [(&str, Spoil); 5] = [
        ("one left out", |counts| counts.retain(|count| *count != 3)),
        ("the last left out", |counts| counts.truncate(counts.len() - 1)),
        ("one twice", |counts| counts.insert(2, 2)),
        ("the last twice", |counts| counts.push(counts.len())),
        ("one too many", |counts| counts.push(counts.len() + 1)),
    ];
    for (what, spoil) in spoils {
        let mut spoiled = right.clone();
        spoil(spoiled.get_mut(&word(7)).expect("a word"));
        assert!(wrong(&spoiled, 200).is_err(), "{what}");
    }
}
