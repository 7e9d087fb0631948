//! The path of orders in memory, to be counted and looked at. `make profile` runs it under callgrind.
//!
//! `path <orders> [off]`: places so many orders of three lines on average, lets each be confirmed, and says how. With
//! `off`, every record between two tasks goes through the broker.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod orders;

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let mut args = std::env::args().skip(1);
    let orders: usize = args.next().and_then(|n| n.parse().ok()).unwrap_or(1_000);
    let hand_over = args.next().as_deref() != Some("off");

    let mut shop = orders::Shop::open(hand_over);
    let before = shop.driver.cluster.transactions();
    shop.confirm(orders);
    let transactions = shop.driver.cluster.transactions() - before;
    let report = shop.driver.thread(1).take_report();
    println!(
        "{orders} orders, {transactions} transactions, {} records, {} of them passed on in memory",
        report.committed_records, report.handed_over
    );
}
