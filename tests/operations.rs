//! What operators do, through the program: look at metrics and probes, deal with dead letters. On real processes.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::Duration;

use millrace_audit::{Phase, Promise};
use millrace_runtime::{DeadLetters, Fate};
use millrace_schemas::{OrderStatus, ShipmentUpdate, ShipmentUpdateKind, StockLine, topics};
use millrace_worker::{Transaction, TransactionError};
use serde_json::Value;
use support::processes::{Ground, Process, ProcessShop, free_port};
use support::{Shop, audit, order, place, produce, stock, until_status};

const LETTERS: &str = "dead-letters.intake";

/// A command of the program: its exit code, what it printed, what it said.
fn millrace(shop: &ProcessShop, args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millrace"));
    command.args(args).args(["--kafka", &shop.kafka, "--registry", &shop.registry]).stdin(Stdio::null());
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A command that must succeed; what it printed.
fn done(shop: &ProcessShop, args: &[&str]) -> String {
    let (code, out, said) = millrace(shop, args);
    assert_eq!(code, 0, "{args:?}: {out}{said}");
    out
}

fn list(shop: &ProcessShop, more: &[&str]) -> Vec<Value> {
    let args: Vec<&str> = ["dlq", "list", "-o", "json"].iter().chain(more).copied().collect();
    serde_json::from_str(&done(shop, &args)).unwrap()
}

fn of<'a>(letters: &'a [Value], name: &str) -> Vec<&'a str> {
    letters.iter().map(|letter| letter[name].as_str().unwrap_or_default()).collect()
}

fn shipped(shop: &mut ProcessShop, id: &str, shipment: &str, lines: &[(&str, i32)]) {
    let lines = lines.iter().map(|(sku, quantity)| StockLine { sku: (*sku).into(), quantity: *quantity }).collect();
    let kind = ShipmentUpdateKind::Shipped;
    let update = ShipmentUpdate { order_id: id.into(), shipment_id: shipment.into(), kind, lines, at: 1 };
    produce(shop, topics::SHIPMENTS_UPDATES, id, &update);
}

fn until_letters(shop: &mut ProcessShop, topic: &str, count: usize) {
    shop.until("the records are dead letters", &mut |shop| shop.records(&[topic]).len() == count);
}

/// Also one that has nothing to end yet: an orchestrator takes any other end for a failure.
#[test]
fn who_is_told_to_end_while_it_starts_ends_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for command in [&["run", "--all"][..], &["ingress"], &["warehouse"]] {
        let mut starting = Process::start(dir.path(), command[0], &[command, &["--registry", &nobody]].concat());
        starting.until_it_says("waiting for the registry");
        assert_eq!(starting.stop(), Some(0), "{command:?}");
    }
}

/// Records that came too early fail, are put back once their time has come, and take effect in their order.
fn letters_are_put_back_in_order(ground: Ground) {
    let Some(mut shop) = ProcessShop::start(ground, false) else { return };
    stock(&mut shop, &[("book", 1_200, 100), ("pen", 100, 100)]);
    shipped(&mut shop, "early-1", "first", &[("book", 1)]);
    shipped(&mut shop, "early-1", "second", &[]);
    shipped(&mut shop, "early-2", "other", &[]);
    until_letters(&mut shop, "dead-letters.fulfillment", 3);
    let open = list(&shop, &["--processor", "fulfillment", "--key", "early-1"]);
    assert_eq!(of(&open, "key"), ["early-1", "early-1"]);
    assert_eq!((of(&open, "topic")[0], of(&open, "state")[0]), (topics::SHIPMENTS_UPDATES, "open"));
    let letter = open[0]["letter"].as_str().unwrap().to_owned();
    let shown: Value = serde_json::from_str(&done(&shop, &["dlq", "show", &letter])).unwrap();
    assert_eq!(shown["record"]["value"]["shipment_id"], "first", "{shown}");
    assert!(shown["reason"].as_str().is_some_and(|reason| reason.contains("early-1")), "{shown}");

    place(&mut shop, &order("early-1", &[("book", 1), ("pen", 2)], "tok_visa"));
    until_status(&mut shop, "early-1", OrderStatus::Confirmed);
    let before = shop.count(topics::SHIPMENTS_UPDATES);
    let dry = done(&shop, &["dlq", "replay", "--key", "early-1", "--dry-run"]);
    assert_eq!((dry.lines().count(), shop.count(topics::SHIPMENTS_UPDATES)), (2, before), "{dry}");
    let (code, _, said) = millrace(&shop, &["dlq", "replay", "--key", "early-1"]);
    assert!(code == 2 && said.contains("--yes"), "nobody can be asked: {code} {said}");
    assert_eq!(list(&shop, &[]).len(), 3);
    done(&shop, &["dlq", "replay", "--key", "early-1", "--yes"]);
    let closed = until_status(&mut shop, "early-1", OrderStatus::Shipped);
    assert_eq!(closed.shipments, ["first", "second"]);
    assert_eq!(of(&list(&shop, &[]), "key"), ["early-2"]);
    let (code, _, said) = millrace(&shop, &["dlq", "replay", &letter, "--yes"]);
    assert!(code == 1 && said.contains("was replayed before"), "{code} {said}");
    done(&shop, &["dlq", "discard", "--key", "early-2", "--yes"]);
    assert_eq!(list(&shop, &[]), Vec::<Value>::new());
    assert_eq!(of(&list(&shop, &["--all"]), "state"), ["replayed", "replayed", "discarded"]);
    let report = audit(&mut shop, Phase::Running);
    assert!(report.holds(), "{report}");
    let settled = audit(&mut shop, Phase::Settled);
    assert!(settled.verdict(Promise::P9).holds, "{settled}");
}

/// What fails again becomes a new letter that names the first; bytes, key and time stay as they were, and the order too.
fn what_fails_again_names_its_first_letter(ground: Ground) {
    let Some(mut shop) = ProcessShop::start(ground, false) else { return };
    for value in [&b"one"[..], b"", b"three"] {
        shop.produce_bytes(topics::ORDERS_PLACED, b"same key", Some(value));
    }
    shop.produce_bytes(topics::ORDERS_PLACED, b"another", Some(b"four"));
    until_letters(&mut shop, LETTERS, 4);
    let first = list(&shop, &["--processor", "intake"]);
    let originals = shop.records(&[topics::ORDERS_PLACED]);
    done(&shop, &["dlq", "replay", "--processor", "intake", "--yes"]);
    until_letters(&mut shop, LETTERS, 4 + 4 + 4);
    let open = list(&shop, &["--processor", "intake"]);
    assert_eq!(of(&open, "again"), of(&first, "letter"));
    let records = shop.records(&[topics::ORDERS_PLACED]);
    assert_eq!(records.len(), 8);
    for partition in 0..4 {
        let of_partition = |records: &[support::Placed]| -> Vec<_> {
            let here = records.iter().filter(|(_, on, _)| *on == partition);
            here.map(|(_, _, r)| (r.key.clone(), r.value.clone(), r.timestamp)).collect()
        };
        let (before, now) = (of_partition(&originals), of_partition(&records));
        assert_eq!(now, [before.clone(), before].concat(), "once more, as they were, in their order");
    }
    let report = audit(&mut shop, Phase::Settled);
    assert!(report.holds(), "{report}");
    let range = format!("{0}-{0}", open[0]["letter"].as_str().unwrap().rsplit_once('@').unwrap().1);
    let partition =
        open[0]["letter"].as_str().unwrap().rsplit_once('@').unwrap().0.rsplit_once('-').unwrap().1.to_owned();
    done(&shop, &["dlq", "discard", "--partition", &partition, "--offsets", &range, "--yes"]);
    assert_eq!(list(&shop, &[]).len(), 3);
    done(&shop, &["dlq", "discard", "--reason", "OrderPlaced", "--yes"]);
    assert_eq!(list(&shop, &[]).len(), 0);
    let report = audit(&mut shop, Phase::Settled);
    assert!(report.holds(), "{report}");
}

/// Whoever crashes between a record and its mark has done nothing; whoever comes back after that commits nothing. And what
/// is written outside of that one transaction is found.
fn a_crash_between_record_and_mark_does_nothing(ground: Ground) {
    let Some(mut shop) = ProcessShop::start(ground, false) else { return };
    for n in 0..20 {
        shop.produce_bytes(
            topics::ORDERS_PLACED,
            format!("key-{}", n % 5).as_bytes(),
            Some(format!("no {n}").as_bytes()),
        );
    }
    until_letters(&mut shop, LETTERS, 20);
    let mut letters = DeadLetters::default();
    for (topic, partition, record) in shop.records(&[LETTERS]) {
        letters.add(&topic, partition, record);
    }
    // What `millrace dlq replay` writes, up to the middle of it.
    let mut crashed = Transaction::take(&shop.kafka, "millrace", "dlq").unwrap();
    for letter in letters.iter().take(7) {
        let (record, to) = (&letter.record, (letter.topic.as_str(), letter.partition));
        let (key, value) = (record.key.as_deref(), record.value.as_deref());
        crashed.send(to, key, value, record.timestamp, &letter.replay_headers()).unwrap();
        let mark = (letter.id.topic.as_str(), letter.id.partition);
        crashed.send(mark, key, None, 1, &letter.mark_headers(Fate::Replayed)).unwrap();
    }
    assert_eq!(list(&shop, &[]).len(), 20, "nothing of it is seen");
    done(&shop, &["dlq", "replay", "--yes"]);
    assert!(matches!(crashed.commit(), Err(TransactionError::ShutOut(_) | TransactionError::NotDone(_))));
    until_letters(&mut shop, LETTERS, 60);
    let mut copies: BTreeMap<Vec<u8>, usize> = BTreeMap::new();
    for (_, _, record) in shop.records(&[topics::ORDERS_PLACED]) {
        *copies.entry(record.value.unwrap()).or_default() += 1;
    }
    assert_eq!((copies.len(), copies.values().all(|count| *count == 2)), (20, true), "each once more: {copies:?}");
    let report = audit(&mut shop, Phase::Settled);
    assert!(report.holds(), "{report}");
    // The same without a mark: the audit sees it.
    let mut torn = Transaction::take(&shop.kafka, "millrace", "dlq").unwrap();
    let letter = letters.iter().next().unwrap();
    let (record, to) = (&letter.record, (letter.topic.as_str(), letter.partition));
    torn.send(to, record.key.as_deref(), record.value.as_deref(), record.timestamp, &letter.replay_headers()).unwrap();
    torn.commit().unwrap();
    until_letters(&mut shop, LETTERS, 61);
    let report = audit(&mut shop, Phase::Settled);
    assert!(!report.verdict(Promise::P9).holds, "{report}");
}

macro_rules! on_both {
    ($($case:ident),* $(,)?) => {
        mod on_the_embedded_broker {
            use super::*;
            $(#[test] fn $case() { super::$case(Ground::Embedded); })*
        }
        mod on_apache_kafka {
            use super::*;
            $(#[test] fn $case() { super::$case(Ground::Apache); })*
        }
    };
}

on_both!(
    letters_are_put_back_in_order,
    what_fails_again_names_its_first_letter,
    a_crash_between_record_and_mark_does_nothing,
);

#[test]
fn parked_records_are_listed_in_their_order() {
    let Some(mut shop) = ProcessShop::start_without_workers(Ground::Embedded, false) else { return };
    let parks = include_str!("../topology.toml").replacen("on-poison = \"dead-letter\"", "on-poison = \"park\"", 1);
    let file = shop.dir.path().join("parks.toml").to_str().unwrap().to_owned();
    std::fs::write(&file, parks.replace("park_retry = \"1s\"", "park_retry = \"1h\"")).unwrap();
    done(&shop, &["apply", "--topology", &file]);
    shop.start_worker("one", &["--topology", &file]);
    shop.produce_bytes(topics::ORDERS_PLACED, b"stuck", Some(b"no record"));
    place(&mut shop, &order("stuck", &[("book", 1)], "tok_visa"));
    let mut parked = Vec::new();
    shop.until("both wait", &mut |shop| {
        parked = list(shop, &["--parked", "--topology", &file]);
        parked.len() == 2
    });
    assert_eq!((of(&parked, "key"), of(&parked, "processor")), (vec!["stuck"; 2], vec!["intake"; 2]));
    assert_eq!((&parked[0]["before_it"], &parked[1]["before_it"]), (&Value::from(0), &Value::from(1)));
    assert!(of(&parked, "reason")[1].contains("earlier record of this key"), "{parked:?}");
    assert_eq!(list(&shop, &["--topology", &file]).len(), 0, "parked is not dead");
}

#[test]
fn metrics_and_probes_tell_of_the_process() {
    let Some(mut shop) = ProcessShop::start(Ground::Embedded, false) else { return };
    stock(&mut shop, &[("tea", 250, 100)]);
    let log = shop.worker("one").log();
    let url = log.split("metrics and health at ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let get = |path: &str| {
        let request = reqwest::Client::new().get(format!("{url}{path}")).timeout(Duration::from_secs(30));
        runtime.block_on(async {
            let answer = request.send().await.unwrap();
            (answer.status().as_u16(), answer.text().await.unwrap())
        })
    };
    shop.until("the worker is ready", &mut |_| get("/readyz").0 == 200);
    assert_eq!((get("/livez").0, get("/startupz").0), (200, 200));
    let (code, text) = get("/metrics");
    assert_eq!(code, 200);
    let commits = text.lines().find_map(|line| line.strip_prefix("millrace_commits_total "));
    assert!(commits.is_some_and(|count| count.parse::<f64>().unwrap() > 0.0), "{text}");

    place(&mut shop, &order("waits-1", &[("tea", 1)], "tok_visa"));
    until_status(&mut shop, "waits-1", OrderStatus::Confirmed);
    let waits = "millrace_waiting{processor=\"fulfillment\",state=\"CONFIRMED\"} 1";
    shop.until("the order is told to wait", &mut |_| get("/metrics").1.contains(waits));
    let seconds = |text: &str| {
        let name = "millrace_oldest_waiting_seconds{processor=\"fulfillment\",state=\"CONFIRMED\"} ";
        text.lines().find_map(|line| line.strip_prefix(name)).map(|seconds| seconds.parse::<f64>().unwrap())
    };
    let before = seconds(&get("/metrics").1).unwrap();
    shop.until("it grows older", &mut |_| seconds(&get("/metrics").1).is_some_and(|now| now > before));
    shop.kill_and_restart();
    let log = shop.worker("one").log();
    let url = log.split("metrics and health at ").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let again = || {
        let request = reqwest::Client::new().get(format!("{url}/metrics")).timeout(Duration::from_secs(30));
        runtime.block_on(async { request.send().await.unwrap().text().await.unwrap() })
    };
    shop.until("it waits after a restart, too", &mut |_| seconds(&again()).is_some_and(|now| now > before));
}

#[test]
fn a_line_of_the_log_about_a_record_has_its_place_in_fields() {
    let Some(mut shop) = ProcessShop::start(Ground::Embedded, false) else { return };
    shop.produce_bytes(topics::ORDERS_PLACED, b"odd", Some(b"no record"));
    shop.produce_bytes(topics::STOCK_ADJUSTMENTS, b"a-sku", Some(b"no record"));
    let mut lines = Vec::new();
    shop.until("both are logged", &mut |shop| {
        let log = shop.worker("one").log();
        lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect();
        lines.retain(|line| line["offset"].is_number());
        lines.len() == 2
    });
    lines.sort_by_key(|line| line["processor"].as_str().map(str::to_owned));
    let [order, sku] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!((&order["processor"], &order["topic"]), (&Value::from("intake"), &Value::from(topics::ORDERS_PLACED)));
    assert_eq!(
        (&order["order"], &order["sku"], &order["offset"]),
        (&Value::from("odd"), &Value::Null, &Value::from(0))
    );
    assert!(order["partition"].is_number() && order["level"] == "WARN", "{order}");
    assert_eq!(
        (&sku["processor"], &sku["sku"], &sku["order"]),
        (&Value::from("stock"), &Value::from("a-sku"), &Value::Null)
    );
}
