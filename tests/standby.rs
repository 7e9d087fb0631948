//! Standby copies on real processes: of two workers one is killed, and the other, which kept copies, takes over without
//! restoring everything. Every promise holds afterwards.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::BTreeMap;

use millrace_audit::Phase;
use millrace_schemas::{OrderEvent, OrderStatus};
use support::processes::{Ground, ProcessShop};
use support::{Shop, audit, order, orders, place, rejections, stock};

const TOPOLOGY: &str = include_str!("../topology.toml");
/// Partitions of both sub-topologies.
const PARTITIONS: usize = 8;

fn place_many(shop: &mut ProcessShop, from: usize, to: usize) {
    for n in from..to {
        place(shop, &order(&format!("order-{n:05}"), &[("nut", 1), ("bolt", 2), ("gear", 1)], "tok_visa"));
    }
    shop.until("every order is confirmed", &mut |shop| {
        orders(shop).values().filter(|o: &&OrderEvent| o.status == OrderStatus::Confirmed).count() == to
    });
}

/// Partitions that the worker has said this of, as `sub-topology partition`, with the number in the last such line.
fn said(shop: &mut ProcessShop, worker: &str, before: &str, after: &str) -> BTreeMap<String, u64> {
    let log = shop.worker(worker).log();
    let of = |line: &str| {
        let (place, rest) = line.split_once("sub-topology ")?.1.split_once(": ")?;
        let number = rest.strip_prefix(before)?.split_once(after)?.0;
        Some((place.replace("partition ", ""), number.parse().ok()?))
    };
    log.lines().filter_map(of).collect()
}

fn running(shop: &mut ProcessShop, worker: &str) -> BTreeMap<String, u64> {
    said(shop, worker, "running, ", " records restored")
}

/// How many records the second worker restored of the partitions that it took over from the first, which was killed.
fn restored_in_a_take_over(ground: Ground, standbys: usize) -> Option<u64> {
    let mut shop = ProcessShop::start_without_workers(ground, false)?;
    let file = shop.dir.path().join("topology.toml");
    let text = TOPOLOGY.replace("standbys = 0", &format!("standbys = {standbys}"));
    assert!(standbys == 0 || text != TOPOLOGY, "the topology names the number of standbys");
    std::fs::write(&file, text).unwrap();
    let with = ["--topology", file.to_str().unwrap()];
    shop.start_worker("one", &with);
    stock(&mut shop, &[("nut", 10, 1_000_000), ("bolt", 20, 1_000_000), ("gear", 500, 1_000_000)]);
    place_many(&mut shop, 0, 200);
    shop.start_worker("two", &with);
    shop.until("the workers share the partitions", &mut |shop| running(shop, "two").len() == PARTITIONS / 2);
    if standbys > 0 {
        shop.until("the second has a copy of what the first processes", &mut |shop| {
            let mut has = said(shop, "two", "the standby copy has caught up, ", " records");
            has.extend(running(shop, "two"));
            has.len() == PARTITIONS
        });
    }
    place_many(&mut shop, 200, 220);
    let before = running(&mut shop, "two");
    shop.take_worker("one").kill();
    shop.until("the second takes over", &mut |shop| running(shop, "two").len() == PARTITIONS);
    let restored =
        running(&mut shop, "two").iter().filter(|(place, _)| !before.contains_key(*place)).map(|(_, n)| n).sum();
    place_many(&mut shop, 220, 260);
    assert!(rejections(&mut shop).is_empty());
    let report = audit(&mut shop, Phase::Running);
    assert!(report.holds(), "{report}");
    assert!(shop.ledger().iter().all(|entry| entry.authorizations == 1 && entry.captures == 0));
    Some(restored)
}

fn a_copy_makes_the_take_over_short(ground: Ground) {
    let Some(restored) = restored_in_a_take_over(ground, 1) else { return };
    assert!(restored < 500, "only what came after the copies were written is restored, not {restored} records");
}

/// The negative control.
#[test]
fn without_a_copy_everything_is_restored() {
    let restored = restored_in_a_take_over(Ground::Embedded, 0).unwrap();
    assert!(restored > 1_000, "{restored} records are not the whole state");
}

#[test]
fn on_the_embedded_broker() {
    a_copy_makes_the_take_over_short(Ground::Embedded);
}

#[test]
fn on_apache_kafka() {
    a_copy_makes_the_take_over_short(Ground::Apache);
}
