//! `topology.toml` as people write it: what is right is read, every fault is named with its line.

use millrace_runtime::{Grouping, OnPoison, parse};

const SHIPPED: &str = include_str!("../../topology.toml");

fn faults(change: impl FnOnce(&str) -> String) -> String {
    parse(&change(SHIPPED)).expect_err("it must be refused").iter().map(|f| format!("{f}\n")).collect()
}

#[test]
fn the_shipped_topology_is_right() {
    let topology = parse(SHIPPED).unwrap_or_else(|faults| panic!("{faults:#?}"));
    assert_eq!(topology.sub_topologies.len(), 2);
    let orders = &topology.sub_topologies[0];
    assert_eq!(orders.name, "orders");
    assert_eq!(&*topology.topic(orders.inputs[0]).name, "orders.placed", "the leading input");
    assert!(topology.find_topic("dead-letters.stock").is_some());
    assert!(topology.find_topic("stock-reservations-changelog").is_some());
    assert_eq!(topology.processors[0].on_poison, OnPoison::DeadLetter);
    let apart = topology.regrouped(Grouping::OnePerProcessor);
    assert_eq!(apart.sub_topologies.len(), 5);
    assert_eq!(apart.group(apart.find_sub_topology("payment").unwrap()), "millrace.payment");
}

#[test]
fn every_fault_is_reported_at_once_with_its_place() {
    let text = faults(|text| {
        text.replace("inputs = [\"orders.placed\"]", "inputs = [\"orders.plaecd\"]")
            .replace("write_out = \"5s\"", "write_out = \"5 seconds\"")
            .replace("stock = [\"stock\"]", "stock = [\"stok\"]")
    });
    assert!(text.contains("10:13: ") && text.contains("no duration"), "{text}");
    assert!(text.contains("there is no topic orders.plaecd"), "{text}");
    assert!(text.contains("there is no processor stok"), "{text}");
    assert!(text.contains("processor intake has no input"), "{text}");
}

#[test]
fn inputs_must_be_co_partitioned() {
    let text = faults(|t| {
        t.replacen("[topics.\"payments.events\"]\npartitions = 4", "[topics.\"payments.events\"]\npartitions = 6", 1)
    });
    assert!(text.contains("not co-partitioned: orders.placed has 4 partitions, payments.events has 6"), "{text}");
}

#[test]
fn nothing_is_written_that_nobody_reads() {
    let text = faults(|t| t.replace("\"stock.events\", \"orders.cancel-requested\"", "\"orders.cancel-requested\""));
    assert!(text.contains("stock.events is written but nobody reads it"), "{text}");
}

#[test]
fn only_a_compacted_topic_has_a_compaction_lag() {
    let shipped = parse(SHIPPED).unwrap();
    let levels = shipped.topic(shipped.find_topic("stock.levels").unwrap());
    assert_eq!(levels.compaction_lag_ms, Some(30 * 86_400_000));
    let text = faults(|t| t.replacen("retention = \"14d\"", "retention = \"14d\"\ncompaction-lag = \"1d\"", 1));
    assert!(text.contains("orders.placed is not compacted and has no compaction-lag: remove this line"), "{text}");
}

#[test]
fn a_store_must_not_outlive_its_topic() {
    let text = faults(|t| t.replace("ttl = \"14d\"", "ttl = \"31d\""));
    assert!(text.contains("store seen of intake is kept longer than its topic"), "{text}");
}

#[test]
fn unknown_words_and_broken_text_are_named() {
    assert!(faults(|t| t.replace("on-poison = \"dead-letter\"", "on-poison = \"ignore\"")).contains("not \"ignore\""));
    assert!(faults(|t| t.replace("cleanup = \"compact\"", "clenup = \"compact\"")).contains("clenup"));
    assert!(faults(|_| "application = ".into()).contains("1:"));
    assert!(faults(|t| t.replace("[topics.\"stock.levels\"]", "[topics.\"stock levels\"]")).contains("is no name"));
}

#[test]
fn a_loop_without_a_state_is_refused() {
    let text = "application = \"a\"\n[topics.x]\npartitions = 1\nretention = \"1d\"\n[topics.y]\npartitions = 1\nretention = \"1d\"\n\
        [processors.p]\ninputs = [\"x\"]\noutputs = [\"y\"]\n[processors.q]\ninputs = [\"y\"]\noutputs = [\"x\"]\n[sub-topologies]\ns = [\"p\", \"q\"]\n";
    let faults: String = parse(text).unwrap_err().iter().map(ToString::to_string).collect();
    assert!(faults.contains("round for ever"), "{faults}");
}

#[test]
fn random_damage_never_panics() {
    let bytes = SHIPPED.as_bytes();
    for at in (0..bytes.len()).step_by(7) {
        let _ = parse(&SHIPPED[..at]);
        let mut damaged = bytes.to_vec();
        damaged[at] = b'"';
        let _ = parse(&String::from_utf8_lossy(&damaged));
    }
}
