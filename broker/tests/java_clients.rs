//! Unmodified Java clients and Kafka's own command-line tools against this broker.

#[path = "../../tests/kafka/node.rs"]
mod node;

mod clients;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use clients::*;
use node::JavaClients;
use rdkafka::producer::Producer;

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
        // Tools draw tables with spaces and tabs.
        let words = said.split_whitespace().collect::<Vec<_>>().join(" ");
        for wanted in expected {
            assert!(words.contains(wanted), "{class} {line}\nexpected {wanted}\nsaid {said}");
        }
    }
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

    // A transaction that hangs, found and ended by hand.
    let hanging = transactional(&t.servers, "hangs");
    hanging.begin_transaction().expect("begun");
    create_topic(&t.servers, "held", 1, &[]);
    send(&hanging, "held", 0, "k", "never decided");
    drain(&hanging);
    t.says(TRANSACTIONS, "--bootstrap-server SERVER list", &["hangs", "Ongoing"]);
    t.says(TRANSACTIONS, "--bootstrap-server SERVER describe --transactional-id hangs", &["Ongoing", "held-0"]);
    t.says(
        TRANSACTIONS,
        "--bootstrap-server SERVER describe-producers --topic held --partition 0",
        &["ProducerId", " 0 "],
    );
    t.says(
        TRANSACTIONS,
        "--bootstrap-server SERVER find-hanging --broker-id 1 --max-transaction-timeout 15",
        &["Topic Partition"],
    );
    t.run(TRANSACTIONS, "--bootstrap-server SERVER abort --topic held --partition 0 --start-offset 0", "");
    assert_eq!(read_to_end(&t.servers, "held", 0, "read_committed"), []);
    t.says(TOPICS, "--bootstrap-server SERVER --delete --topic held", &[]);
    t.says(TOPICS, "--bootstrap-server SERVER --list", &["t"]);
}
