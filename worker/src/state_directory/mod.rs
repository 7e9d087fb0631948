//! The stores of one process on disk: one sled database, one tree per store, in it the store's [`runs`]. Owns the rule that what cannot be trusted
//! is set aside and made anew, because every store can be rebuilt from its topics; never decides when to write.
//!
//! ```text
//! <path>/                 0700
//!   lock                  held while a process uses the directory
//!   stores/format         what wrote this, one line
//!   stores/sled/          the database
//!   stores.corrupt-<n>/   set aside, the newest few
//! ```
//!
//! Decisions:
//! - **sled is a copy, not the truth.** Opening happens on a thread of its own; an error and a panic are the same: the
//!   directory is renamed aside, a fresh one is opened, the log says so and a counter counts it. Reading and writing
//!   are guarded against panics the same way and answer [`StorageError::Corrupt`].
//! - **Each store remembers when it was last written.** One that is older than the tombstone retention may hold keys
//!   whose deletion is already gone from the topic, so it is emptied when it is opened. This is per store, because a
//!   partition may come back after a long time to a process that wrote others every second.
//! - **A batch is flushed when it is written**, on the background thread that writes it; sled's own timer is off. A
//!   batch that was acknowledged survives the death of the process, not the loss of power: sled flushes to the
//!   operating system only. The position in the batch makes that harmless.
//! - **A store has one writer: whoever opened it last.** [`Storage::open`] marks the hold of the one before as taken, once a
//!   write of it that is under way has ended; after that a standby copy's disk does nothing, and a task's is only read. The
//!   task is that of another thread which does not know yet that its partition has moved: what it does is never committed,
//!   but written here it would stand among states of other positions. A copy never gets a store that a task has.
//! - `flush_async` is never used: it is known to deadlock.

mod block;
mod filter;
mod runs;

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Sender, bounded, unbounded};
use millrace_runtime::{BackgroundJob, Disk, Storage, StorageError};

use self::runs::Runs;

/// The first line of `stores/format`.
const FORMAT: &str = "millrace-state 3";
/// Why a directory cannot be opened that somebody else has.
const USED: &str = "another process uses this state directory; give each a `--data-dir` of its own, or end the other";
/// How often, 10 ms apart, sled's own lock is looked at before it counts as another process's.
const LOOKS: u32 = 200;
/// What the thread that writes states out leaves of a core to those who need it now (`nice`), and with it the threads of
/// sled's that it starts: merging runs takes seconds and hurries nobody.
const WRITER_NICE: i32 = 5;
/// The tree that holds when each store was last written.
const WRITTEN: &str = "\u{0}written";

/// Where the stores are and what they may cost.
#[derive(Clone, Debug)]
pub struct StateSettings {
    /// The state directory; made if needed.
    pub path: PathBuf,
    /// Memory for pages of all stores, bytes.
    pub cache_bytes: u64,
    /// How long the topics keep the deletion of a key (`delete.retention.ms`); an older store is rebuilt.
    pub tombstone_retention: Duration,
    /// How many set-aside directories are kept.
    pub kept_aside: usize,
}

impl StateSettings {
    /// 8 MiB of cache, a day of tombstone retention, two directories kept aside.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            cache_bytes: 8 << 20,
            tombstone_retention: Duration::from_secs(24 * 3600),
            kept_aside: 2,
        }
    }

    fn unavailable(&self, reason: String) -> StorageError {
        StorageError::Unavailable { store: self.path.display().to_string(), reason }
    }
}

/// [`Storage`] on disk. Clones share it; the directory is released with the last of them.
#[derive(Clone)]
pub struct StateDirectory(Arc<Inner>);

struct Inner {
    settings: StateSettings,
    db: sled::Db,
    written: sled::Tree,
    set_aside: AtomicU64,
    holds: Mutex<HashMap<String, Weak<Hold>>>,
    /// The stores that somebody has open.
    stores: Mutex<HashMap<String, Weak<Runs>>>,
    jobs: Option<Sender<BackgroundJob>>,
    worker: Option<thread::JoinHandle<()>>,
    /// The last field, so that it is given up after everything of sled.
    _lock: Lock,
}

/// A directory that this process has to itself and has not opened yet. After a kill sled reads again whatever it has written
/// since it was last opened, and other things can be done meanwhile.
pub struct LockedDirectory {
    settings: StateSettings,
    lock: Lock,
}

impl LockedDirectory {
    /// Takes the directory, which is made if needed.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`]: another process uses it, or the disk cannot be written.
    pub fn take(settings: StateSettings) -> Result<Self, StorageError> {
        let failed = |reason: String| settings.unavailable(reason);
        make_private(&settings.path).map_err(|error| failed(error.to_string()))?;
        let lock = File::create(settings.path.join("lock")).map_err(|error| failed(error.to_string()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { settings, lock: Lock(lock) }),
            Err(TryLockError::WouldBlock) => Err(failed(USED.into())),
            Err(TryLockError::Error(error)) => Err(failed(error.to_string())),
        }
    }

    /// Opens it, setting aside what cannot be trusted.
    ///
    /// # Errors
    /// [`StorageError::Unavailable`]: the disk cannot be written.
    pub fn open(self) -> Result<StateDirectory, StorageError> {
        let Self { settings, lock } = self;
        let failed = |reason: String| settings.unavailable(reason);
        let mut aside = 0;
        let (db, written) = loop {
            match open_guarded(&settings) {
                Ok(opened) => break opened,
                Err(Trust::Unavailable(reason)) => return Err(failed(reason)),
                Err(Trust::Corrupt(reason)) if aside < 2 => {
                    aside += 1;
                    let to = set_aside(&settings).map_err(|error| failed(error.to_string()))?;
                    tracing::error!(
                        %reason,
                        set_aside_to = %to.display(),
                        "the state directory cannot be trusted; stores are rebuilt from their topics"
                    );
                }
                Err(Trust::Corrupt(reason)) => return Err(failed(reason)),
            }
        };
        let (jobs, todo) = unbounded::<BackgroundJob>();
        let worker = thread::Builder::new().name("state-writer".into()).spawn(move || {
            // For Linux no process is this thread, elsewhere all threads.
            if cfg!(target_os = "linux")
                && let Err(error) = rustix::process::setpriority_process(None, WRITER_NICE)
            {
                tracing::warn!("states are written out at the priority of everything else: {error}");
            }
            for job in todo {
                if catch_unwind(AssertUnwindSafe(job)).is_err() {
                    tracing::error!("writing a memtable out panicked; its states stay in the topics");
                }
            }
        });
        let worker = worker.map_err(|error| failed(error.to_string()))?;
        Ok(StateDirectory(Arc::new(Inner {
            settings,
            db,
            written,
            set_aside: AtomicU64::new(aside),
            holds: Mutex::default(),
            stores: Mutex::default(),
            jobs: Some(jobs),
            worker: Some(worker),
            _lock: lock,
        })))
    }
}

impl StateDirectory {
    /// Takes the directory and opens it.
    ///
    /// # Errors
    /// As those of [`LockedDirectory`].
    pub fn open(settings: StateSettings) -> Result<Self, StorageError> {
        LockedDirectory::take(settings)?.open()
    }

    /// Directories and stores set aside or emptied since this process opened it.
    #[must_use]
    pub fn set_aside(&self) -> u64 {
        self.0.set_aside.load(Ordering::Relaxed)
    }

    /// Bytes on disk.
    #[must_use]
    pub fn bytes_on_disk(&self) -> u64 {
        self.0.db.size_on_disk().unwrap_or(0)
    }

    fn is_old(&self, name: &str) -> bool {
        let known = self.0.written.get(name).ok().flatten();
        let known = known.and_then(|bytes| Some(u64::from_be_bytes(bytes.as_ref().try_into().ok()?)));
        let oldest =
            now_ms().saturating_sub(u64::try_from(self.0.settings.tombstone_retention.as_millis()).unwrap_or(u64::MAX));
        known.is_some_and(|at| at < oldest)
    }
}

/// The lock of a directory, given up when it is dropped. Closing the file alone would leave it to a process that is just
/// being started: that has a copy of every open file until it runs its own program, and the lock lasts as long as any copy.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::error!(%error, "giving up the lock of the state directory");
        }
    }
}

/// Who has a store open.
struct Hold {
    by: Holder,
    /// Set once, when a task takes the store. Held for reading during every use that must not meet another's.
    taken: RwLock<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Holder {
    Task,
    Copy,
}

impl StateDirectory {
    /// A hold on the store; `None` for a copy while anybody has it.
    fn hold(&self, name: &str, by: Holder) -> Option<Arc<Hold>> {
        let mut holds = self.0.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(before) = holds.get(name).and_then(Weak::upgrade) {
            if by == Holder::Copy {
                return None;
            }
            *before.taken.write().unwrap_or_else(PoisonError::into_inner) = true;
        }
        let hold = Arc::new(Hold { by, taken: RwLock::new(false) });
        holds.insert(name.to_owned(), Arc::downgrade(&hold));
        Some(hold)
    }

    /// The runs of a store, shared by all who have it open: a task that has lost it may go on reading.
    fn runs(&self, name: &str) -> Result<Arc<Runs>, StorageError> {
        let mut stores = self.0.stores.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(runs) = stores.get(name).and_then(Weak::upgrade) {
            return Ok(runs);
        }
        let open = || guard(name, || Runs::open(self.0.db.open_tree(name)?));
        let runs = match open() {
            Err(StorageError::Corrupt { reason, .. }) => {
                self.0.set_aside.fetch_add(1, Ordering::Relaxed);
                tracing::error!(store = name, %reason, "the store cannot be trusted; it is rebuilt from its topics");
                guard(name, || self.0.db.drop_tree(name)).and_then(|_| open()).map_err(unavailable)
            }
            opened => opened,
        };
        let runs = Arc::new(runs?);
        stores.insert(name.to_owned(), Arc::downgrade(&runs));
        Ok(runs)
    }

    fn open_store(&self, name: &str, hold: Arc<Hold>) -> Result<Arc<dyn Disk>, StorageError> {
        let store = RunStore { name: name.to_owned(), runs: self.runs(name)?, written: self.0.written.clone(), hold };
        if self.is_old(name) {
            self.0.set_aside.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(store = name, "the store is older than its topics keep deletions; it is rebuilt from them");
            store.clear().map_err(unavailable)?;
        }
        Ok(Arc::new(store))
    }
}

impl Storage for StateDirectory {
    fn open(&self, name: &str) -> Result<Arc<dyn Disk>, StorageError> {
        let hold = self.hold(name, Holder::Task).expect("a task is given every store");
        self.open_store(name, hold)
    }

    fn open_copy(&self, name: &str) -> Result<Option<Arc<dyn Disk>>, StorageError> {
        self.hold(name, Holder::Copy).map(|hold| self.open_store(name, hold)).transpose()
    }

    fn in_background(&self, job: BackgroundJob) {
        if let Some(jobs) = &self.0.jobs {
            // The receiver lives until the last clone is dropped.
            let _ = jobs.send(job);
        }
    }

    fn settle(&self) {
        let (done, settled) = bounded(1);
        self.in_background(Box::new(move || {
            let _ = done.send(());
        }));
        let _ = settled.recv();
    }
}

impl Drop for Inner {
    /// Runs what waits, then closes.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        if let Err(error) = self.db.flush() {
            tracing::error!(%error, "flushing the state directory");
        }
    }
}

/// One store as one holder has it. The engine writes keys and values of its own; the time of the last write stands in a
/// tree beside.
struct RunStore {
    name: String,
    runs: Arc<Runs>,
    written: sled::Tree,
    hold: Arc<Hold>,
}

impl RunStore {
    /// A call of sled that changes nothing.
    fn read<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StorageError> {
        if self.hold.by == Holder::Task {
            return guard(&self.name, call);
        }
        self.unless_taken(call)
    }

    /// A call of sled, unless the store was taken.
    fn unless_taken<T>(&self, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StorageError> {
        let taken = self.hold.taken.read().unwrap_or_else(PoisonError::into_inner);
        if *taken {
            let reason = "another task of this process has taken it".to_owned();
            return Err(StorageError::Unavailable { store: self.name.clone(), reason });
        }
        guard(&self.name, call)
    }
}

impl Disk for RunStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.read(|| self.runs.get(key))
    }

    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StorageError> {
        let mut entries = self.read(|| Ok(self.runs.scan(from)))?;
        loop {
            // Only sled is guarded: what the engine does with an entry is its own affair.
            match self.read(|| entries.next().transpose())? {
                Some((key, value)) if visit(&key, &value) => {}
                _ => return Ok(()),
            }
        }
    }

    fn write(&self, batch: &mut dyn Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError> {
        self.unless_taken(|| {
            self.runs.write(batch)?;
            // After the batch: a time that is too early only costs a rebuild.
            self.written.insert(&self.name, &now_ms().to_be_bytes()).map(drop)
        })
    }

    fn clear(&self) -> Result<(), StorageError> {
        self.unless_taken(|| {
            self.runs.clear()?;
            self.written.remove(&self.name).map(drop)
        })
    }
}

enum Trust {
    Corrupt(String),
    Unavailable(String),
}

/// Opens the database where a panic of sled cannot reach the caller.
fn open_guarded(settings: &StateSettings) -> Result<(sled::Db, sled::Tree), Trust> {
    let stores = settings.path.join("stores");
    let io = |error: io::Error| Trust::Unavailable(error.to_string());
    let format = stores.join("format");
    match fs::read_to_string(&format) {
        Ok(text) if text.trim_end() == FORMAT => {}
        Ok(text) => return Err(Trust::Corrupt(format!("it is of the format {:?}, not {FORMAT:?}", text.trim_end()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound && !stores.exists() => {
            make_private(&stores).map_err(io)?;
            fs::write(&format, format!("{FORMAT}\n")).map_err(io)?;
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
            return Err(Trust::Corrupt("it does not say its format".into()));
        }
        Err(error) => return Err(io(error)),
    }
    if !unlocked(&stores.join("sled/db")).map_err(io)? {
        return Err(Trust::Unavailable(USED.into()));
    }
    let config =
        sled::Config::new().path(stores.join("sled")).cache_capacity(settings.cache_bytes).flush_every_ms(None);
    let opening = thread::Builder::new().name("state-open".into()).spawn(move || {
        let db = config.open()?;
        let written = db.open_tree(WRITTEN)?;
        Ok::<_, sled::Error>((db, written))
    });
    match opening.map_err(io)?.join() {
        Err(_) => Err(Trust::Corrupt("opening it panicked".into())),
        Ok(Ok(opened)) => Ok(opened),
        Ok(Err(error)) => match classify(&error) {
            Class::Corrupt => Err(Trust::Corrupt(error.to_string())),
            Class::Unavailable => Err(Trust::Unavailable(error.to_string())),
        },
    }
}

/// Waits until nobody has sled's file locked, for at most two seconds. Sled's lock of before may last a little longer than
/// its database (see [`Lock`]), and sled says of a lock what it says of damage.
fn unlocked(file: &Path) -> io::Result<bool> {
    let file = match File::open(file) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    for _ in 0..LOOKS {
        match file.try_lock() {
            Ok(()) => return file.unlock().map(|()| true),
            Err(TryLockError::WouldBlock) => thread::sleep(Duration::from_millis(10)),
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(false)
}

/// Renames the stores aside and forgets the oldest ones beyond those kept.
fn set_aside(settings: &StateSettings) -> io::Result<PathBuf> {
    let mut others: Vec<(u64, PathBuf)> = fs::read_dir(&settings.path)?
        .filter_map(Result::ok)
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.strip_prefix("stores.corrupt-")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    others.sort();
    let next = others.last().map_or(1, |(number, _)| number + 1);
    let to = settings.path.join(format!("stores.corrupt-{next}"));
    fs::rename(settings.path.join("stores"), &to)?;
    let keep = settings.kept_aside.max(1) - 1;
    for (_, old) in others.iter().rev().skip(keep) {
        fs::remove_dir_all(old)?;
    }
    Ok(to)
}

fn make_private(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))
    }
    #[cfg(not(unix))]
    fs::create_dir_all(path)
}

enum Class {
    Corrupt,
    Unavailable,
}

fn classify(error: &sled::Error) -> Class {
    match error {
        sled::Error::Io(error)
            if !matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData) =>
        {
            // A sled that meets bytes it does not know says so as an error of its own kind or as `Other`.
            if error.kind() == io::ErrorKind::Other && error.raw_os_error().is_none() {
                Class::Corrupt
            } else {
                Class::Unavailable
            }
        }
        _ => Class::Corrupt,
    }
}

/// A call of sled whose error or panic becomes a [`StorageError`].
fn guard<T>(store: &str, call: impl FnOnce() -> sled::Result<T>) -> Result<T, StorageError> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(error)) => {
            let (store, reason) = (store.to_owned(), error.to_string());
            Err(match classify(&error) {
                Class::Corrupt => StorageError::Corrupt { store, reason },
                Class::Unavailable => StorageError::Unavailable { store, reason },
            })
        }
        Err(_) => Err(StorageError::Corrupt { store: store.to_owned(), reason: "sled panicked".into() }),
    }
}

fn unavailable(error: StorageError) -> StorageError {
    match error {
        StorageError::Corrupt { store, reason } | StorageError::Unavailable { store, reason } => {
            StorageError::Unavailable { store, reason }
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A process that is started has, until it runs its own program, a copy of every file this one has open.
    #[test]
    fn a_copy_of_the_lock_s_file_does_not_keep_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(StateSettings::new(dir.path())).unwrap();
        let copy = state.0._lock.0.try_clone().unwrap();
        drop(state);
        let again = StateDirectory::open(StateSettings::new(dir.path())).unwrap();
        assert_eq!(again.set_aside(), 0);
        drop(copy);
    }

    #[test]
    fn stores_that_are_locked_are_not_called_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let open = || StateDirectory::open(StateSettings::new(dir.path()));
        drop(open().unwrap());
        let other = File::open(dir.path().join("stores/sled/db")).unwrap();
        other.lock().unwrap();
        assert!(matches!(open(), Err(StorageError::Unavailable { reason, .. }) if reason == USED));
        let release = thread::spawn(move || {
            thread::sleep(Duration::from_millis(100));
            drop(other);
        });
        assert_eq!(open().unwrap().set_aside(), 0, "it waits for one that ends");
        release.join().unwrap();
    }
}
