//! Disk, clock and caller in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::io::{Answer, BackgroundJob, Call, Caller, Clock, Disk, Storage, StorageError};
use crate::record::Timestamp;

/// The disk of one store.
#[derive(Default)]
pub struct MemoryDisk {
    map: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
    /// Reads fail until it is emptied.
    broken: AtomicBool,
}

impl MemoryDisk {
    fn check(&self) -> Result<(), StorageError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(StorageError::Corrupt { store: "in memory".into(), reason: "broken by the test".into() });
        }
        Ok(())
    }
}

impl Disk for MemoryDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.check()?;
        Ok(self.map.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StorageError> {
        self.check()?;
        for (key, value) in self.map.lock().unwrap_or_else(PoisonError::into_inner).range(from.to_vec()..) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &mut dyn Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError> {
        let mut map = self.map.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StorageError> {
        self.broken.store(false, Ordering::Relaxed);
        self.map.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}

/// A disk in the hands of a task or of a standby copy, until it is taken from the copy.
struct Held {
    store: String,
    disk: Arc<MemoryDisk>,
    is_copy: bool,
    taken: AtomicBool,
}

impl Held {
    fn disk(&self) -> Result<&MemoryDisk, StorageError> {
        if self.taken.load(Ordering::Relaxed) {
            return Err(StorageError::Unavailable { store: self.store.clone(), reason: "a task has taken it".into() });
        }
        Ok(&self.disk)
    }
}

impl Disk for Held {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.disk()?.get(key)
    }

    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StorageError> {
        self.disk()?.scan(from, visit)
    }

    fn write(&self, batch: &mut dyn Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError> {
        self.disk()?.write(batch)
    }

    fn clear(&self) -> Result<(), StorageError> {
        self.disk()?.clear()
    }
}

/// The disks of one process; clones share them, as restarts do.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    disks: Arc<Mutex<BTreeMap<String, Arc<MemoryDisk>>>>,
    held: Arc<Mutex<BTreeMap<String, Weak<Held>>>>,
    waiting: Arc<Mutex<VecDeque<BackgroundJob>>>,
}

impl MemoryStorage {
    /// The process crashed: what was not yet written never will be.
    pub fn crash(&self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The disk is lost.
    pub fn wipe(&self) {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Reads of every store with this in its name fail from now on, until the store is emptied.
    pub fn break_reads(&self, of: &str) {
        let disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks
            .iter()
            .filter(|(name, _)| name.contains(of))
            .for_each(|(_, disk)| disk.broken.store(true, Ordering::Relaxed));
    }

    /// Runs what waits in the background.
    pub fn run_background(&self) {
        loop {
            let job = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            match job {
                Some(job) => job(),
                None => break,
            }
        }
    }
}

impl MemoryStorage {
    fn hold(&self, name: &str, is_copy: bool) -> Option<Arc<dyn Disk>> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = held.get(name).and_then(Weak::upgrade) {
            if is_copy {
                return None;
            }
            before.taken.fetch_or(before.is_copy, Ordering::Relaxed);
        }
        let disk =
            self.disks.lock().unwrap_or_else(PoisonError::into_inner).entry(name.to_owned()).or_default().clone();
        let new = Arc::new(Held { store: name.to_owned(), disk, is_copy, taken: AtomicBool::new(false) });
        held.insert(name.to_owned(), Arc::downgrade(&new));
        Some(new)
    }
}

impl Storage for MemoryStorage {
    fn open(&self, name: &str) -> Result<Arc<dyn Disk>, StorageError> {
        Ok(self.hold(name, false).expect("a task is given every store"))
    }

    fn open_copy(&self, name: &str) -> Result<Option<Arc<dyn Disk>>, StorageError> {
        Ok(self.hold(name, true))
    }

    fn in_background(&self, job: BackgroundJob) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
    }

    fn settle(&self) {
        self.run_background();
    }
}

/// A clock that stands still until moved; clones share it.
#[derive(Clone, Default)]
pub struct ManualClock(Arc<AtomicI64>);

impl ManualClock {
    /// Moves it on.
    pub fn advance(&self, ms: i64) {
        self.0.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets it.
    pub fn set(&self, now: Timestamp) {
        self.0.store(now, Ordering::Relaxed);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        self.0.load(Ordering::Relaxed)
    }
}

/// Holds calls until a test (or a handler) answers them; clones share it.
#[derive(Clone, Default)]
pub struct QueuedCaller {
    calls: Arc<Mutex<VecDeque<Call>>>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl QueuedCaller {
    /// Takes the calls that wait.
    #[must_use]
    pub fn take(&self) -> Vec<Call> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }

    /// Answers one.
    pub fn answer(&self, call: &Call, response: Vec<u8>) {
        let answer = Answer { task: call.task, key: call.key.clone(), id: call.id.clone(), response };
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(answer);
    }

    /// The process is gone, and with it everything in flight.
    pub fn crash(&self) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

impl Caller for QueuedCaller {
    fn start(&mut self, calls: Vec<Call>) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).extend(calls);
    }

    fn answers(&mut self, answers: &mut Vec<Answer>) {
        answers.append(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
