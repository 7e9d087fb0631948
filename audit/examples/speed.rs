//! How fast the audit reads: 20,000 completed orders of 27 lines, about 1.4 million records, already in memory.
//! `cargo run --release -p millrace-audit --example speed`

#[allow(dead_code)]
#[path = "../tests/history/mod.rs"]
mod history;

use std::collections::HashMap;
use std::time::Instant;

use history::History;
use millrace_audit::{Audit, Phase, Record};
use millrace_schemas::{AdjustmentKind, Codec};

const ORDERS: usize = 20_000;
const LINES: usize = 27;
const SKUS: usize = 4_000;

fn main() {
    let codec = Codec::offline();
    let mut shop = History::default();
    let mut encoded: Vec<(&'static str, i32, i64, String, Vec<u8>)> = Vec::new();
    let mut ends: HashMap<(&'static str, i32), i64> = HashMap::new();
    let mut drain = |shop: &mut History| {
        for (partition, record) in shop.records.drain(..) {
            let end = ends.entry((record.topic(), partition)).or_insert(0);
            encoded.push((record.topic(), partition, *end, record.key(), record.value(&codec)));
            *end += 1;
        }
    };
    let skus: Vec<String> = (0..SKUS).map(|sku| format!("a{sku:05}")).collect();
    for sku in &skus {
        shop.adjust(&format!("open-{sku}"), sku, AdjustmentKind::Opening, 1_000_000);
    }
    for order in 0..ORDERS {
        let lines: Vec<(&str, i32)> =
            (0..LINES).map(|line| (skus[(order * 7 + line * 149) % SKUS].as_str(), 2)).collect();
        shop.completed(&format!("00000000-0000-4000-8000-{order:012}"), &lines);
        drain(&mut shop);
    }
    let mut audit = Audit::new(codec.clone());
    let begin = Instant::now();
    for (topic, partition, offset, key, value) in &encoded {
        let record = Record { offset: *offset, timestamp: 0, key: key.as_bytes(), value: Some(value), headers: &[] };
        audit.record(topic, *partition, &record);
    }
    for entry in &shop.provider {
        audit.provider(entry);
    }
    let read = begin.elapsed();
    let report = audit.report(Phase::Settled);
    let mut out = std::io::stdout().lock();
    let each = read.as_secs_f64() / encoded.len() as f64 * 1e6;
    let text = format!("{report}\nread {} records in {read:.2?}, {each:.2} us each\n", encoded.len());
    std::io::Write::write_all(&mut out, text.as_bytes()).expect("stdout takes it");
    assert!(report.holds());
}
