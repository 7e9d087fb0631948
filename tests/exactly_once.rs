//! Exactly once, on real processes: workers killed, stopped, paused past their session and woken; the broker killed; the
//! ingress asked again across restarts. After each, every promise is audited from the topics alone.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use millrace_audit::Phase;
use millrace_schemas::{OrderEvent, OrderStatus};
use support::processes::{Ground, Process, ProcessShop};
use support::{Shop, audit, order, orders, place, rejections, stock};

/// Places a batch of orders for plentiful goods.
fn place_many(shop: &mut ProcessShop, from: usize, to: usize) {
    for n in from..to {
        place(shop, &order(&format!("many-{n:05}"), &[("nut", 1), ("bolt", 2), ("gear", 1)], "tok_visa"));
    }
}

fn confirmed(shop: &mut ProcessShop) -> usize {
    orders(shop).values().filter(|o: &&OrderEvent| o.status == OrderStatus::Confirmed).count()
}

fn every_order_is_confirmed_once(shop: &mut ProcessShop, count: usize) {
    shop.until("every order is confirmed", &mut |shop| confirmed(shop) == count);
    assert!(rejections(shop).is_empty());
    let report = audit(shop, Phase::Running);
    assert!(report.holds(), "{report}");
    let ledger = shop.ledger();
    assert_eq!(ledger.len(), count);
    assert!(ledger.iter().all(|entry| entry.authorizations == 1 && entry.captures == 0));
}

fn shop(ground: Ground) -> Option<ProcessShop> {
    let mut shop = ProcessShop::start(ground, false)?;
    stock(&mut shop, &[("nut", 10, 1_000_000), ("bolt", 20, 1_000_000), ("gear", 500, 1_000_000)]);
    Some(shop)
}

/// `kill -9` while transactions are open, again and again.
fn a_worker_killed_in_open_transactions(ground: Ground) {
    let Some(mut shop) = shop(ground) else { return };
    for round in 0..5 {
        let before = confirmed(&mut shop);
        place_many(&mut shop, round * 200, (round + 1) * 200);
        shop.until("work is under way", &mut |shop| confirmed(shop) > before);
        shop.kill_and_restart();
    }
    every_order_is_confirmed_once(&mut shop, 1_000);
}

/// Two workers share the partitions; one is paused past its session, the other takes over, the first wakes: it commits
/// nothing more for what it lost. Then one is stopped in order, then killed.
fn workers_come_go_and_sleep(ground: Ground) {
    let Some(mut shop) = shop(ground) else { return };
    shop.start_worker("two", &[]);
    place_many(&mut shop, 0, 300);
    shop.until("both are at work", &mut |shop| {
        let owns = |p: &mut Process| p.log().contains("assigned");
        owns(shop.worker("one")) && owns(shop.worker("two")) && confirmed(shop) > 50
    });
    shop.worker("two").signal("STOP");
    place_many(&mut shop, 300, 600);
    shop.until("the other takes over", &mut |shop| confirmed(shop) == 600);
    shop.worker("two").signal("CONT");
    place_many(&mut shop, 600, 900);
    every_order_is_confirmed_once(&mut shop, 900);
    // The one that slept either rejoined or ended with a message; both are in order. It starts again where it ended.
    if !shop.worker("two").is_alive() {
        let log = shop.worker("two").log();
        assert!(log.contains("fenced") || log.contains("stopped"), "it ended without saying why:\n{log}");
        shop.take_worker("two").kill();
        shop.start_worker("two", &[]);
    }
    assert_eq!(shop.take_worker("one").stop(), Some(0));
    place_many(&mut shop, 900, 1_000);
    every_order_is_confirmed_once(&mut shop, 1_000);
    shop.take_worker("two").kill();
    shop.start_worker("one", &[]);
    place_many(&mut shop, 1_000, 1_100);
    every_order_is_confirmed_once(&mut shop, 1_100);
}

/// The broker is killed and started again with orders on their way.
fn the_broker_is_killed(ground: Ground) {
    let Some(mut shop) = shop(ground) else { return };
    for round in 0..2 {
        let before = confirmed(&mut shop);
        place_many(&mut shop, round * 300, (round + 1) * 300);
        shop.until("work is under way", &mut |shop| confirmed(shop) > before);
        shop.restart_broker();
    }
    every_order_is_confirmed_once(&mut shop, 600);
    assert!(shop.worker("one").is_alive(), "a worker waits for its broker");
}

/// The same key and body give the same order across restarts of everything; another body is refused.
fn the_ingress_is_asked_again(ground: Ground) {
    let Some(mut shop) = shop(ground) else { return };
    let http = format!("127.0.0.1:{}", support::processes::free_port());
    let mut ingress = shop.start_command("ingress", &["ingress", "--http", &http]);
    ingress.until_it_says("ingress   http");
    let first = submit(&http, "key-1", 1);
    assert_eq!(first.0, 202, "{}", first.1);
    let id = first.1["id"].as_str().expect("an accepted order has an id").to_owned();
    shop.until("the order is confirmed", &mut |shop| {
        orders(shop).get(&id).is_some_and(|o| o.status == OrderStatus::Confirmed)
    });
    ingress.kill();
    shop.kill_and_restart();
    shop.restart_broker();
    let mut ingress = shop.start_command("ingress-again", &["ingress", "--http", &http]);
    ingress.until_it_says("ingress   http");
    shop.until("the owner of the order is found again", &mut |_| get(&http, &format!("/v1/orders/{id}")).0 == 200);
    let again = submit(&http, "key-1", 1);
    assert_eq!((again.0, again.1["id"].as_str()), (202, Some(id.as_str())), "{}", again.1);
    let other = submit(&http, "key-1", 2);
    assert_eq!(other.0, 422, "{}", other.1);
    assert_eq!(shop.records(&[millrace_schemas::topics::ORDERS_ACCEPTED]).len(), 1);
    let report = audit(&mut shop, Phase::Running);
    assert!(report.holds(), "{report}");
}

fn submit(http: &str, key: &str, quantity: i32) -> (u16, serde_json::Value) {
    let body = serde_json::json!({
        "customer_id": "ann", "currency": "GBP", "payment_method": "tok_visa", "lines": [{"sku": "nut", "quantity": quantity}],
    });
    let client = reqwest::Client::new();
    let request = client.post(format!("http://{http}/v1/orders")).header("Idempotency-Key", key).json(&body);
    answer(request)
}

fn get(http: &str, path: &str) -> (u16, serde_json::Value) {
    answer(reqwest::Client::new().get(format!("http://{http}{path}")))
}

fn answer(request: reqwest::RequestBuilder) -> (u16, serde_json::Value) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let answer = request.timeout(Duration::from_secs(30)).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    })
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
    a_worker_killed_in_open_transactions,
    workers_come_go_and_sleep,
    the_broker_is_killed,
    the_ingress_is_asked_again,
);
