//! Global tables over restarts: what the disk has of them is not read again, and nothing is lost where it has nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use millrace_runtime::testing::Driver;
use millrace_runtime::*;

const TOPOLOGY: &str = r#"
application = "pricing"
[engine]
write_out = "1s"
[topics.prices]
partitions = 2
cleanup = "compact"
[topics.asked]
partitions = 2
retention = "7d"
[topics.told]
partitions = 2
retention = "7d"
sink = true
[processors.tell]
inputs = ["asked"]
outputs = ["told"]
globals = ["prices"]
on-poison = "dead-letter"
[sub-topologies]
pricing = ["tell"]
"#;

/// Tells the price of its key.
struct Tell;

impl Processor for Tell {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        let price = step.global(0, record.key).map_or_else(|| b"none".to_vec(), |price| price.to_vec());
        step.emit("told", record.key, "Told", |out| out.extend(price))
    }
}

/// A shop, and how many prices it has taken in.
fn shop(format: &str) -> (Driver, Arc<AtomicUsize>) {
    let read = Arc::<AtomicUsize>::default();
    let mut topology = parse(TOPOLOGY).expect("the topology is right");
    let definitions = definitions(format, &read);
    check_definitions(&mut topology, &definitions).expect("code and file agree");
    (Driver::new(topology, definitions, Box::new(|_| None)), read)
}

fn definitions(format: &str, read: &Arc<AtomicUsize>) -> Vec<ProcessorDefinition> {
    let read = read.clone();
    let fold: Fold = Arc::new(move |record, _| {
        read.fetch_add(1, Ordering::Relaxed);
        Ok(record.value.map_or(Change::Delete, |value| Change::Put(value.to_vec())))
    });
    vec![ProcessorDefinition {
        name: "tell",
        stores: Vec::new(),
        globals: vec![GlobalDefinition { table: TableDefinition { topic: "prices", fold }, format: format.to_owned() }],
        settings: &[],
        build: Arc::new(|_| Box::new(Tell)),
    }]
}

const KEYS: usize = 20;

fn price(driver: &mut Driver, text: &str) {
    for key in 0..KEYS {
        driver.produce("prices", format!("key-{key}").as_bytes(), text.as_bytes());
    }
    driver.settle().expect("it comes to rest");
}

/// Asks for every key; what it is told last of each.
fn ask(driver: &mut Driver) -> BTreeMap<Vec<u8>, Vec<u8>> {
    for key in 0..KEYS {
        driver.produce("asked", format!("key-{key}").as_bytes(), b"?");
    }
    driver.settle().expect("it comes to rest");
    let told = driver.records("told").into_iter();
    told.map(|(_, record)| (record.key.unwrap_or_default(), record.value.unwrap_or_default())).collect()
}

#[track_caller]
fn all_are_told(driver: &mut Driver, price: &str) {
    let told = ask(driver);
    assert_eq!(told.len(), KEYS);
    assert!(told.values().all(|value| value == price.as_bytes()), "{told:?}");
}

#[test]
fn a_restart_reads_on_where_the_last_run_ended() {
    let (mut driver, read) = shop("1");
    driver.start_with_all(1);
    price(&mut driver, "10");
    driver.stop(1).unwrap();
    driver.start_with_all(1);
    all_are_told(&mut driver, "10");
    assert_eq!(read.load(Ordering::Relaxed), KEYS, "each was read once, over both runs");
    price(&mut driver, "11");
    all_are_told(&mut driver, "11");
    assert_eq!(read.load(Ordering::Relaxed), 2 * KEYS);
}

#[test]
fn what_a_crash_kept_from_the_disk_is_read_again() {
    let (mut driver, read) = shop("1");
    driver.start_with_all(1);
    price(&mut driver, "10");
    driver.clock.advance(2_000);
    driver.settle().unwrap();
    price(&mut driver, "11");
    driver.crash(1);
    driver.start_with_all(1);
    all_are_told(&mut driver, "11");
    assert!((2 * KEYS..=3 * KEYS).contains(&read.load(Ordering::Relaxed)), "{read:?}");
}

#[test]
fn a_disk_that_is_lost_or_cannot_be_read_or_is_of_another_format_costs_reading_in_full() {
    let lose: [fn(&mut Driver, &Arc<AtomicUsize>); 3] = [
        |driver, _| driver.wipe_disk(1),
        |driver, _| driver.break_reads(1, "prices"),
        |driver, read| driver.upgrade(definitions("2", read)),
    ];
    for lose in lose {
        let (mut driver, read) = shop("1");
        driver.start_with_all(1);
        price(&mut driver, "10");
        driver.stop(1).unwrap();
        lose(&mut driver, &read);
        driver.start_with_all(1);
        all_are_told(&mut driver, "10");
        assert_eq!(read.load(Ordering::Relaxed), 2 * KEYS);
    }
}
