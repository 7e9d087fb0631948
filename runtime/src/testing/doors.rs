//! Disk, clock and caller in memory.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::io::{Answer, BackgroundJob, Call, Caller, Clock, Disk, Storage, StorageError};
use crate::record::Timestamp;

/// The disk of one store.
#[derive(Default)]
pub struct MemoryDisk(Mutex<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Disk for MemoryDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned())
    }

    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StorageError> {
        for (key, value) in self.0.lock().unwrap_or_else(PoisonError::into_inner).range(from.to_vec()..) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &mut dyn Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StorageError> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
        Ok(())
    }
}

/// The disks of one process; clones share them, as restarts do.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    disks: Arc<Mutex<BTreeMap<String, Arc<MemoryDisk>>>>,
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

impl Storage for MemoryStorage {
    fn open(&self, name: &str) -> Result<Arc<dyn Disk>, StorageError> {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        let disk: Arc<MemoryDisk> = disks.entry(name.to_owned()).or_default().clone();
        Ok(disk)
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
    fn start(&mut self, call: Call) {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push_back(call);
    }

    fn answers(&mut self, answers: &mut Vec<Answer>) {
        answers.append(&mut self.answers.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
