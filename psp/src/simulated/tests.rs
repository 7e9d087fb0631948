//! What the simulated provider did survives it, and many threads share a flush.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use millrace_schemas::ProviderOperation;

use super::flush::GroupFlush;
use super::*;

fn authorize(order: usize, token: &str) -> ProviderRequest {
    ProviderRequest {
        operation: ProviderOperation::Authorize,
        idempotency_key: format!("o-{order}/authorize/1"),
        order_id: format!("o-{order}"),
        amount_minor: 100,
        currency: "EUR".into(),
        payment_method: token.into(),
        provider_reference: None,
        ask: false,
    }
}

fn entries(of: impl Iterator<Item = Result<LedgerEntry, LedgerError>>) -> Vec<LedgerEntry> {
    of.collect::<Result<_, _>>().unwrap()
}

#[test]
fn what_was_answered_is_remembered_after_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let provider = SimulatedProvider::open(directory.path(), Options::default()).unwrap();
    let first = provider.handle(&authorize(1, "tok_visa"));
    assert!(matches!(provider.handle(&authorize(2, "tok_timeout_after")), ProviderResponse::Unknown { .. }));
    drop(provider);

    let provider = SimulatedProvider::open(directory.path(), Options::default()).unwrap();
    assert_eq!(provider.handle(&authorize(1, "tok_visa")), first);
    let mut ask = authorize(2, "tok_timeout_after");
    ask.ask = true;
    assert!(matches!(provider.handle(&ask), ProviderResponse::Approved { amount_minor: 100, .. }));
    let live: Vec<_> = entries(provider.ledger()).iter().map(|e| (e.authorizations, e.live)).collect();
    assert_eq!(live, [(1, true), (1, true)]);
    drop(provider);
    assert_eq!(entries(open_ledger(directory.path()).unwrap()).len(), 2);
}

#[test]
fn a_crash_after_the_answer_loses_nothing() {
    // What is on disk at the moment of the answer, seen through a copy of the directory while the provider runs.
    let directory = tempfile::tempdir().unwrap();
    let provider = SimulatedProvider::open(directory.path(), Options::default()).unwrap();
    for order in 0..20 {
        provider.handle(&authorize(order, "tok_visa"));
    }
    let copy = tempfile::tempdir().unwrap();
    copy_files(directory.path(), copy.path());
    assert_eq!(entries(open_ledger(copy.path()).unwrap()).len(), 20);
}

fn copy_files(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_files(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[test]
fn many_threads_share_flushes_and_each_order_is_charged_once() {
    let directory = tempfile::tempdir().unwrap();
    let provider = Arc::new(SimulatedProvider::open(directory.path(), Options::default()).unwrap());
    let started = Instant::now();
    let threads: Vec<_> = (0..32)
        .map(|thread| {
            let provider = provider.clone();
            std::thread::spawn(move || {
                for order in 0..100 {
                    // Two threads ask for each order, with the same key.
                    provider.handle(&authorize(thread / 2 * 100 + order, "tok_visa"));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    println!("3200 durable calls in {:?}", started.elapsed());
    let entries = entries(provider.ledger());
    assert_eq!(entries.len(), 1600);
    assert!(entries.iter().all(|entry| entry.authorizations == 1));
}

#[test]
fn requests_made_together_share_one_flush() {
    let directory = tempfile::tempdir().unwrap();
    let provider = SimulatedProvider::open(directory.path(), Options::default()).unwrap();
    let requests: Vec<_> = (0..50).map(|order| authorize(order, "tok_visa")).collect();
    let mut answered = vec![false; requests.len()];
    provider.handle_all(&requests, &mut |place, response| {
        assert!(matches!(response, ProviderResponse::Approved { .. }), "{response:?}");
        answered[place] = true;
    });
    assert!(answered.iter().all(|answered| *answered));
    assert_eq!(provider.flushed.flushes(), 1);
    let copy = tempfile::tempdir().unwrap();
    copy_files(directory.path(), copy.path());
    assert_eq!(entries(open_ledger(copy.path()).unwrap()).len(), 50);
}

#[test]
fn a_directory_has_one_opener() {
    let directory = tempfile::tempdir().unwrap();
    let _provider = SimulatedProvider::open(directory.path(), Options::default()).unwrap();
    assert!(open_ledger(directory.path()).is_err());
}

#[test]
fn a_flush_serves_all_that_came_before_it_and_no_flush_is_made_for_nothing() {
    let group = GroupFlush::default();
    let flushes = AtomicU32::new(0);
    let flush = || {
        flushes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    };
    group.wait_for(0, flush).unwrap();
    assert_eq!(flushes.load(Ordering::Relaxed), 0);
    for _ in 0..5 {
        group.wrote();
    }
    for write in 1..=5 {
        group.wait_for(write, flush).unwrap();
    }
    assert_eq!(flushes.load(Ordering::Relaxed), 1);
}

#[test]
fn a_failed_flush_is_an_unknown_outcome_and_is_tried_again_by_the_next() {
    let group = GroupFlush::default();
    group.wrote();
    let broken = || Err(sled::Error::Io(std::io::Error::other("disk full")));
    assert!(group.wait_for(1, broken).is_err());
    group.wait_for(1, || Ok(())).unwrap();
    assert!(group.wait_for(1, broken).is_ok());
}
