//! The real shop's 19,959 orders, with the process that runs everything killed twice on the way: at the end every order
//! has ended and every promise holds.

#![allow(clippy::unwrap_used)]

mod support;

use std::time::{Duration, Instant};

use support::Shop;
use support::processes::{Ground, ProcessShop};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/bench/data/online_retail.csv.zst");
const ORDERS: usize = 19_959;

fn replayed_with_two_kills(ground: Ground) {
    let Some(mut shop) = ProcessShop::start_without_workers(ground, false) else { return };
    let data = shop.dir.path().join("dev").to_str().unwrap().to_owned();
    let http = format!("127.0.0.1:{}", support::processes::free_port());
    let start = |shop: &ProcessShop| {
        let mut dev = shop.start_command("dev", &["dev", "--empty", "--data-dir", &data, "--http", &http]);
        dev.until_it_says("Millrace is ready");
        dev
    };
    let mut dev = Some(start(&shop));
    let mut replay = shop.start_command("replay", &["replay", FILE, "--stock", "0.8"]);
    let mut seen = 0;
    for part in 1..=2 {
        shop.until("another third is on its way", &mut |shop| {
            seen = shop.count("orders.events");
            seen > part * ORDERS / 2
        });
        dev.take().expect("it runs").kill();
        dev = Some(start(&shop));
    }
    let deadline = Instant::now() + Duration::from_secs(600);
    while replay.is_alive() {
        assert!(Instant::now() < deadline, "the replay never ended");
        std::thread::sleep(Duration::from_millis(100));
    }
    let psp = format!("http://{http}/psp");
    let audit =
        shop.start_command("audit", &["audit", "--psp", &psp, "--until", &ORDERS.to_string(), "--output", "json"]);
    let (code, said) = audit.until_it_ends(Duration::from_secs(600));
    assert_eq!(code, Some(0), "{said}");
    assert!(shop.count("orders.placed") >= ORDERS);
}

#[test]
fn with_two_kills_on_the_embedded_broker() {
    replayed_with_two_kills(Ground::Embedded);
}

#[test]
fn with_two_kills_on_apache_kafka() {
    replayed_with_two_kills(Ground::Apache);
}
