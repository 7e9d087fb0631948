//! Processors put together into other sub-topologies, there and back, with orders on their way: every processor goes on
//! where it stood. On real processes; what cannot keep every place is refused.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use millrace_audit::Phase;
use millrace_schemas::{OrderEvent, OrderStatus, topics};
use millrace_worker::BulkProducer;
use rdkafka::TopicPartitionList;
use rdkafka::consumer::{BaseConsumer, Consumer};
use support::processes::{Ground, ProcessShop};
use support::{Shop, audit, order, orders, place, rejections, stock};

const APPLIED: Option<i32> = Some(0);
const REFUSED: Option<i32> = Some(3);
const PATIENCE: Duration = Duration::from_secs(60);

fn place_many(shop: &mut ProcessShop, from: usize, to: usize) {
    for n in from..to {
        place(shop, &order(&format!("order-{n:05}"), &[("nut", 1), ("bolt", 2), ("gear", 1)], "tok_visa"));
    }
}

fn confirmed(shop: &mut ProcessShop) -> usize {
    orders(shop).values().filter(|o: &&OrderEvent| o.status == OrderStatus::Confirmed).count()
}

fn every_order_is_confirmed_once(shop: &mut ProcessShop, count: usize) {
    shop.until("every order is confirmed", &mut |shop| confirmed(shop) == count);
    assert!(rejections(shop).is_empty());
    assert_eq!(shop.records(&[topics::ORDERS_ACCEPTED]).len(), count, "each order is accepted once");
    let report = audit(shop, Phase::Running);
    assert!(report.holds(), "{report}");
    let ledger = shop.ledger();
    assert_eq!(ledger.len(), count);
    assert!(ledger.iter().all(|entry| entry.authorizations == 1 && entry.captures == 0));
}

fn shop(ground: Ground, apart: bool) -> Option<ProcessShop> {
    let mut shop = ProcessShop::start_without_workers(ground, apart)?;
    shop.start_worker("one", &[]);
    stock(&mut shop, &[("nut", 10, 1_000_000), ("bolt", 20, 1_000_000), ("gear", 500, 1_000_000)]);
    Some(shop)
}

/// From the grouping of the file to one sub-topology per processor and back, orders placed before, between and after.
fn there_and_back(ground: Ground) {
    let Some(mut shop) = shop(ground, false) else { return };
    place_many(&mut shop, 0, 200);
    shop.until("work is under way", &mut |shop| confirmed(shop) > 20);
    let (code, said) = shop.regroup(true, &["--wait", "0"]);
    assert_eq!(code, REFUSED, "{said}");
    assert!(said.contains("millrace.orders change") && said.contains("still has members: one-0-orders"), "{said}");
    // Splitting needs no draining: each processor takes its group's place along, in the middle of the work.
    assert_eq!(shop.take_worker("one").stop(), Some(0));
    let (code, said) = shop.regroup(true, &["--dry-run"]);
    assert_eq!(code, APPLIED, "{said}");
    assert!(said.contains("52 positions carried over; nothing was changed"), "{said}");
    let (code, said) = shop.regroup(true, &[]);
    assert_eq!(code, APPLIED, "{said}");
    assert!(said.contains("52 positions carried over"), "{said}");
    let (code, said) = shop.regroup(true, &[]);
    assert!(code == APPLIED && said.contains("as before"), "again changes nothing: {said}");
    shop.start_worker("one", &[]);
    place_many(&mut shop, 200, 400);
    every_order_is_confirmed_once(&mut shop, 400);
    // Putting together needs every group at the same place: everything has been read.
    assert_eq!(shop.take_worker("one").stop(), Some(0));
    let (code, said) = shop.regroup(false, &[]);
    assert_eq!(code, APPLIED, "{said}");
    shop.start_worker("one", &[]);
    place_many(&mut shop, 400, 600);
    every_order_is_confirmed_once(&mut shop, 600);
}

/// The positions that the group has committed in the topic, of the partitions where it has.
fn committed(shop: &ProcessShop, group: &str, topic: &str) -> Vec<i64> {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", &shop.kafka).set("group.id", group);
    let consumer: BaseConsumer = config.create().unwrap();
    let mut asked = TopicPartitionList::new();
    asked.add_partition_range(topic, 0, 3);
    let told = consumer.committed_offsets(asked, PATIENCE).unwrap();
    told.elements().iter().filter_map(|partition| partition.offset().to_raw()).filter(|offset| *offset >= 0).collect()
}

/// Groups that are to become one stand at different offsets: nothing is chosen, and what to do is said.
fn one_that_is_behind(ground: Ground) {
    let Some(mut shop) = shop(ground, true) else { return };
    assert_eq!(shop.take_worker("one").stop(), Some(0));
    shop.start_worker_of(&["intake", "fulfillment", "tracking", "stock"], "without-payment", &[]);
    place_many(&mut shop, 0, 50);
    // On every partition fulfillment is past what payment never read.
    shop.until("fulfillment has read accepted orders everywhere", &mut |shop| {
        committed(shop, "millrace.fulfillment", topics::ORDERS_ACCEPTED).iter().filter(|next| **next > 0).count() == 4
    });
    assert_eq!(shop.take_worker("without-payment").stop(), Some(0));
    let (code, said) = shop.regroup(false, &[]);
    assert_eq!(code, REFUSED, "{said}");
    assert!(said.contains("orders.accepted-0 for orders: ") && said.contains("Let them catch up first"), "{said}");
    // Refused, they are grouped as before.
    let (code, said) = shop.regroup(true, &[]);
    assert!(code == APPLIED && said.contains("as before"), "{said}");
    shop.start_worker("one", &[]);
    every_order_is_confirmed_once(&mut shop, 50);
    assert_eq!(shop.take_worker("one").stop(), Some(0));
    let (code, said) = shop.regroup(false, &[]);
    assert_eq!(code, APPLIED, "{said}");
    shop.start_worker("one", &[]);
    place_many(&mut shop, 50, 100);
    every_order_is_confirmed_once(&mut shop, 100);
}

/// The negative control: the new grouping is on record, but no position was carried over. And before that: a worker of a
/// grouping that nobody applied.
fn nothing_carried_over(ground: Ground) {
    let Some(mut shop) = shop(ground, false) else { return };
    place_many(&mut shop, 0, 20);
    every_order_is_confirmed_once(&mut shop, 20);
    assert_eq!(shop.take_worker("one").stop(), Some(0));
    let worker = |shop: &ProcessShop, name: &str| {
        let state = shop.dir.path().join(name).to_str().unwrap().to_owned();
        let args = ["run", "--all", "--apart", "--psp", shop.psp_url(), "--instance", name, "--data-dir", &state];
        shop.start_command(name, &args)
    };
    let (code, said) = worker(&shop, "unapplied").until_it_ends(PATIENCE);
    assert_eq!(code, REFUSED, "{said}");
    assert!(said.contains("by the last `millrace apply`"), "{said}");
    let processors = ["fulfillment", "intake", "payment", "stock", "tracking"];
    let lines: String = processors.map(|processor| format!("{processor} {processor}\n")).concat();
    let mut producer = BulkProducer::connect(&shop.kafka).unwrap();
    producer.queue("millrace.grouping", b"grouping", format!("settled\n{lines}").as_bytes()).unwrap();
    producer.finish().unwrap();
    let (code, said) = worker(&shop, "uncarried").until_it_ends(PATIENCE);
    assert_eq!(code, REFUSED, "{said}");
    assert!(said.contains("has no committed offsets for partition"), "{said}");
}

/// A regrouping that died between its first and its last step: nobody processes meanwhile, and it is simply done again.
fn interrupted(ground: Ground) {
    let Some(mut shop) = shop(ground, false) else { return };
    place_many(&mut shop, 0, 20);
    every_order_is_confirmed_once(&mut shop, 20);
    assert_eq!(shop.take_worker("one").stop(), Some(0));
    let lines = "fulfillment orders\nintake orders\npayment orders\nstock stock\ntracking orders\n";
    let mut producer = BulkProducer::connect(&shop.kafka).unwrap();
    producer.queue("millrace.grouping", b"grouping", format!("moving\n{lines}").as_bytes()).unwrap();
    producer.finish().unwrap();
    shop.start_worker("early", &[]);
    shop.worker("early").until_it_says("the processors are being regrouped");
    let (code, said) = shop.regroup(true, &["--wait", "0"]);
    assert!(code == REFUSED && said.contains("still has members: early-0-orders"), "{said}");
    // Refused, the worker that waits may go on.
    place_many(&mut shop, 20, 40);
    every_order_is_confirmed_once(&mut shop, 40);
    shop.take_worker("early").kill();
    producer.queue("millrace.grouping", b"grouping", format!("moving\n{lines}").as_bytes()).unwrap();
    producer.finish().unwrap();
    let (code, said) = shop.regroup(true, &["--wait", "30"]);
    assert_eq!(code, APPLIED, "{said}");
    shop.start_worker("one", &[]);
    place_many(&mut shop, 40, 60);
    every_order_is_confirmed_once(&mut shop, 60);
}

#[test]
fn there_and_back_on_the_embedded_broker() {
    there_and_back(Ground::Embedded);
}

#[test]
fn there_and_back_on_apache_kafka() {
    there_and_back(Ground::Apache);
}

#[test]
fn one_that_is_behind_is_waited_for() {
    one_that_is_behind(Ground::Embedded);
}

#[test]
fn without_carried_positions_nobody_starts() {
    nothing_carried_over(Ground::Embedded);
}

#[test]
fn an_interrupted_regrouping_is_done_again() {
    interrupted(Ground::Apache);
}
