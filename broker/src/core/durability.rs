//! What a broker's word is worth. With [`Durability::Process`] a write is done when the operating system has it; with
//! [`Durability::Power`] when the disk has it.
//!
//! For the latter, a [`Ledger`] around the disk remembers which files were written. A round syncs them all at once, for
//! all requests that came meanwhile (group commit), in two steps so that the slow part needs no lock:
//! [`Core::next_sync`], [`SyncJob::run`], [`Core::finish_sync`]. Whoever answers a request first waits for
//! [`Core::unsynced_round`]. A decided transaction gets its markers only after the decision has reached the disk:
//! otherwise one partition could keep a marker the journal knows nothing of.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::Disk;
use super::{Core, StorageError};

/// What acknowledged writes survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// The death of the process (`kill -9`).
    #[default]
    Process,
    /// A power cut, as far as the disk keeps what it was told to keep.
    Power,
}

/// A disk that remembers what must be synced.
pub(super) struct Ledger {
    disk: Arc<dyn Disk>,
    unsynced: Mutex<Unsynced>,
}

#[derive(Default)]
struct Unsynced {
    files: BTreeSet<String>,
    dirs: BTreeSet<String>,
    /// Files whose names are known to be on disk, or will be with the next round.
    named: HashSet<String>,
}

impl Unsynced {
    fn note(&mut self, file: &str) {
        if file.ends_with(".index") {
            // Can always be built anew.
            return;
        }
        self.files.insert(file.to_owned());
        if self.named.insert(file.to_owned()) {
            let mut path = file;
            while let Some((dir, _)) = path.rsplit_once('/') {
                self.dirs.insert(dir.to_owned());
                path = dir;
            }
            self.dirs.insert(String::new());
        }
    }

    fn forget(&mut self, file: &str) {
        self.files.remove(file);
        self.named.remove(file);
    }
}

impl Ledger {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, unsynced: Mutex::default() }
    }

    fn unsynced(&self) -> MutexGuard<'_, Unsynced> {
        // Sets of names, whole after every step.
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file that an earlier process may have written without syncing it.
    pub(super) fn note(&self, file: &str) {
        self.unsynced().note(file);
    }

    fn is_clean(&self) -> bool {
        let unsynced = self.unsynced();
        unsynced.files.is_empty() && unsynced.dirs.is_empty()
    }
}

impl Disk for Ledger {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        self.disk.length(file)
    }

    fn write_at(&self, file: &str, position: u64, bytes: &[u8]) -> io::Result<()> {
        let result = self.disk.write_at(file, position, bytes);
        self.note(file);
        result
    }

    fn read_at(&self, file: &str, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(file, position, buffer)
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        let result = self.disk.truncate(file, length);
        self.note(file);
        result
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut unsynced = self.unsynced();
        let data = unsynced.files.contains(from);
        unsynced.forget(from);
        unsynced.forget(to);
        unsynced.note(to);
        if !data {
            unsynced.files.remove(to);
        }
        Ok(())
    }

    fn delete(&self, file: &str) -> io::Result<()> {
        self.unsynced().forget(file);
        self.disk.delete(file)
    }

    fn delete_dir(&self, dir: &str) -> io::Result<()> {
        let prefix = format!("{dir}/");
        let mut unsynced = self.unsynced();
        unsynced.files.retain(|file| !file.starts_with(&prefix));
        unsynced.named.retain(|file| !file.starts_with(&prefix));
        unsynced.dirs.retain(|known| known != dir && !known.starts_with(&prefix));
        drop(unsynced);
        self.disk.delete_dir(dir)
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        // Whatever is written while the disk works is noted again by its writer.
        self.unsynced().files.remove(file);
        let result = self.disk.sync(file);
        if result.is_err() {
            self.note(file);
        }
        result
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }
}

/// Where the core stands with its rounds.
pub(super) struct Rounds {
    ledger: Arc<Ledger>,
    /// Number of the next round.
    next: u64,
    /// Number of the last finished round.
    finished: u64,
    /// A sync failed: nothing written since the last finished round can be vouched for.
    failed: bool,
}

impl Rounds {
    pub(super) fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, next: 1, finished: 0, failed: false }
    }

    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    pub(super) fn has_finished(&self, round: u64) -> bool {
        self.finished >= round
    }

    pub(super) fn has_failed(&self) -> bool {
        self.failed
    }
}

/// A round on its way.
pub struct SyncJob {
    ledger: Arc<Ledger>,
    round: u64,
    files: BTreeSet<String>,
    dirs: BTreeSet<String>,
}

impl SyncJob {
    /// Its number.
    #[must_use]
    pub fn round(&self) -> u64 {
        self.round
    }

    /// Syncs everything that was written before the round began.
    ///
    /// # Errors
    /// If the disk refuses. What was written is then in doubt.
    pub fn run(&self) -> Result<(), StorageError> {
        let gone_is_fine = |name: &str, result: io::Result<()>| match result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|error| StorageError::io(name, error)),
        };
        for file in &self.files {
            gone_is_fine(file, self.ledger.disk.sync(file))?;
        }
        for dir in &self.dirs {
            gone_is_fine(dir, self.ledger.disk.sync_dir(dir))?;
        }
        Ok(())
    }
}

impl Core {
    /// What acknowledged writes survive.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.settings.durability
    }

    /// The round that must be finished before everything written until now survives a power cut; `None` if it does
    /// already, or need not.
    #[must_use]
    pub fn unsynced_round(&self) -> Option<u64> {
        let rounds = self.rounds.as_ref()?;
        let last = if rounds.ledger.is_clean() { rounds.next - 1 } else { rounds.next };
        (rounds.failed || last > rounds.finished).then_some(last)
    }

    /// Begins the next round, if something was written since the last began. Call it again only after
    /// [`Core::finish_sync`].
    pub fn next_sync(&mut self) -> Option<SyncJob> {
        let rounds = self.rounds.as_mut()?;
        if rounds.failed || rounds.ledger.is_clean() {
            return None;
        }
        let mut unsynced = rounds.ledger.unsynced();
        let files = std::mem::take(&mut unsynced.files);
        let dirs = std::mem::take(&mut unsynced.dirs);
        let round = rounds.next;
        rounds.next += 1;
        Some(SyncJob { ledger: rounds.ledger.clone(), round, files, dirs })
    }

    /// Ends a round: transactions whose decision it brought to disk get their markers. After a failed round nothing is
    /// written any more, for a disk that has failed to sync once may claim the next time that nothing is left to do.
    pub fn finish_sync(&mut self, now: i64, round: u64, result: Result<(), StorageError>) {
        let Some(rounds) = self.rounds.as_mut() else {
            return;
        };
        match result {
            Ok(()) => {
                rounds.finished = rounds.finished.max(round);
                self.finish_decided_transactions(now);
            }
            Err(error) => {
                rounds.failed = true;
                tracing::error!(%error, "the disk did not keep what was written: nothing is acknowledged any more. \
                     Look after the disk, then start the broker again");
            }
        }
    }
}
