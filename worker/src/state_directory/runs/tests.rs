//! Runs against a plain map: whatever is written, merged, reopened and cleared, both hold the same.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use super::*;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// A database of its own, gone with its directory.
struct Shop {
    _dir: tempfile::TempDir,
    db: sled::Db,
}

impl Shop {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = sled::Config::new().path(dir.path()).flush_every_ms(None).open().unwrap();
        Self { _dir: dir, db }
    }

    fn tree(&self) -> sled::Tree {
        self.db.open_tree("s").unwrap()
    }

    fn open(&self) -> Runs {
        Runs::open(self.tree()).unwrap()
    }
}

/// Numbers that are always the same (a linear congruential generator, Knuth's constants).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

fn put(runs: &Runs, entries: Vec<Entry>) {
    runs.write(&mut entries.into_iter()).unwrap();
}

fn entry(key: &str, value: Option<&str>) -> Entry {
    (key.as_bytes().to_vec(), value.map(|value| value.as_bytes().to_vec()))
}

fn all(runs: &Runs, from: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    runs.scan(from).collect::<sled::Result<_>>().unwrap()
}

fn count(tree: &sled::Tree, space: u8) -> usize {
    tree.scan_prefix([space]).count()
}

#[test]
fn they_hold_what_a_map_holds() {
    for seed in 0..12 {
        let shop = Shop::new();
        let (mut numbers, mut model, mut runs) = (Numbers(seed), Model::new(), shop.open());
        let keys = [30, 400, 5_000][usize::try_from(seed).unwrap() % 3];
        for step in 0..60 {
            match numbers.below(20) {
                0 => {
                    runs = {
                        drop(runs);
                        shop.open()
                    }
                }
                1 if step > 30 => {
                    runs.clear().unwrap();
                    model.clear();
                }
                _ => {
                    let size = 1 + numbers.below(300);
                    let mut batch = Vec::new();
                    for _ in 0..size {
                        let key = format!("k{:05}", numbers.below(keys)).into_bytes();
                        let value = (numbers.below(3) > 0).then(|| {
                            vec![u8::try_from(numbers.below(251)).unwrap(); numbers.below(400).try_into().unwrap()]
                        });
                        match &value {
                            Some(value) => model.insert(key.clone(), value.clone()),
                            None => model.remove(&key),
                        };
                        batch.push((key, value));
                    }
                    put(&runs, batch);
                }
            }
            let key = format!("k{:05}", numbers.below(keys)).into_bytes();
            assert_eq!(runs.get(&key).unwrap().as_ref(), model.get(&key), "seed {seed}, step {step}");
            let from = format!("k{:05}", numbers.below(keys)).into_bytes();
            let expected: Vec<_> =
                model.range(from.clone()..).map(|(key, value)| (key.clone(), value.clone())).collect();
            assert_eq!(all(&runs, &from), expected, "seed {seed}, step {step}, from {from:?}");
        }
        assert!(runs.snapshot().len() <= 30, "{} runs", runs.snapshot().len());
        for key in (0..keys).map(|number| format!("k{number:05}").into_bytes()) {
            assert_eq!(runs.get(&key).unwrap().as_ref(), model.get(&key), "seed {seed}");
        }
    }
}

#[test]
fn the_last_entry_of_a_key_in_a_batch_stands() {
    let shop = Shop::new();
    let runs = shop.open();
    put(&runs, vec![entry("a", Some("1")), entry("b", Some("1")), entry("a", None), entry("b", Some("2"))]);
    assert_eq!(all(&runs, b""), vec![(b"b".to_vec(), b"2".to_vec())]);
}

#[test]
fn a_run_that_no_manifest_names_is_not_there_and_goes() {
    let shop = Shop::new();
    let runs = shop.open();
    put(&runs, vec![entry("a", Some("1"))]);
    put(&runs, vec![entry("b", Some("1"))]);
    let before = (count(&shop.tree(), BLOCKS), count(&shop.tree(), FILTERS));
    {
        // What a death between the blocks and the manifest leaves.
        let mut writer = runs.writer.lock().unwrap();
        runs.write_run(&mut writer, [Ok(entry("a", Some("2"))), Ok(entry("c", Some("2")))].into_iter(), 2, false)
            .unwrap();
    }
    drop(runs);
    let runs = shop.open();
    assert_eq!(all(&runs, b"").len(), 2);
    assert_eq!(runs.get(b"a").unwrap(), Some(b"1".to_vec()));
    assert_eq!((count(&shop.tree(), BLOCKS), count(&shop.tree(), FILTERS)), before);
    put(&runs, vec![entry("d", Some("1"))]);
    drop(runs);
    assert_eq!(all(&shop.open(), b"").len(), 3, "the number that was given twice does no harm");
}

#[test]
fn a_batch_that_fails_leaves_nothing() {
    let shop = Shop::new();
    let runs = shop.open();
    put(&runs, vec![entry("a", Some("1"))]);
    let mut writer = runs.writer.lock().unwrap();
    let many = (0..2_000).map(|number| Ok(entry(&format!("{number:05}"), Some(&"x".repeat(100)))));
    let broken = runs.write_run(&mut writer, many.chain([Err(damaged())]), 2_001, false);
    assert!(broken.is_err());
    assert_eq!(count(&shop.tree(), BLOCKS), 1);
}

#[test]
fn a_scan_goes_on_while_its_runs_are_merged_and_then_they_go() {
    let shop = Shop::new();
    let runs = shop.open();
    let filling =
        |round: u32| (0..3_000).map(|n| entry(&format!("{n:05}"), Some(&format!("{round}")))).collect::<Vec<_>>();
    put(&runs, filling(0));
    let mut scan = runs.scan(b"");
    assert_eq!(scan.next().unwrap().unwrap().1, b"0");
    for round in 1..40 {
        put(&runs, filling(round));
    }
    let rest: Vec<_> = scan.map(|entry| entry.unwrap().1).collect();
    assert_eq!(rest, vec![b"0".to_vec(); 2_999], "it sees what was there when it began");
    put(&runs, filling(40));
    let blocks = count(&shop.tree(), BLOCKS);
    let named: u64 = runs.snapshot().iter().map(|run| run.bytes).sum();
    assert!(
        blocks as u64 <= named / BLOCK_BYTES as u64 + runs.snapshot().len() as u64,
        "{blocks} blocks, {named} bytes"
    );
}

#[test]
fn deletions_are_dropped_in_the_end() {
    let shop = Shop::new();
    let runs = shop.open();
    for round in 0..=NEWER {
        assert_eq!(runs.snapshot().len(), round);
        put(&runs, (0..500).map(|n| entry(&format!("{n:05}"), (round == 0).then_some("x"))).collect());
    }
    assert_eq!((runs.snapshot().len(), count(&shop.tree(), BLOCKS), count(&shop.tree(), FILTERS)), (0, 0, 0));
}

#[test]
fn damage_is_told() {
    let shop = Shop::new();
    let runs = shop.open();
    put(&runs, (0..500).map(|n| entry(&format!("{n:05}"), Some("x"))).collect());
    let (key, _) = shop.tree().scan_prefix([BLOCKS]).next().unwrap().unwrap();
    shop.tree().insert(key, b"not a block").unwrap();
    assert!(runs.get(b"00001").is_err());
    assert!(runs.scan(b"").any(|entry| entry.is_err()));
    shop.tree().insert(MANIFEST, b"odd").unwrap();
    assert!(Runs::open(shop.tree()).is_err());
}

#[test]
fn a_filter_that_lacks_a_piece_is_damage() {
    let shop = Shop::new();
    let runs = shop.open();
    put(&runs, (0..20_000).map(|n| entry(&format!("{n:05}"), Some("x"))).collect());
    drop(runs);
    let pieces: Vec<_> = shop.tree().scan_prefix([FILTERS]).keys().collect::<sled::Result<_>>().unwrap();
    assert!(pieces.len() > 1, "there is one to lose");
    shop.tree().remove(&pieces[0]).unwrap();
    assert!(Runs::open(shop.tree()).is_err());
}

#[test]
fn runs_are_merged_when_the_newer_ones_weigh_as_much() {
    assert_eq!(due(&[]), None);
    assert_eq!(due(&[10; 7]), None);
    assert_eq!(due(&[10; 8]), Some(0));
    assert_eq!(due(&[71, 10, 10, 10, 10, 10, 10, 10]), None);
    assert_eq!(due(&[1_000, 70, 10, 10, 10, 10, 10, 10, 10]), Some(1));
}
