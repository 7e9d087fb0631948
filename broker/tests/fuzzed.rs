//! Bytes of strangers, without a fuzzer: what fuzzing has kept (`fuzz/corpus/`) and what it has reached (`fuzz/corpus.tar.gz`)
//! are repeated, as they are and bent a little, and random bytes are tried. Runs with a stable compiler; `fuzz/README.md` says how to let it run for longer.

use std::fs;
use std::path::Path;
use std::process::Command;

use millrace_broker::fuzzing;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Variations of kept inputs, and purely random ones, for each door; `MILLRACE_FUZZED_CASES` asks for more.
const CASES: u32 = 4_000;

#[derive(Debug, Clone)]
enum Bend {
    Flip(usize, u8),
    Set(usize, u8),
    Cut(usize),
    Repeat(usize, usize),
    Insert(usize, Vec<u8>),
    Number(usize, i32),
}

fn bend() -> impl Strategy<Value = Bend> {
    let at = any::<usize>;
    prop_oneof![
        (at(), 0..8u8).prop_map(|(at, bit)| Bend::Flip(at, 1 << bit)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Bend::Set(at, byte)),
        at().prop_map(Bend::Cut),
        (at(), 1..64usize).prop_map(|(at, count)| Bend::Repeat(at, count)),
        (at(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Bend::Insert(at, bytes)),
        (at(), prop_oneof![Just(-1), Just(0), Just(i32::MAX), Just(i32::MIN), any::<i32>()])
            .prop_map(|(at, number)| Bend::Number(at, number)),
    ]
}

fn bent(mut bytes: Vec<u8>, bends: &[Bend]) -> Vec<u8> {
    for bend in bends {
        let length = bytes.len();
        let place = |at: &usize| at % length.max(1);
        match bend {
            _ if length == 0 => {}
            Bend::Flip(at, bits) => bytes[place(at)] ^= bits,
            Bend::Set(at, byte) => bytes[place(at)] = *byte,
            Bend::Cut(at) => bytes.truncate(place(at)),
            Bend::Repeat(at, count) => {
                let at = place(at);
                let piece = bytes[at..(at + count).min(length)].to_vec();
                bytes.splice(at..at, piece);
            }
            Bend::Insert(at, more) => {
                let at = place(at);
                bytes.splice(at..at, more.iter().copied());
            }
            Bend::Number(at, number) => {
                let at = place(at);
                let end = (at + 4).min(length);
                bytes[at..end].copy_from_slice(&number.to_be_bytes()[..end - at]);
            }
        }
    }
    bytes
}

fn inputs_in(folder: &Path) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(folder).expect("the corpus is in the repository");
    entries.map(|entry| fs::read(entry.expect("an entry").path()).expect("read")).collect()
}

/// What fuzzing has reached through a door, as few inputs as cover it.
fn reached(fuzz: &Path, name: &str) -> Vec<Vec<u8>> {
    let dir = tempfile::tempdir().expect("a folder");
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(fuzz.join("corpus.tar.gz")).arg("-C").arg(dir.path()).arg(name);
    assert!(tar.status().expect("tar starts").success(), "the corpus unpacks");
    inputs_in(&dir.path().join(name))
}

fn try_door(name: &str, door: fn(&[u8])) {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut kept = inputs_in(&fuzz.join("corpus").join(name));
    assert!(kept.len() >= 3, "{name} is as good as empty");
    kept.extend(reached(&fuzz, name));
    for bytes in &kept {
        door(bytes);
    }
    let input = prop_oneof![
        9 => (prop::sample::select(kept), prop::collection::vec(bend(), 1..6)).prop_map(|(bytes, bends)| bent(bytes, &bends)),
        1 => prop::collection::vec(any::<u8>(), 0..400),
    ];
    let more = std::env::var("MILLRACE_FUZZED_CASES").ok();
    let cases = more.map_or(CASES, |cases| cases.parse().expect("MILLRACE_FUZZED_CASES is a number"));
    let config = ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() };
    let tried = TestRunner::new(config).run(&input, |bytes| {
        door(&bytes);
        Ok(())
    });
    tried.unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn frames_harm_nobody() {
    try_door("frames", fuzzing::frames);
}

#[test]
fn record_batches_harm_nobody() {
    try_door("batches", fuzzing::batches);
}

#[test]
fn group_metadata_and_journals_harm_nobody() {
    try_door("groups", |bytes| {
        fuzzing::subscription(bytes);
        fuzzing::journal(bytes);
    });
}

#[test]
fn registry_bodies_harm_nobody() {
    try_door("registry", fuzzing::registry);
}
