//! Unmodified Java clients and Kafka's own command-line tools against this broker.

#[path = "../../tests/kafka/node.rs"]
mod node;

mod clients;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use clients::*;
use node::JavaClients;
use rdkafka::producer::{BaseRecord, Producer};

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/java").join(name)
}

fn applications_run(java: &JavaClients) {
    let broker = start();
    let classes = tempfile::tempdir().expect("a folder");
    java.compile(&source("Clients.java"), classes.path());
    let output = java.program(classes.path(), "Clients").arg(broker.servers()).output().expect("java starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    assert_eq!(out.lines().filter(|line| line.starts_with("ok ")).count(), 7, "{out}");
}

#[test]
fn java_applications_run() {
    let Ok(java) = JavaClients::find() else { return };
    applications_run(&java);
}

#[test]
fn java_applications_with_older_clients_run() {
    let Ok(java) = JavaClients::find_older() else { return };
    applications_run(&java);
}

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const PRODUCER: &str = "org.apache.kafka.tools.ConsoleProducer";
const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const PRODUCER_PERF: &str = "org.apache.kafka.tools.ProducerPerformance";
const CONSUMER_PERF: &str = "org.apache.kafka.tools.ConsumerPerformance";

/// Runs Kafka's tools against one broker.
struct Tools {
    java: JavaClients,
    servers: String,
}

impl Tools {
    /// What the tool prints; `line` has `SERVER` where the address goes.
    fn run(&self, class: &str, line: &str, input: &str) -> String {
        let arguments = line.split(' ').map(|word| if word == "SERVER" { self.servers.as_str() } else { word });
        let mut child = self
            .java
            .tool(class)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("java starts");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("written");
        let output = child.wait_with_output().expect("it ends");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{class} {line}\n{out}\n{err}");
        out.into_owned()
    }

    /// Runs a tool and looks for some words in what it prints.
    fn says(&self, class: &str, line: &str, expected: &[&str]) {
        let said = self.run(class, line, "");
        let words = words(&said);
        for wanted in expected {
            assert!(words.contains(wanted), "{class} {line}\nexpected {wanted}\nsaid {said}");
        }
    }

    /// The table of transactions that no coordinator will end and that are older than any may be.
    fn hanging(&self) -> String {
        let said = self.run(
            TRANSACTIONS,
            "--bootstrap-server SERVER find-hanging --broker-id 1 --max-transaction-timeout 15",
            "",
        );
        words(&said)
    }
}

/// Tools draw tables with spaces and tabs.
fn words(said: &str) -> String {
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The files that keep what the coordinators know.
fn journals(dir: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(dir).expect("a folder").map(|entry| entry.expect("an entry").path());
    files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-"))).collect()
}

/// It hangs, for an older copy of what the coordinator knew is put back beside newer records.
#[test]
fn kafkas_own_tool_finds_a_transaction_that_hangs_and_ends_it() {
    let Ok(java) = JavaClients::find() else { return };
    let dir = tempfile::tempdir().expect("a folder");
    let broker = start_in(dir.path());
    let servers = broker.kafka_addr().to_string();
    create_topic(&servers, "held", 1, &[]);
    let hangs = transactional(&servers, "hangs");
    let older: Vec<_> =
        journals(dir.path()).into_iter().map(|path| (std::fs::read(&path).expect("read"), path)).collect();
    hangs.begin_transaction().expect("begun");
    let long_ago = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() - 3_600_000;
    let record = BaseRecord::to("held").partition(0).key("k").payload("never decided");
    let sent = hangs.send(record.timestamp(i64::try_from(long_ago).expect("in range")));
    sent.map_err(|(error, _)| error).expect("enqueued");
    drain(&hangs);
    block_on(broker.stop());
    drop(hangs);
    for path in journals(dir.path()) {
        std::fs::remove_file(path).expect("removed");
    }
    for (bytes, path) in older {
        std::fs::write(path, bytes).expect("written");
    }

    let broker = start_in(dir.path());
    let t = Tools { java, servers: broker.kafka_addr().to_string() };
    let other = producer(&t.servers);
    send(&other, "held", 0, "k", "behind it");
    drain(&other);
    assert_eq!(read_to_end(&t.servers, "held", 0, "read_committed"), []);
    let found = t.hanging();
    assert!(found.contains("Duration(min) held 0 "), "{found}");
    t.run(TRANSACTIONS, "--bootstrap-server SERVER abort --topic held --partition 0 --start-offset 0", "");
    until("what stands behind it can be read", || values(&t.servers, "held", 0, "read_committed") == ["behind it"]);
    assert!(!t.hanging().contains("held"));
}

#[test]
fn kafkas_own_tools_run() {
    let Ok(java) = JavaClients::find() else { return };
    let broker = start();
    let t = Tools { java, servers: broker.servers() };
    t.says(
        TOPICS,
        "--bootstrap-server SERVER --create --topic t --partitions 2 --config retention.ms=9999999",
        &["Created topic t."],
    );
    t.says(
        TOPICS,
        "--bootstrap-server SERVER --describe --topic t",
        &["PartitionCount: 2", "retention.ms=9999999", "Partition: 1 Leader: 1"],
    );
    t.run(
        PRODUCER,
        "--bootstrap-server SERVER --topic t --reader-property parse.key=true --reader-property key.separator=:",
        "a:1\nb:2\na:3\n",
    );
    let read = t.run(
        CONSUMER,
        "--bootstrap-server SERVER --topic t --group g --from-beginning --max-messages 3 --timeout-ms 30000",
        "",
    );
    let mut read: Vec<&str> = read.lines().collect();
    read.sort_unstable();
    assert_eq!(read, ["1", "2", "3"]);
    t.says(
        GROUPS,
        "--bootstrap-server SERVER --describe --group g",
        &["GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG"],
    );
    t.says(
        GROUPS,
        "--bootstrap-server SERVER --reset-offsets --group g --topic t --to-earliest --execute",
        &["g t 0 0", "g t 1 0"],
    );
    t.says(GROUPS, "--bootstrap-server SERVER --delete --group g", &["('g') was successful"]);
    t.says(
        CONFIGS,
        "--bootstrap-server SERVER --entity-type topics --entity-name t --alter --add-config max.message.bytes=2000000",
        &["Completed"],
    );
    t.says(
        CONFIGS,
        "--bootstrap-server SERVER --entity-type topics --entity-name t --describe",
        &["max.message.bytes=2000000"],
    );
    t.says(
        PRODUCER_PERF,
        "--bootstrap-server SERVER --topic t --num-records 2000 --record-size 100 --throughput -1",
        &["2000 records sent"],
    );
    t.says(CONSUMER_PERF, "--bootstrap-server SERVER --topic t --num-records 2003 --group perf", &["2003"]);
    t.says(OFFSETS, "--bootstrap-server SERVER --topic t --time earliest", &["t:0:0", "t:1:0"]);

    // A transaction that its owner leaves open, ended by hand.
    let open = transactional(&t.servers, "open");
    open.begin_transaction().expect("begun");
    create_topic(&t.servers, "held", 1, &[]);
    send(&open, "held", 0, "k", "never decided");
    drain(&open);
    t.says(TRANSACTIONS, "--bootstrap-server SERVER list", &["open", "Ongoing"]);
    t.says(TRANSACTIONS, "--bootstrap-server SERVER describe --transactional-id open", &["Ongoing", "held-0"]);
    t.says(
        TRANSACTIONS,
        "--bootstrap-server SERVER describe-producers --topic held --partition 0",
        &["ProducerId", " 0 "],
    );
    assert_eq!(
        t.hanging(),
        "Topic Partition ProducerId ProducerEpoch CoordinatorEpoch StartOffset LastTimestamp Duration(min)"
    );
    t.run(TRANSACTIONS, "--bootstrap-server SERVER abort --topic held --partition 0 --start-offset 0", "");
    assert_eq!(read_to_end(&t.servers, "held", 0, "read_committed"), []);
    t.says(TOPICS, "--bootstrap-server SERVER --delete --topic held", &[]);
    t.says(TOPICS, "--bootstrap-server SERVER --list", &["t"]);
}
