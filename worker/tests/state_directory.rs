//! The state directory: whole batches after a kill, and what cannot be trusted is set aside.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use millrace_runtime::{Disk, Storage, StorageError};
use millrace_worker::{LockedDirectory, StateDirectory, StateSettings};

/// Set for the process that the kill test starts: where it writes.
const WRITER: &str = "MILLRACE_TEST_STATE_WRITER";
/// Keys of one batch; all of them hold the batch's number.
const WIDTH: u32 = 200;

fn open(path: &Path) -> StateDirectory {
    StateDirectory::open(StateSettings::new(path)).unwrap()
}

fn put(disk: &dyn Disk, key: &str, value: &str) {
    disk.write(&mut [(key.as_bytes().to_vec(), Some(value.as_bytes().to_vec()))].into_iter()).unwrap();
}

fn all(disk: &dyn Disk) -> Vec<(String, String)> {
    let mut found = Vec::new();
    disk.scan(b"", &mut |key, value| {
        found.push((String::from_utf8_lossy(key).into(), String::from_utf8_lossy(value).into()));
        true
    })
    .unwrap();
    found
}

fn pair(key: &str, value: &str) -> (String, String) {
    (key.into(), value.into())
}

#[test]
fn stores_keep_what_was_written_apart_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    {
        let state = open(dir.path());
        let (one, two) = (state.open("payment-payments-0").unwrap(), state.open("payment-payments-1").unwrap());
        put(&*one, "b", "2");
        put(&*one, "a", "1");
        put(&*one, "c", "3");
        put(&*two, "a", "other");
        one.write(&mut [(b"b".to_vec(), None)].into_iter()).unwrap();
    }
    let state = open(dir.path());
    let one = state.open("payment-payments-0").unwrap();
    assert_eq!(all(&*one), vec![pair("a", "1"), pair("c", "3")]);
    assert_eq!(one.get(b"c").unwrap(), Some(b"3".to_vec()));
    one.clear().unwrap();
    assert_eq!(all(&*one), vec![]);
    assert_eq!(all(&*state.open("payment-payments-1").unwrap()), vec![pair("a", "other")]);
    assert_eq!(state.set_aside(), 0);
}

#[test]
fn two_processes_cannot_use_one_directory() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path());
    let second = StateDirectory::open(StateSettings::new(dir.path()));
    assert!(matches!(second, Err(StorageError::Unavailable { .. })));
    drop(state);
    let taken = LockedDirectory::take(StateSettings::new(dir.path())).unwrap();
    let second = LockedDirectory::take(StateSettings::new(dir.path()));
    assert!(matches!(second, Err(StorageError::Unavailable { .. })), "taken before it is opened");
    taken.open().unwrap();
    open(dir.path());
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let _state = open(&path);
    for path in [path.clone(), path.join("stores")] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o700);
    }
}

#[test]
fn a_corrupt_database_is_set_aside_and_only_a_few_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..5_u64 {
        {
            let state = open(dir.path());
            assert_eq!(state.set_aside(), u64::from(round > 0), "in round {round}");
            let disk = state.open("s").unwrap();
            assert_eq!(all(&*disk), vec![], "a fresh one is empty");
            for number in 0..2_000 {
                put(&*disk, &number.to_string(), &"x".repeat(100));
                if number >= 20 {
                    break;
                }
            }
        }
        std::fs::write(dir.path().join("stores/sled/conf"), b"not what sled wrote").unwrap();
    }
    let mut aside: Vec<String> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("corrupt"))
        .collect();
    aside.sort();
    assert_eq!(aside, vec!["stores.corrupt-3", "stores.corrupt-4"]);
}

#[test]
fn garbage_in_the_data_file_never_reaches_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    {
        let disk = open(dir.path()).open("s").unwrap();
        for number in 0..50 {
            put(&*disk, &format!("{number:03}"), &"x".repeat(1_000));
        }
    }
    let file = dir.path().join("stores/sled/db");
    let mut bytes = std::fs::read(&file).unwrap();
    for at in (0..bytes.len()).step_by(97) {
        bytes[at] = bytes[at].wrapping_add(1);
    }
    std::fs::write(&file, bytes).unwrap();
    let state = open(dir.path());
    // Whatever sled makes of it: an entry is either what was written or not there.
    let disk = state.open("s").unwrap();
    let read = disk.scan(b"", &mut |_, value| {
        assert_eq!(value, "x".repeat(1_000).as_bytes());
        true
    });
    assert!(matches!(read, Ok(()) | Err(StorageError::Corrupt { .. })), "{read:?}");
}

#[test]
fn an_unknown_format_is_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    put(&*open(dir.path()).open("s").unwrap(), "a", "1");
    std::fs::write(dir.path().join("stores/format"), "millrace-state 99\n").unwrap();
    let state = open(dir.path());
    assert_eq!((state.set_aside(), all(&*state.open("s").unwrap())), (1, vec![]));
    assert!(dir.path().join("stores.corrupt-1/format").exists());
}

#[test]
fn a_store_older_than_the_deletions_is_emptied_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = StateSettings::new(dir.path());
    {
        let state = open(dir.path());
        put(&*state.open("old").unwrap(), "a", "1");
        std::thread::sleep(Duration::from_millis(1_200));
        put(&*state.open("young").unwrap(), "a", "1");
    }
    settings.tombstone_retention = Duration::from_millis(1_000);
    let state = StateDirectory::open(settings).unwrap();
    assert_eq!(all(&*state.open("young").unwrap()).len(), 1);
    assert_eq!(all(&*state.open("old").unwrap()), vec![]);
    assert_eq!(state.set_aside(), 1);
}

#[test]
fn background_jobs_run_in_order_and_a_panic_stops_none() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path());
    let count = Arc::new(AtomicUsize::new(0));
    for number in 0..100 {
        let count = count.clone();
        state.in_background(Box::new(move || {
            assert_ne!(number, 50, "one job breaks");
            let _ = count.compare_exchange(
                number - usize::from(number > 50),
                number + 1 - usize::from(number > 50),
                Ordering::SeqCst,
                Ordering::SeqCst,
            );
        }));
    }
    state.settle();
    assert_eq!(count.load(Ordering::SeqCst), 99, "each ran after the one before it");
}

/// The process that is killed: writes batches for ever, saying each number once it is acknowledged.
#[test]
fn writer_process() {
    let Ok(path) = std::env::var(WRITER) else {
        return;
    };
    let disk = open(Path::new(&path)).open("s").unwrap();
    for batch in 1_u32.. {
        let entries = (0..WIDTH).map(|key| (key.to_be_bytes().to_vec(), Some(batch.to_be_bytes().to_vec())));
        disk.write(&mut entries.collect::<Vec<_>>().into_iter()).unwrap();
        println!("acknowledged {batch}");
    }
}

#[test]
fn a_kill_keeps_every_acknowledged_batch_whole() {
    let dir = tempfile::tempdir().unwrap();
    let mut least = 0;
    for round in 1..=4 {
        let mut writer = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_process", "--nocapture"])
            .env(WRITER, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut acknowledged = 0;
        let lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        for line in lines.map_while(Result::ok) {
            if let Some((_, number)) = line.split_once("acknowledged ") {
                acknowledged = number.trim().parse().unwrap();
            }
            if acknowledged == 30 * round {
                // SIGKILL: nothing of the process runs after it.
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(acknowledged >= 30 * round, "the writer ended early, at {acknowledged}");
        let state = open(dir.path());
        assert_eq!(state.set_aside(), 0, "a kill is no corruption");
        let mut found = Vec::new();
        let disk = state.open("s").unwrap();
        disk.scan(b"", &mut |_, value| {
            found.push(u32::from_be_bytes(value.try_into().unwrap()));
            true
        })
        .unwrap();
        assert_eq!(found.len(), WIDTH as usize);
        assert!(found.iter().all(|batch| *batch == found[0]), "a torn batch: {found:?}");
        assert!(found[0] >= acknowledged, "batch {acknowledged} was acknowledged, {} is there", found[0]);
        least = least.max(found[0]);
    }
    assert!(least >= 120);
}

#[test]
fn a_task_takes_a_store_from_a_copy_and_a_copy_never_from_a_task() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path());
    let copy = state.open_copy("s").unwrap().expect("nobody has it");
    put(&*copy, "a", "1");
    assert!(state.open_copy("s").unwrap().is_none(), "one copy at a time");
    let task = state.open("s").unwrap();
    assert_eq!(all(&*task), vec![pair("a", "1")], "what the copy had written is there");
    let refused = copy.write(&mut [(b"a".to_vec(), Some(b"stale".to_vec()))].into_iter());
    assert!(matches!(refused, Err(StorageError::Unavailable { .. })), "{refused:?}");
    assert!(copy.get(b"a").is_err() && copy.clear().is_err(), "the copy can do nothing any more");
    assert_eq!(task.get(b"a").unwrap(), Some(b"1".to_vec()));
    assert!(state.open_copy("s").unwrap().is_none(), "the task has it");
    drop(task);
    let again = state.open_copy("s").unwrap().expect("the task has closed it");
    assert_eq!(all(&*again), vec![pair("a", "1")]);
}

/// Two threads of one process: the partition has moved from one to the other, and the first does not know it yet.
#[test]
fn a_task_takes_a_store_from_another_thread_s_task_which_then_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let state = open(dir.path());
    let zombie = state.open("s").unwrap();
    put(&*zombie, "position", "1");
    let owner = state.open("s").unwrap();
    put(&*owner, "position", "2");
    let stale = zombie.write(&mut [(b"position".to_vec(), Some(b"1".to_vec()))].into_iter());
    assert!(matches!(stale, Err(StorageError::Unavailable { .. })), "{stale:?}");
    assert!(zombie.clear().is_err());
    assert_eq!(zombie.get(b"position").unwrap(), Some(b"2".to_vec()), "it may go on reading until it hears of it");
    drop(zombie);
    put(&*owner, "a", "3");
    assert_eq!(all(&*owner), vec![pair("a", "3"), pair("position", "2")]);
}
