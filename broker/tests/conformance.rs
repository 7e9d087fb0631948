//! The same requests to this broker and to Apache Kafka: the same answers. What Apache Kafka answers is kept in
//! `conformance/answers.txt`, so that this broker is held to it also where there is no Java. Write it anew, from Apache
//! Kafka, with `MILLRACE_RECORD_ANSWERS=1 cargo test -p millrace-broker --test conformance`.

#[path = "conformance/admin.rs"]
mod admin;
#[path = "conformance/cleanup.rs"]
mod cleanup;
#[path = "conformance/groups.rs"]
mod groups;
#[path = "../../tests/kafka/node.rs"]
mod node;
#[path = "conformance/records.rs"]
mod records;
#[path = "conformance/transactions.rs"]
mod transactions;
#[path = "conformance/wire.rs"]
mod wire;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use kafka_protocol::messages::{FindCoordinatorRequest, HeartbeatRequest, InitProducerIdRequest};
use millrace_broker::core::ErrorCode;
use millrace_broker::{ApiKey, Broker, BrokerConfig, Fault};

/// A case: it works on a fresh topic, group and transactional id of its own name, and says what it saw.
pub type Run = fn(&mut wire::Case) -> String;

/// Where this broker means to differ: the case, and what it answers. `broker/README.md` says why.
const DIFFERENCES: &[(&str, &str)] = &[
    ("change by an unknown operation", "InvalidRequest"),
    ("default segment.bytes", "ok segment.bytes=134217728 (default, type 3)"),
    ("record without a key on a compacted topic", "ok@0"),
];

fn cases() -> Vec<(&'static str, Run)> {
    let rooms = [admin::CASES, records::CASES, groups::CASES, transactions::CASES, cleanup::CASES];
    rooms.concat()
}

/// Cases, and a request of each that is answered wrongly once: the case must notice.
const CONTROLS: &[(&str, ApiKey)] = &[
    ("a batch of several records", ApiKey::Produce),
    ("every codec", ApiKey::Fetch),
    ("idempotent partial repeat", ApiKey::Produce),
    ("committed", ApiKey::EndTxn),
    ("partition added twice", ApiKey::AddPartitionsToTxn),
    ("coming back aborts", ApiKey::InitProducerId),
    ("offsets of a group not added", ApiKey::TxnOffsetCommit),
    ("heartbeat of an unknown instance", ApiKey::Heartbeat),
    ("join a group without a name", ApiKey::JoinGroup),
    ("sync of a stranger", ApiKey::SyncGroup),
    ("commit to no partition", ApiKey::OffsetCommit),
];

/// A name for topic, group and transactional id.
fn slug(case: &str) -> String {
    case.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter } else { '-' }).collect()
}

fn run(servers: &str) -> BTreeMap<&'static str, String> {
    wait_for_coordinators(servers);
    cases().into_iter().map(|(name, run)| (name, run_one(servers, name, run))).collect()
}

fn run_one(servers: &str, name: &str, run: Run) -> String {
    let mut case = wire::Case { wire: wire::Wire::connect(servers), servers: servers.to_owned(), name: slug(name) };
    catch_unwind(AssertUnwindSafe(|| run(&mut case))).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        format!("PANIC {}", what.unwrap_or("with a static message".to_owned()).replace('\n', " "))
    })
}

/// Apache Kafka makes its coordinators' topics when they are first asked for.
fn wait_for_coordinators(servers: &str) {
    let mut wire = wire::Wire::connect(servers);
    let deadline = std::time::Instant::now() + wire::PATIENCE;
    for number in 0..40 {
        let key = wire::text(&format!("warm-up-{number}"));
        loop {
            for kind in [0, 1] {
                let request =
                    FindCoordinatorRequest::default().with_key_type(kind).with_coordinator_keys(vec![key.clone()]);
                wire.call(4, &request);
            }
            let group = HeartbeatRequest::default().with_group_id(key.clone().into()).with_member_id(wire::text("x"));
            let init = InitProducerIdRequest::default()
                .with_transactional_id(Some(key.clone().into()))
                .with_transaction_timeout_ms(1000);
            let codes = [wire.call(4, &group).error_code, wire.call(4, &init).error_code];
            let codes = codes.map(wire::named);
            if codes == ["UnknownMemberId", "ok"] {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "no coordinator: {codes:?}");
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

fn answers_file() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/answers.txt")
}

fn recorded() -> BTreeMap<String, String> {
    let text = std::fs::read_to_string(answers_file()).unwrap_or_default();
    let lines = text.lines().filter_map(|line| line.split_once(" => "));
    lines.map(|(name, answer)| (name.to_owned(), answer.to_owned())).collect()
}

/// Every case whose answer is not the expected one, on a line each.
fn unlike(answers: &BTreeMap<&str, String>, expected: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let wrong = answers.iter().filter_map(|(name, answer)| {
        let expected = expected(name).unwrap_or("nothing recorded".to_owned());
        (*answer != expected).then(|| format!("{name}\n  expected {expected}\n  answered {answer}"))
    });
    wrong.collect()
}

#[test]
fn this_broker_answers_as_apache_kafka_did() {
    let dir = tempfile::tempdir().expect("a folder");
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let mut config = BrokerConfig { listen: loopback, data_dir: dir.path().to_owned(), ..BrokerConfig::default() };
    config.settings.housekeeping_interval = 100;
    config.settings.retention_interval = 100;
    // As the Apache Kafka of the tests is set up.
    config.settings.min_session_timeout = 1000;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let broker = runtime.block_on(Broker::start(config)).expect("the broker starts");
    let answers = run(&broker.kafka_addr().to_string());
    let recorded = recorded();
    let expected = |name: &str| {
        let wanted = DIFFERENCES.iter().find(|(case, _)| *case == name).map(|(_, answer)| (*answer).to_owned());
        wanted.or_else(|| recorded.get(name).cloned())
    };
    let wrong = unlike(&answers, expected);
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), answers.len(), wrong.join("\n"));
}

#[test]
fn one_wrong_answer_is_noticed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let recorded = recorded();
    for (name, kind) in CONTROLS {
        let (_, run) = cases().into_iter().find(|(case, _)| case == name).expect("a case of this name");
        let broker = runtime.block_on(Broker::start(BrokerConfig::temporary())).expect("the broker starts");
        broker.inject(*kind, Fault::Error(ErrorCode::UnknownServerError)).expect("it can fail");
        let answers = BTreeMap::from([(*name, run_one(&broker.kafka_addr().to_string(), name, run))]);
        let wrong = unlike(&answers, |name| recorded.get(name).cloned());
        assert_eq!(wrong.len(), 1, "{name} did not notice a wrong answer to {kind:?}");
        runtime.block_on(broker.stop());
    }
}

#[test]
fn apache_kafka_answers_as_recorded() {
    let Ok(kafka) = node::ApacheKafka::start() else { return };
    let answers = run(&kafka.bootstrap());
    if std::env::var_os("MILLRACE_RECORD_ANSWERS").is_some() {
        let lines = answers.iter().map(|(name, answer)| format!("{name} => {answer}\n"));
        std::fs::write(answers_file(), lines.collect::<String>()).expect("written");
    }
    let recorded = recorded();
    let wrong = unlike(&answers, |name| recorded.get(name).filter(|answer| !answer.starts_with("PANIC")).cloned());
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), answers.len(), wrong.join("\n"));
    for (case, answer) in DIFFERENCES {
        assert_ne!(recorded.get(*case).map(String::as_str), Some(*answer), "{case} is no difference any more");
    }
}

#[test]
fn names_are_unique_and_there_are_enough_of_them() {
    let all = cases();
    let slugs: std::collections::BTreeSet<String> = all.iter().map(|(name, _)| slug(name)).collect();
    assert_eq!(slugs.len(), all.len());
    assert!(all.len() >= 120, "{} cases", all.len());
    for (case, _) in DIFFERENCES {
        assert!(include_str!("../README.md").contains(&format!("`{case}`")), "the README must say why: {case}");
    }
}
