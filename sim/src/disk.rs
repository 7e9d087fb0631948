//! The disks of the simulated processes and of the broker: what is written stays when the process ends, unless the seed
//! says that it is lost, old, broken or full. Never what the bytes mean, but for breaking them on purpose.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use millrace_broker::core::disk::{Disk as BrokerDisk, MemoryDisk};
use millrace_runtime::{BackgroundJob, Disk, Storage, StorageError};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// The contents of every store of a process, by name.
pub(crate) type Contents = BTreeMap<String, Map>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One store's disk.
struct StoreDisk {
    name: String,
    map: Mutex<Map>,
    full: Arc<AtomicBool>,
    /// Reads fail until the store is emptied.
    broken: AtomicBool,
    /// How often it was opened: the last to open it is the one who may write.
    opened: AtomicU64,
    /// Who that is, while it is open.
    holder: Mutex<Weak<OpenDisk>>,
}

impl StoreDisk {
    fn new(name: &str, map: Map, full: &Arc<AtomicBool>) -> Arc<Self> {
        Arc::new(Self {
            name: name.to_owned(),
            map: Mutex::new(map),
            full: full.clone(),
            broken: AtomicBool::new(false),
            opened: AtomicU64::new(0),
            holder: Mutex::default(),
        })
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.broken.load(Ordering::Relaxed) {
            return Err(StorageError::Corrupt { store: self.name.clone(), reason: "broken on purpose".into() });
        }
        Ok(())
    }

    fn unavailable(&self, reason: &str) -> StorageError {
        StorageError::Unavailable { store: self.name.clone(), reason: reason.to_owned() }
    }
}

/// A store's disk as one task has it open.
struct OpenDisk {
    disk: Arc<StoreDisk>,
    number: u64,
    holder: Holder,
}

/// Who has a store open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holder {
    Task,
    Copy,
}

impl OpenDisk {
    /// A copy that was taken is nobody's any more.
    fn may_read(&self) -> Result<(), StorageError> {
        match self.holder {
            Holder::Copy => self.may_write().and_then(|()| self.disk.check()),
            Holder::Task => self.disk.check(),
        }
    }

    fn may_write(&self) -> Result<(), StorageError> {
        if self.disk.opened.load(Ordering::Relaxed) == self.number {
            return Ok(());
        }
        Err(self.disk.unavailable("another thread of this process has taken it"))
    }
}

impl Disk for OpenDisk {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.may_read()?;
        Ok(lock(&self.disk.map).get(key).cloned())
    }

    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StorageError> {
        self.may_read()?;
        for (key, value) in lock(&self.disk.map).range(from.to_vec()..) {
            if !visit(key, value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, batch: &mut dyn Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError> {
        self.may_write()?;
        if self.disk.full.load(Ordering::Relaxed) {
            return Err(self.disk.unavailable("no space is left"));
        }
        let mut map = lock(&self.disk.map);
        for (key, value) in batch {
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn clear(&self) -> Result<(), StorageError> {
        self.may_write()?;
        self.disk.broken.store(false, Ordering::Relaxed);
        lock(&self.disk.map).clear();
        Ok(())
    }
}

/// How a store is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// What it stands for cannot be read.
    Positions,
    /// A state it says is open is not there.
    OpenState,
    /// Every read fails, but only once the store is in use.
    Reads,
}

/// The state directory of one process; clones share it, as the threads of a process and its restarts do.
#[derive(Clone, Default)]
pub(crate) struct StateDisk {
    disks: Arc<Mutex<BTreeMap<String, Arc<StoreDisk>>>>,
    waiting: Arc<Mutex<VecDeque<BackgroundJob>>>,
    full: Arc<AtomicBool>,
    /// Stores that tasks took from standby copies.
    promoted: Arc<AtomicU64>,
}

impl StateDisk {
    /// Opens a store, whoever has it open.
    fn take(&self, name: &str, holder: Holder) -> Arc<OpenDisk> {
        let mut disks = lock(&self.disks);
        let disk = disks.entry(name.to_owned()).or_insert_with(|| StoreDisk::new(name, Map::new(), &self.full)).clone();
        let number = disk.opened.fetch_add(1, Ordering::Relaxed) + 1;
        let open = Arc::new(OpenDisk { disk: disk.clone(), number, holder });
        *lock(&disk.holder) = Arc::downgrade(&open);
        open
    }

    fn holder(&self, name: &str) -> Option<Holder> {
        let disk = lock(&self.disks).get(name)?.clone();
        let holder = lock(&disk.holder).upgrade();
        holder.map(|open| open.holder)
    }

    /// How many stores tasks took from standby copies.
    pub(crate) fn promoted(&self) -> u64 {
        self.promoted.load(Ordering::Relaxed)
    }

    /// The process is gone: what was not yet written never will be.
    pub(crate) fn crash(&self) {
        lock(&self.waiting).clear();
    }

    pub(crate) fn wipe(&self) {
        lock(&self.disks).clear();
    }

    pub(crate) fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::Relaxed);
    }

    /// As it is now, to be put back later.
    pub(crate) fn copy(&self) -> Contents {
        lock(&self.disks).iter().map(|(name, disk)| (name.clone(), lock(&disk.map).clone())).collect()
    }

    pub(crate) fn put_back(&self, copy: Contents) {
        let mut disks = lock(&self.disks);
        *disks = copy.into_iter().map(|(name, map)| (name.clone(), StoreDisk::new(&name, map, &self.full))).collect();
    }

    /// Breaks every store that `which` picks.
    pub(crate) fn damage(&self, mut which: impl FnMut() -> Option<Damage>) {
        for disk in lock(&self.disks).values() {
            match which() {
                None => {}
                Some(Damage::Positions) => {
                    if let Some(positions) = lock(&disk.map).get_mut(&b"mp"[..]) {
                        *positions = vec![0xff, 0xfe];
                    }
                }
                Some(Damage::OpenState) => {
                    let mut map = lock(&disk.map);
                    let open = map.range(b"o".to_vec()..b"p".to_vec()).next().map(|(key, _)| key.clone());
                    if let Some(mut key) = open {
                        key[0] = b's';
                        map.remove(&key);
                    }
                }
                Some(Damage::Reads) => disk.broken.store(true, Ordering::Relaxed),
            }
        }
    }

    /// Runs one job that waits; whether there was one.
    pub(crate) fn run_one(&self) -> bool {
        let job = lock(&self.waiting).pop_front();
        job.map(|job| job()).is_some()
    }

    pub(crate) fn has_waiting(&self) -> bool {
        !lock(&self.waiting).is_empty()
    }
}

impl Storage for StateDisk {
    fn open(&self, name: &str) -> Result<Arc<dyn Disk>, StorageError> {
        if self.holder(name) == Some(Holder::Copy) {
            self.promoted.fetch_add(1, Ordering::Relaxed);
        }
        Ok(self.take(name, Holder::Task))
    }

    fn open_copy(&self, name: &str) -> Result<Option<Arc<dyn Disk>>, StorageError> {
        if self.holder(name).is_some() {
            return Ok(None);
        }
        Ok(Some(self.take(name, Holder::Copy)))
    }

    fn in_background(&self, job: BackgroundJob) {
        lock(&self.waiting).push_back(job);
    }

    fn settle(&self) {
        while self.run_one() {}
    }
}

/// The broker's disk: after so many more writes the broker dies in the middle of one.
#[derive(Default)]
pub(crate) struct DyingDisk {
    disk: MemoryDisk,
    /// Writes left; negative for a disk of a broker that is not about to die.
    left: AtomicI64,
    dead: AtomicBool,
}

impl DyingDisk {
    pub(crate) fn new() -> Self {
        Self { left: AtomicI64::new(-1), ..Self::default() }
    }

    /// The broker dies in the write after this many.
    pub(crate) fn die_after(&self, writes: i64) {
        self.left.store(writes, Ordering::Relaxed);
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Relaxed)
    }

    pub(crate) fn revive(&self) {
        self.left.store(-1, Ordering::Relaxed);
        self.dead.store(false, Ordering::Relaxed);
    }

    /// Whether this write is still whole.
    fn lives(&self) -> Result<bool, io::Error> {
        if self.is_dead() {
            return Err(io::Error::other("the broker is gone"));
        }
        let left = self.left.load(Ordering::Relaxed);
        if left > 0 {
            self.left.store(left - 1, Ordering::Relaxed);
        }
        if left == 0 {
            self.dead.store(true, Ordering::Relaxed);
        }
        Ok(left != 0)
    }

    fn change(&self, act: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.lives()? { act() } else { Err(io::Error::other("the broker is gone")) }
    }
}

impl BrokerDisk for DyingDisk {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn length(&self, file: &str) -> io::Result<u64> {
        self.disk.length(file)
    }

    fn write_at(&self, file: &str, position: u64, bytes: &[u8]) -> io::Result<()> {
        if self.lives()? {
            return self.disk.write_at(file, position, bytes);
        }
        // The last write is torn.
        self.disk.write_at(file, position, &bytes[..bytes.len() / 2])?;
        Err(io::Error::other("the broker is gone"))
    }

    fn read_at(&self, file: &str, position: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.read_at(file, position, buffer)
    }

    fn truncate(&self, file: &str, length: u64) -> io::Result<()> {
        self.change(|| self.disk.truncate(file, length))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.change(|| self.disk.rename(from, to))
    }

    fn delete(&self, file: &str) -> io::Result<()> {
        self.change(|| self.disk.delete(file))
    }

    fn delete_dir(&self, dir: &str) -> io::Result<()> {
        self.change(|| self.disk.delete_dir(dir))
    }
}
