//! A data folder is told as it is, whether the broker was stopped or killed, and nothing in it is changed.

mod clients;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clients::process::Process;
use clients::*;
use millrace_broker::inspect::Folder;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::producer::Producer;
use rdkafka::{Offset, TopicPartitionList};

fn files(dir: &Path, into: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in std::fs::read_dir(dir).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, into);
        } else {
            into.insert(path.clone(), std::fs::read(&path).expect("read"));
        }
    }
}

#[test]
fn a_folder_is_told_as_it_is_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let mut process = Process::start(dir.path(), 0);
    let servers = process.servers();
    create_topic(&servers, "t", 1, &[("segment.bytes", "2000")]);
    let done = transactional(&servers, "done");
    for commit in [true, false] {
        done.begin_transaction().expect("begun");
        for number in 0..10 {
            send(&done, "t", 0, "k", &format!("{number} {}", "x".repeat(200)));
            drain(&done);
        }
        if commit {
            done.commit_transaction(PATIENCE).expect("committed");
        } else {
            done.abort_transaction(PATIENCE).expect("aborted");
        }
    }
    let open = transactional(&servers, "open");
    open.begin_transaction().expect("begun");
    send(&open, "t", 0, "k", "open");
    drain(&open);
    let reader: BaseConsumer = consumer(&servers, "readers").create().expect("a consumer");
    let mut position = TopicPartitionList::new();
    position.add_partition_offset("t", 0, Offset::Offset(7)).expect("added");
    reader.commit(&position, CommitMode::Sync).expect("committed");
    let folder = Folder::open(dir.path()).expect("opened");
    assert!(folder.is_in_use());
    process.kill();
    assert!(!folder.is_in_use());

    let mut before = BTreeMap::new();
    files(dir.path(), &mut before);
    for verify in [false, true] {
        let report = folder.report(verify).expect("read");
        let topic = report.topics.iter().find(|topic| topic.topic == "t").expect("the topic");
        let partition = &topic.partitions[0];
        assert_eq!((partition.start, partition.end, partition.last_stable), (0, 23, 22));
        assert!(partition.segments.len() > 2 && partition.damage.is_none());
        assert_eq!(partition.aborted.len(), 1);
        assert!(partition.producers.iter().any(|producer| producer.open_since == Some(22)));
        let states: Vec<(&str, &str)> =
            report.transactions.iter().map(|transaction| (transaction.id.as_str(), transaction.state.name())).collect();
        assert_eq!(states, [("done", "CompleteAbort"), ("open", "Ongoing")]);
        let [group] = &report.groups[..] else { panic!("{:?}", report.groups) };
        assert_eq!((&*group.group, group.state, group.members.len()), ("readers", "Empty", 0));
        let offsets: Vec<_> = group.offsets.iter().map(|of| (&*of.topic, of.partition, of.offset)).collect();
        assert_eq!(offsets, [("t", 0, 7)]);
        let batches = folder.batches(partition, 5, 100).expect("read");
        let kinds: Vec<&str> = batches.iter().map(|batch| batch.kind).collect();
        assert_eq!(batches[0].base_offset, 5);
        assert_eq!((kinds[5], kinds[16], kinds[17]), ("commit", "abort", "transactional"));
        assert!(batches.iter().all(|batch| batch.intact));
    }
    let mut after = BTreeMap::new();
    files(dir.path(), &mut after);
    assert!(before == after, "something was changed");

    // Damage is named, not repaired.
    let is_log = |path: &PathBuf| path.extension().is_some_and(|kind| kind == "log");
    let (broken, _) = before.iter().find(|(path, bytes)| is_log(path) && bytes.len() > 1000).expect("a segment");
    let mut bytes = before[broken].clone();
    bytes[100] ^= 1;
    std::fs::write(broken, bytes).expect("written");
    let report = folder.report(true).expect("read");
    let damages: Vec<String> =
        report.topics.iter().flat_map(|topic| &topic.partitions).filter_map(|p| p.damage.clone()).collect();
    let name = broken.file_name().expect("a name").to_string_lossy().into_owned();
    assert!(damages.len() == 1 && damages[0].contains(&name) && damages[0].contains("at byte 0"), "{damages:?}");
}
