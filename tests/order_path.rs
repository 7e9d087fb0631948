//! The path of an order: the same scenarios in memory, on the embedded broker and on Apache Kafka, with the processors
//! grouped as the topology says and each on its own.

#![allow(clippy::unwrap_used)]

mod support;

use millrace_runtime::Grouping;
use support::memory::MemoryShop;
use support::processes::{Ground, ProcessShop};
use support::scenarios;

macro_rules! in_memory {
    ($($scenario:ident),* $(,)?) => {
        mod in_memory {
            use super::*;
            $(#[test] fn $scenario() {
                let mut shop = MemoryShop::start(Grouping::AsNamed, true);
                scenarios::$scenario(&mut shop);
                assert!(shop.driver.thread(1).take_report().handed_over > 0);
            })*
        }
        mod in_memory_without_hand_over {
            use super::*;
            $(#[test] fn $scenario() {
                let mut shop = MemoryShop::start(Grouping::AsNamed, false);
                scenarios::$scenario(&mut shop);
                assert_eq!(shop.driver.thread(1).take_report().handed_over, 0);
            })*
        }
        mod in_memory_apart {
            use super::*;
            $(#[test] fn $scenario() {
                scenarios::$scenario(&mut MemoryShop::start(Grouping::OnePerProcessor, true));
            })*
        }
    };
}

in_memory!(
    happy_path,
    shortage,
    decline,
    cancelled_by_customer,
    duplicates_and_nonsense,
    a_very_long_order,
    unknown_outcomes,
    killed_on_the_way,
);

/// One shop for all scenarios: what one leaves behind must not disturb the next.
fn every_scenario(shop: Option<ProcessShop>) {
    let Some(mut shop) = shop else { return };
    scenarios::happy_path(&mut shop);
    scenarios::shortage(&mut shop);
    scenarios::decline(&mut shop);
    scenarios::cancelled_by_customer(&mut shop);
    scenarios::duplicates_and_nonsense(&mut shop);
    scenarios::a_very_long_order(&mut shop);
    scenarios::unknown_outcomes(&mut shop);
    scenarios::killed_on_the_way(&mut shop);
    assert_eq!(shop.take_worker("one").stop(), Some(0), "it leaves in good order");
}

/// Sub-topologies in processes of their own, two of each sharing the partitions.
fn in_four_processes(ground: Ground) {
    let Some(mut shop) = ProcessShop::start_without_workers(ground, false) else { return };
    for (what, name) in [("orders", "o-1"), ("orders", "o-2"), ("stock", "s-1"), ("stock", "s-2")] {
        shop.start_worker_of(&[what], name, &[]);
    }
    scenarios::happy_path(&mut shop);
    scenarios::shortage(&mut shop);
    scenarios::duplicates_and_nonsense(&mut shop);
}

#[test]
fn in_four_processes_on_the_embedded_broker() {
    in_four_processes(Ground::Embedded);
}

#[test]
fn in_four_processes_on_apache_kafka() {
    in_four_processes(Ground::Apache);
}

#[test]
fn on_the_embedded_broker() {
    every_scenario(ProcessShop::start(Ground::Embedded, false));
}

#[test]
fn on_the_embedded_broker_without_hand_over() {
    every_scenario(ProcessShop::start_without_hand_over(Ground::Embedded));
}

#[test]
fn on_apache_kafka_without_hand_over() {
    every_scenario(ProcessShop::start_without_hand_over(Ground::Apache));
}

#[test]
fn on_the_embedded_broker_with_every_processor_apart() {
    every_scenario(ProcessShop::start(Ground::Embedded, true));
}

#[test]
fn on_apache_kafka() {
    every_scenario(ProcessShop::start(Ground::Apache, false));
}

#[test]
fn on_apache_kafka_with_every_processor_apart() {
    every_scenario(ProcessShop::start(Ground::Apache, true));
}
