//! What the parts of an order's way cost, in instructions, held against what they cost when `tests/instructions.toml` was
//! last written: more than five in a hundred up fails, with the part named. Owns the parts and the comparison; never a time,
//! which says little on a machine that others use.
//!
//! The binary runs itself under `valgrind --tool=callgrind` and reads what each part's function cost, callees included and
//! preparations not. It is built as `cargo test` builds everything (our code little optimized, dependencies more), so that it
//! costs no build of its own: `make profile` counts an order in a release build.
//!
//! - The Kafka client is no part: its threads share the work as they come, and no two runs are alike.
//! - Instructions depend on compiler, dependencies and system library, so `make instructions` writes the figures anew where
//!   one of them changes, and where a part became cheaper: only then is the gain kept.

#![allow(clippy::unwrap_used)]

#[path = "../processors/examples/path/orders.rs"]
mod orders;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;

use millrace_runtime::testing::{Driver, MemoryStorage};
use millrace_runtime::{
    Disk, Entry, Open, Outcome, Processor, ProcessorDefinition, Record, Step, Storage, Store, StoreDefinition, Value,
    check_definitions, parse,
};
use millrace_schemas::{AvroRecord, Codec, Money, OrderAccepted, PricedLine, topics};
use millrace_worker::{StateDirectory, StateSettings};

/// The program's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// So many in a hundred may a part cost more than when its figure was written.
const MORE_MAX: f64 = 5.0;
/// What the binary is to do when it is not the test: `count` or `write`.
const MODE: &str = "MILLRACE_INSTRUCTIONS";

/// A part: what is counted of it, how many of these its function does, and the function.
struct Part {
    name: &'static str,
    unit: &'static str,
    times: u64,
    run: fn(u64),
}

const PARTS: &[Part] = &[
    Part { name: "codec", unit: "accepted order of three lines, written and read", times: 500, run: codec },
    Part { name: "codec-resolve", unit: "the same, read from another version", times: 50, run: codec_resolve },
    Part { name: "store", unit: "new state written out, then read and written again", times: 1_000, run: store },
    Part { name: "sled", unit: "the same in a state directory", times: 1_000, run: sled },
    Part { name: "routing", unit: "record passed through the engine as it is", times: 1_000, run: routing },
    Part { name: "transaction", unit: "order, from placed to confirmed in memory", times: 200, run: transaction },
];

fn main() -> ExitCode {
    // `cargo test` gives every test binary its own arguments.
    match std::env::var(MODE).as_deref() {
        Ok("count") => {
            PARTS.iter().for_each(|part| (part.run)(part.times));
            ExitCode::SUCCESS
        }
        Ok("write") => write(),
        _ => as_tests(),
    }
}

/// Does what a test harness would, with each part as a test: all are counted at one time, so all or none are wanted.
fn as_tests() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).collect();
    let named = |filter: &String| PARTS.iter().any(|part| test_of(part).contains(filter.as_str()));
    if std::env::args().any(|arg| arg == "--list") {
        PARTS.iter().for_each(|part| print(&format!("{}: test", test_of(part))));
        ExitCode::SUCCESS
    } else if filters.is_empty() || filters.iter().any(named) {
        compare()
    } else {
        verdict(0, 0)
    }
}

fn test_of(part: &Part) -> String {
    format!("instructions_of_{}", part.name)
}

// ---- the parts: each prepares, then has one function whose instructions count --------------------------------------

fn accepted() -> OrderAccepted {
    let line = |n: i64| PricedLine {
        sku: format!("sku-{n:05}"),
        quantity: 2,
        unit_price_minor: 250 + n,
        line_total_minor: 500 + 2 * n,
    };
    OrderAccepted {
        order_id: "order-00000001".into(),
        customer_id: "customer-00001".into(),
        lines: (1..=3).map(line).collect(),
        total: Money { minor: 1_512, currency: "GBP".into() },
        payment_method: "tok_visa".into(),
        fingerprint: "0123456789abcdef0123456789abcdef".into(),
        channel: "web".into(),
        placed_at: 1_790_000_000_000,
        accepted_at: 1_790_000_000_001,
    }
}

fn codec(times: u64) {
    let (codec, order) = (Codec::offline(), accepted());
    assert_eq!(counted_codec(&codec, &order, times), 3 * times as usize);
}

#[inline(never)]
fn counted_codec(codec: &Codec, order: &OrderAccepted, times: u64) -> usize {
    let (mut bytes, mut lines) = (Vec::new(), 0);
    for _ in 0..times {
        bytes.clear();
        codec.encode(topics::ORDERS_ACCEPTED, order, &mut bytes);
        lines += codec.decode::<OrderAccepted>(&bytes).unwrap().lines.len();
    }
    lines
}

fn codec_resolve(times: u64) {
    const ID: u32 = 1_000;
    let codec = Codec::offline();
    let mut schema: serde_json::Value = serde_json::from_str(OrderAccepted::schema_json()).unwrap();
    let note = serde_json::json!({ "name": "note", "type": "string", "default": "" });
    schema["fields"].as_array_mut().unwrap().push(note);
    codec.learn(ID, Some(&schema.to_string()));
    let mut bytes = vec![0];
    bytes.extend(ID.to_be_bytes());
    accepted().encode_datum(&mut bytes);
    bytes.push(0);
    // What is parsed once is parsed before.
    codec.decode::<OrderAccepted>(&bytes).unwrap();
    assert_eq!(counted_resolve(&codec, &bytes, times), 3 * times as usize);
}

#[inline(never)]
fn counted_resolve(codec: &Codec, bytes: &[u8], times: u64) -> usize {
    (0..times).map(|_| codec.decode::<OrderAccepted>(bytes).unwrap().lines.len()).sum()
}

fn keys(times: u64) -> Vec<Vec<u8>> {
    // Spread as the ids of orders are: they follow each other in no order of theirs.
    (0..times).map(|n| format!("{:016x}", (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()).collect()
}

/// A store on this disk, whose states have deadlines.
fn store_on(disk: Arc<dyn Disk>) -> Store {
    let definition = StoreDefinition {
        name: "states",
        tables: Vec::new(),
        format: "counted".to_owned(),
        open: Some(|_, value| Open { deadline: value.first().map(|at| (*at).into()), ..Open::default() }),
    };
    Store::open("states".to_owned(), disk, &definition, None, &|_| None).unwrap()
}

/// Looks for each state, writes it and commits it, a few hundred in a transaction; writes all out; and all that once more.
/// How many were there.
fn live(store: &mut Store, keys: &[Vec<u8>], value: &[u8]) -> usize {
    let mut found = 0;
    for _ in 0..2 {
        for keys in keys.chunks(500) {
            for key in keys {
                found += usize::from(store.get(key).unwrap().is_some());
                store.write(key, Entry { value: Some(Value::from(value)), at: 0 });
            }
            store.commit_overlay(|_, _| {});
        }
        let job = store.freeze(0, &|_| String::new()).unwrap().unwrap();
        job();
        store.thaw().unwrap();
    }
    found
}

fn store(times: u64) {
    let mut store = store_on(MemoryStorage::default().open("states").unwrap());
    assert_eq!(counted_store(&mut store, &keys(times), &[1; 200]), times as usize);
}

#[inline(never)]
fn counted_store(store: &mut Store, keys: &[Vec<u8>], value: &[u8]) -> usize {
    live(store, keys, value)
}

fn sled(times: u64) {
    let directory = tempfile::tempdir().unwrap();
    let stores = StateDirectory::open(StateSettings::new(directory.path())).unwrap();
    let mut store = store_on(stores.open("states").unwrap());
    assert_eq!(counted_sled(&mut store, &keys(times), &[1; 200]), times as usize);
}

#[inline(never)]
fn counted_sled(store: &mut Store, keys: &[Vec<u8>], value: &[u8]) -> usize {
    live(store, keys, value)
}

const RELAY: &str = r#"
application = "relay"
[engine]
hand_over = true
commit_records = 10000
commit_latency = "100ms"
[topics.in]
partitions = 4
retention = "7d"
[topics.out]
partitions = 4
retention = "7d"
sink = true
[processors.pass]
inputs = ["in"]
outputs = ["out"]
[sub-topologies]
all = ["pass"]
"#;

/// Emits what it is given.
struct Pass;

impl Processor for Pass {
    fn process(&mut self, record: &Record<'_>, step: &mut Step<'_>) -> Outcome {
        step.emit("out", record.key, "Passed", |out| out.extend_from_slice(record.value.unwrap_or_default()))
    }
}

fn routing(times: u64) {
    let definitions = vec![ProcessorDefinition {
        name: "pass",
        stores: Vec::new(),
        globals: Vec::new(),
        settings: &[],
        build: Arc::new(|_| Box::new(Pass)),
    }];
    let mut topology = parse(RELAY).unwrap();
    check_definitions(&mut topology, &definitions).unwrap();
    let mut driver = Driver::new(topology, definitions, Box::new(|_| None));
    driver.start_with_all(1);
    driver.settle().unwrap();
    for key in keys(times) {
        driver.produce("in", &key, &[1; 200]);
    }
    counted_routing(&mut driver);
    assert_eq!(driver.records("out").len(), times as usize);
}

#[inline(never)]
fn counted_routing(driver: &mut Driver) {
    driver.settle().unwrap();
}

const WARM_UP: usize = 100;

fn transaction(times: u64) {
    let mut shop = orders::Shop::open(true);
    // Buffers that grow and tables that are filled once.
    shop.confirm(WARM_UP);
    counted_transaction(&mut shop, times as usize);
    let events = shop.driver.records(topics::ORDERS_EVENTS);
    let confirmed = |bytes: &[u8]| {
        Codec::offline().decode::<millrace_schemas::OrderEvent>(bytes).unwrap().status
            == millrace_schemas::OrderStatus::Confirmed
    };
    let confirmed = events.iter().filter(|(_, event)| event.value.as_deref().is_some_and(confirmed)).count();
    assert_eq!(confirmed, WARM_UP + times as usize);
}

#[inline(never)]
fn counted_transaction(shop: &mut orders::Shop, orders: usize) {
    shop.confirm(orders);
}

// ---- counting ------------------------------------------------------------------------------------------------------

/// Instructions of one of each part.
type Counts = BTreeMap<String, u64>;

/// Runs this binary under callgrind. Its system library is told to use what every processor has, so that the processor
/// makes no difference.
fn count() -> Result<Counts, String> {
    let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
    let out = directory.path().join("counted");
    let status = Command::new("valgrind")
        // Threads that wait for each other by spinning would keep each other waiting for minutes, now and then.
        .args(["--tool=callgrind", "--fair-sched=yes", "--compress-strings=no", "--demangle=no", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().map_err(|error| error.to_string())?)
        .env(MODE, "count")
        .env("GLIBC_TUNABLES", "glibc.cpu.hwcaps=-AVX2_Usable,-AVX_Fast_Unaligned_Load,-ERMS,-FSRM")
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("valgrind cannot be started: {error}"))?;
    if !status.success() {
        return Err(format!("the parts ended under valgrind with {status}; what they said stands above"));
    }
    let text = std::fs::read_to_string(out).map_err(|error| error.to_string())?;
    PARTS.iter().map(|part| Ok((part.name.to_owned(), cost_of(&text, part)? / part.times))).collect()
}

/// What the calls of a part's function cost, by callgrind's own sums: `cfn=` names who is called, and the last number of the line
/// after `calls=` is what it cost with all that it called.
fn cost_of(text: &str, part: &Part) -> Result<u64, String> {
    let function = format!("counted_{}", part.name.rsplit('-').next().unwrap_or_default());
    let mut lines = text.lines();
    let (mut called, mut sum) = (false, 0);
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("cfn=") {
            called = name.contains(&function);
        } else if line.starts_with("calls=") {
            let cost = lines.next().and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
            sum += cost.filter(|_| called).unwrap_or(0);
        }
    }
    if sum == 0 { Err(format!("callgrind says nothing of {function}")) } else { Ok(sum) }
}

// ---- comparing -----------------------------------------------------------------------------------------------------

fn file() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/instructions.toml")
}

/// How a part stands to its figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Same,
    /// Less by as much as would be told if it were more.
    Cheaper,
    Dearer,
    /// It has no figure.
    New,
}

fn change(landed: u64, now: u64) -> f64 {
    100.0 * (now as f64 - landed as f64) / landed as f64
}

fn standing(landed: Option<u64>, now: u64) -> Standing {
    let Some(landed) = landed.filter(|landed| *landed > 0) else { return Standing::New };
    match change(landed, now) {
        more if more > MORE_MAX => Standing::Dearer,
        less if less < -MORE_MAX => Standing::Cheaper,
        _ => Standing::Same,
    }
}

fn compare() -> ExitCode {
    check_the_comparison();
    if let Some(why) = cannot_count() {
        say(&format!("SKIPPED (no valgrind) instructions: {why}"));
        // A skipped test counts as passed and is taken off by setup/test.sh; where CI runs, it is none.
        let required = std::env::var("CI").as_deref() == Ok("true");
        return verdict(usize::from(!required), usize::from(required));
    }
    let text = std::fs::read_to_string(file()).unwrap_or_default();
    let landed: Counts = toml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", file().display()));
    let now = match count() {
        Ok(now) => now,
        Err(error) => {
            say(&format!("instructions: {error}"));
            return verdict(0, 1);
        }
    };
    let mut failed = 0;
    print(&format!("{:<14} {:>9} {:>9} {:>8}  for each", "instructions", "landed", "now", "change"));
    for part in PARTS {
        let (before, after) = (landed.get(part.name).copied(), now[part.name]);
        let told = before.map_or_else(String::new, |before| format!("{:+.1} %", change(before, after)));
        let figure = before.map_or_else(|| "none".to_owned(), |before| before.to_string());
        print(&format!("{:<14} {figure:>9} {after:>9} {told:>8}  {}", part.name, part.unit));
    }
    for part in PARTS {
        let (word, what_now) = match standing(landed.get(part.name).copied(), now[part.name]) {
            Standing::Same => ("ok", ""),
            Standing::Cheaper => ("ok", "  cheaper than landed: `make instructions` keeps the gain"),
            Standing::New => ("FAILED", "  it has no figure: write it with `make instructions`"),
            Standing::Dearer => (
                "FAILED",
                "  dearer than landed: `make profile` shows where an order's instructions go; where it is worth them, write the new \
                 figure with `make instructions` and say why in the commit",
            ),
        };
        failed += usize::from(word == "FAILED");
        print(&format!("test {} ... {word}", test_of(part)));
        if !what_now.is_empty() {
            print(what_now);
        }
    }
    verdict(PARTS.len() - failed, failed)
}

fn write() -> ExitCode {
    if let Some(why) = cannot_count() {
        say(&format!("instructions cannot be counted here: {why}"));
        return ExitCode::from(3);
    }
    let now = count().unwrap_or_else(|error| panic!("{error}"));
    let mut text = String::from(
        "# Instructions of each part, as `make instructions` counted them: see tests/instructions.rs. Not written by hand.\n",
    );
    for part in PARTS {
        let _ = writeln!(text, "{} = {} # {}", part.name, now[part.name], part.unit);
    }
    std::fs::write(file(), &text).unwrap();
    say(text.trim_end());
    ExitCode::SUCCESS
}

/// Why no figure that could be compared can be had here.
fn cannot_count() -> Option<&'static str> {
    if !cfg!(all(target_arch = "x86_64", target_os = "linux")) {
        return Some("the figures are of x86-64 and Linux");
    }
    if !cfg!(debug_assertions) {
        return Some("the figures are of cargo's own test profile");
    }
    let found = Command::new("valgrind").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) { None } else { Some("apt-get install -y valgrind") }
}

/// The comparison and the reading of callgrind's text, on figures that are known.
fn check_the_comparison() {
    assert_eq!(standing(Some(1_000), 1_050), Standing::Same);
    assert_eq!(standing(Some(1_000), 1_051), Standing::Dearer);
    assert_eq!(standing(Some(1_000), 950), Standing::Same);
    assert_eq!(standing(Some(1_000), 949), Standing::Cheaper);
    assert_eq!(standing(None, 1), Standing::New);
    let text = "fn=main\n1 7\ncfn=_ZN13counted_codec17hE\ncalls=1 0\n0 500\n1 3\ncfn=other\ncalls=2 0\n0 9\n";
    assert_eq!(cost_of(text, &PARTS[0]), Ok(500));
    assert!(cost_of("fn=main\n1 7\n", &PARTS[0]).is_err());
}

/// As a test harness would say it, for `setup/test.sh`.
fn verdict(passed: usize, failed: usize) -> ExitCode {
    let word = if failed == 0 { "ok" } else { "FAILED" };
    print(&format!("\ntest result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured"));
    ExitCode::from(u8::from(failed > 0))
}

fn print(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
