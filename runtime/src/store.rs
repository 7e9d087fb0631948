//! One state store of one task, in layers: uncommitted overlay, committed memtable, disk.
//! Owns what a key's value is and which states are open; never decides when a transaction commits.
//!
//! ```text
//!   write ─▶ overlay ──commit──▶ memtable ──freeze──▶ frozen ──background──▶ disk
//!              │ abort: dropped                                (one atomic batch with the positions it stands for)
//!   read  ──▶ overlay ▶ memtable ▶ frozen ▶ disk
//! ```
//! The disk never runs ahead of the topics: only committed state reaches the memtable, and a batch carries the position
//! of every topic the store is a table of.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hashbrown::{HashMap, HashSet};

use crate::io::{BackgroundJob, Disk, Storage, StorageError};
use crate::open_states::OpenStates;
use crate::planted;
use crate::processor::{CallRequest, StoreDefinition};
use crate::record::{Offset, Timestamp, TopicPartition};

/// The bytes of a state.
pub type Value = Arc<[u8]>;
/// The bytes of a key.
pub type Key = Arc<[u8]>;

/// A value with the time it was written; no value is a deleted key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The state, or `None` for a deleted key.
    pub value: Option<Value>,
    /// When the record behind it was written; what a time to live counts from.
    pub at: Timestamp,
}

type Layer = HashMap<Key, Entry>;

/// One state store of one task.
pub struct Store {
    name: String,
    disk: Arc<dyn Disk>,
    overlay: Layer,
    memtable: Layer,
    memtable_bytes: usize,
    frozen: Option<Arc<Frozen>>,
    /// Keys this transaction has looked for on the disk in vain: most keys are new, and are looked for more than once.
    absent: RefCell<HashSet<Key>>,
    positions: BTreeMap<TopicPartition, Offset>,
    /// A position has moved since the last write.
    moved: bool,
    /// See [`StoreDefinition::format`].
    format: Arc<str>,
    open: OpenStates,
    /// Keys that may stand on the disk as open. Most states were closed before they are first written, and to delete an
    /// entry that is not there costs the disk as much as to write one.
    open_on_disk: HashSet<Key>,
    ttl_ms: Option<i64>,
    sweep_from: Arc<std::sync::Mutex<Vec<u8>>>,
}

/// A memtable on its way to the disk.
struct Frozen {
    entries: Layer,
    written: AtomicBool,
    failed: std::sync::Mutex<Option<StorageError>>,
}

/// Names a topic partition on disk, where ids of one run mean nothing to the next.
pub type NameTopic<'a> = &'a dyn Fn(TopicPartition) -> String;
/// The reverse of [`NameTopic`]; `None` for a topic that is no longer in the topology.
pub type FindTopic<'a> = &'a dyn Fn(&str) -> Option<TopicPartition>;

/// First byte of every key on disk: what kind of entry it is.
mod space {
    pub(super) const META: u8 = b'm';
    pub(super) const OPEN: u8 = b'o';
    pub(super) const STATE: u8 = b's';
}
const POSITIONS: &[u8] = &[space::META, b'p'];
const FORMAT: &[u8] = &[space::META, b'f'];
const SWEEP_KEYS: usize = 2_000;

impl Store {
    /// Opens a store on its disk: reads its positions and finds its open states again.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn open(
        name: String,
        disk: Arc<dyn Disk>,
        definition: &StoreDefinition,
        ttl_ms: Option<i64>,
        find: FindTopic<'_>,
    ) -> Result<Self, StorageError> {
        let corrupt = |reason: &str| StorageError::Corrupt { store: name.clone(), reason: reason.to_owned() };
        let positions = match disk.get(POSITIONS)? {
            None => BTreeMap::new(),
            Some(bytes) => {
                let format = disk.get(FORMAT)?.unwrap_or_default();
                if format != definition.format.as_bytes() {
                    let (found, own) = (String::from_utf8_lossy(&format), &definition.format);
                    return Err(corrupt(&format!(
                        "its states are of the format {found:?}, this program's are {own:?}"
                    )));
                }
                decode_positions(&bytes, find).ok_or_else(|| corrupt("its positions cannot be read"))?
            }
        };
        let mut open = OpenStates::of(definition.open);
        let mut keys = Vec::new();
        disk.scan(&[space::OPEN], &mut |key, _| match key.split_first() {
            Some((&space::OPEN, key)) => {
                keys.push(key.to_vec());
                true
            }
            _ => false,
        })?;
        let mut open_on_disk = HashSet::new();
        let mut unreadable = false;
        let all = read_states(&*disk, &keys, &mut |key, bytes| match split_entry(bytes) {
            Some((_, value)) => {
                let key = Key::from(key);
                open.update(&key, Some(value));
                open_on_disk.insert(key);
            }
            None => unreadable = true,
        })?;
        if !all || unreadable {
            return Err(corrupt(if all { "a state cannot be read" } else { "an open state is missing" }));
        }
        Ok(Self {
            name,
            disk,
            overlay: Layer::new(),
            memtable: Layer::new(),
            memtable_bytes: 0,
            frozen: None,
            absent: RefCell::default(),
            positions,
            moved: false,
            format: definition.format.as_str().into(),
            open,
            open_on_disk,
            ttl_ms,
            sweep_from: Arc::default(),
        })
    }

    /// Its name, for messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the disk still serves this store: a standby copy's may have been taken.
    ///
    /// # Errors
    /// [`StorageError`].
    pub(crate) fn check_disk(&self) -> Result<(), StorageError> {
        self.disk.get(FORMAT).map(drop)
    }

    /// The value as this transaction sees it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Value>, StorageError> {
        match self.overlay.get(key) {
            Some(entry) => Ok(entry.value.clone()),
            None => self.get_committed(key),
        }
    }

    /// The value as everybody else sees it.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn get_committed(&self, key: &[u8]) -> Result<Option<Value>, StorageError> {
        if let Some(entry) = self.memtable.get(key) {
            return Ok(entry.value.clone());
        }
        if let Some(entry) = self.frozen.as_ref().and_then(|frozen| frozen.entries.get(key)) {
            return Ok(entry.value.clone());
        }
        if self.absent.borrow().contains(key) {
            return Ok(None);
        }
        match self.disk.get(&prefixed(space::STATE, key))? {
            None => {
                self.absent.borrow_mut().insert(key.into());
                Ok(None)
            }
            Some(bytes) => match split_entry(&bytes) {
                Some((_, value)) => Ok(Some(Value::from(value))),
                None => {
                    Err(StorageError::Corrupt { store: self.name.clone(), reason: "a state cannot be read".into() })
                }
            },
        }
    }

    /// Visits every committed state, ascending by key, until `visit` answers false. For inspection and verification.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn scan_committed(&self, visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StorageError> {
        let mut recent: BTreeMap<&[u8], &Entry> = BTreeMap::new();
        if let Some(frozen) = &self.frozen {
            recent.extend(frozen.entries.iter().map(|(k, e)| (&**k, e)));
        }
        recent.extend(self.memtable.iter().map(|(k, e)| (&**k, e)));
        let mut recent = recent.into_iter().peekable();
        let mut stopped = false;
        self.disk.scan(&[space::STATE], &mut |key, bytes| {
            let Some((&space::STATE, key)) = key.split_first() else {
                return false;
            };
            while let Some((k, e)) = recent.next_if(|(k, _)| *k < key) {
                if let Some(value) = &e.value
                    && !visit(k, value)
                {
                    stopped = true;
                    return false;
                }
            }
            let shadow = recent.next_if(|(k, _)| *k == key);
            let value = match shadow {
                Some((_, entry)) => entry.value.as_deref(),
                None => split_entry(bytes).map(|(_, value)| value),
            };
            if let Some(value) = value {
                stopped = !visit(key, value);
            }
            !stopped
        })?;
        if !stopped {
            for (k, e) in recent {
                if let Some(value) = &e.value
                    && !visit(k, value)
                {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Writes into the overlay; gives what the overlay held before, for [`Store::undo`].
    pub fn write(&mut self, key: &[u8], entry: Entry) -> (Key, Option<Entry>) {
        if let Some((key, slot)) = self.overlay.get_key_value_mut(key) {
            return (key.clone(), Some(std::mem::replace(slot, entry)));
        }
        let key = Key::from(key);
        self.overlay.insert(key.clone(), entry);
        (key, None)
    }

    /// Takes one write back.
    pub fn undo(&mut self, key: &Key, before: Option<Entry>) {
        match before {
            Some(entry) => {
                self.overlay.insert(key.clone(), entry);
            }
            None => {
                self.overlay.remove(key);
            }
        }
    }

    /// Drops everything uncommitted.
    pub fn drop_overlay(&mut self) {
        self.absent.get_mut().clear();
        self.overlay.clear();
    }

    /// Whether something is uncommitted.
    #[must_use]
    pub fn has_overlay(&self) -> bool {
        !self.overlay.is_empty()
    }

    /// The transaction has committed: the overlay is state now. Gives the keys whose state changed to `changed`.
    pub fn commit_overlay(&mut self, mut changed: impl FnMut(&Key, Option<&CallRequest>)) {
        self.absent.get_mut().clear();
        for (key, entry) in self.overlay.drain() {
            let call = self.open.update(&key, entry.value.as_deref());
            changed(&key, call);
            remember(&mut self.memtable, &mut self.memtable_bytes, key, entry);
        }
    }

    /// Applies a committed record while restoring.
    pub fn restore(&mut self, key: &[u8], entry: Entry) {
        let key = Key::from(key);
        self.open.update(&key, entry.value.as_deref());
        remember(&mut self.memtable, &mut self.memtable_bytes, key, entry);
    }

    /// Whether it holds no state at all.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn is_empty(&self) -> Result<bool, StorageError> {
        let mut empty = true;
        self.scan_committed(&mut |_, _| {
            empty = false;
            false
        })?;
        Ok(empty)
    }

    /// The next position to apply of a topic this store is a table of.
    #[must_use]
    pub fn position(&self, partition: TopicPartition) -> Option<Offset> {
        self.positions.get(&partition).copied()
    }

    /// Every committed record below `next` is applied.
    pub fn set_position(&mut self, partition: TopicPartition, next: Offset) {
        let position = self.positions.entry(partition).or_insert(-1);
        self.moved |= next > *position;
        *position = (*position).max(next);
    }

    /// Empties the store, memory and disk: it will be rebuilt from its topics.
    ///
    /// # Errors
    /// [`StorageError`].
    pub fn clear(&mut self) -> Result<(), StorageError> {
        self.absent.get_mut().clear();
        self.overlay.clear();
        self.memtable.clear();
        self.memtable_bytes = 0;
        self.frozen = None;
        self.positions.clear();
        self.open.clear();
        self.open_on_disk.clear();
        self.disk.clear()
    }

    /// About how many bytes of memory the committed, not yet written states take.
    #[must_use]
    pub fn memtable_bytes(&self) -> usize {
        self.memtable_bytes
    }

    /// How many states have a deadline or an open call.
    #[must_use]
    pub fn open_states(&self) -> usize {
        self.open.len()
    }

    /// The earliest deadline of a committed state.
    #[must_use]
    pub fn next_deadline(&self) -> Option<(Timestamp, &Key)> {
        self.open.deadlines().next().map(|(at, key)| (*at, key))
    }

    /// The keys whose deadline is not after `now`, earliest first, at most `most`.
    #[must_use]
    pub fn due(&self, now: Timestamp, most: usize) -> Vec<(Timestamp, Key)> {
        self.open.deadlines().take_while(|(at, _)| *at <= now).take(most).cloned().collect()
    }

    /// Every call that committed states have open.
    pub fn open_calls(&self) -> impl Iterator<Item = (&Key, &CallRequest)> {
        self.open.calls()
    }

    /// What committed states wait in, or have: how many in each, and since when the oldest of them.
    pub fn waiting(&self) -> impl Iterator<Item = (&'static str, usize, Timestamp)> {
        self.open.waiting()
    }

    /// The call that the state of a key has open, this transaction's writes included.
    #[must_use]
    pub fn open_call(&self, key: &[u8]) -> Option<Cow<'_, CallRequest>> {
        match self.overlay.get(key) {
            Some(entry) => self.open.asked_of(key, entry.value.as_deref()?)?.call.map(Cow::Owned),
            None => self.open.call(key).map(Cow::Borrowed),
        }
    }

    /// The deadline a state would have.
    #[must_use]
    pub fn deadline_of(&self, key: &[u8], value: &[u8]) -> Option<Timestamp> {
        self.open.asked_of(key, value)?.deadline
    }

    /// Takes the memtable for writing out, as a job for a background thread. `None` while the last one is still being
    /// written, or when there is nothing to write.
    ///
    /// # Errors
    /// The [`StorageError`] of the last write, whose states are then back in the memtable.
    pub fn freeze(&mut self, now: Timestamp, name: NameTopic<'_>) -> Result<Option<BackgroundJob>, StorageError> {
        self.thaw()?;
        if self.frozen.is_some() || (self.memtable.is_empty() && !self.moved) {
            return Ok(None);
        }
        self.moved = false;
        // What leaves memory is looked for on the disk again.
        self.absent.get_mut().clear();
        let mut entries = std::mem::take(&mut self.memtable);
        self.memtable_bytes = 0;
        if planted::is(planted::Defect::CheckpointAhead) {
            entries.clear();
        }
        let open: Vec<Mark> = entries.iter().map(|(key, entry)| self.mark(key, entry)).collect();
        let frozen = Arc::new(Frozen { entries, written: AtomicBool::new(false), failed: std::sync::Mutex::default() });
        self.frozen = Some(frozen.clone());
        let positions = encode_positions(&self.positions, name);
        let format = self.format.as_bytes().to_vec();
        let disk = self.disk.clone();
        let expiry = self.ttl_ms.map(|ttl| (now - ttl, self.sweep_from.clone()));
        Ok(Some(Box::new(move || {
            let states = frozen.entries.iter().zip(&open).flat_map(|((key, entry), &open)| {
                let state = entry.value.as_ref().map(|value| join_entry(entry.at, value));
                let open = match open {
                    Mark::Open => Some((prefixed(space::OPEN, key), Some(Vec::new()))),
                    Mark::Closed => Some((prefixed(space::OPEN, key), None)),
                    Mark::NeverOpen => None,
                };
                [Some((prefixed(space::STATE, key), state)), open].into_iter().flatten()
            });
            let meta = [(POSITIONS.to_vec(), Some(positions)), (FORMAT.to_vec(), Some(format))];
            let mut batch = states.chain(meta);
            let mut result = disk.write(&mut batch);
            if let (Ok(()), Some((oldest, from))) = (&result, expiry) {
                result = sweep(&*disk, oldest, &from);
            }
            if let Err(error) = result {
                *frozen.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(error);
            }
            frozen.written.store(true, Ordering::Release);
        })))
    }

    /// Has the memtable written in the background, where [`Store::freeze`] gives a job for that.
    ///
    /// # Errors
    /// As [`Store::freeze`].
    pub(crate) fn write_out(
        &mut self,
        now: Timestamp,
        name: NameTopic<'_>,
        storage: &dyn Storage,
    ) -> Result<(), StorageError> {
        self.freeze(now, name).map(|job| job.into_iter().for_each(|job| storage.in_background(job)))
    }

    /// What is to be said on the disk about a state being open.
    fn mark(&mut self, key: &Key, entry: &Entry) -> Mark {
        if entry.value.is_some() && self.open.contains(key) {
            self.open_on_disk.insert(key.clone());
            Mark::Open
        } else if self.open_on_disk.remove(key) {
            Mark::Closed
        } else {
            Mark::NeverOpen
        }
    }

    /// Lets go of a frozen memtable that has been written; takes it back where the write failed.
    ///
    /// # Errors
    /// The [`StorageError`] of the write.
    pub fn thaw(&mut self) -> Result<(), StorageError> {
        let Some(frozen) = self.frozen.take_if(|frozen| frozen.written.load(Ordering::Acquire)) else {
            return Ok(());
        };
        let failed = frozen.failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let Some(error) = failed else { return Ok(()) };
        self.moved = true;
        // What was to be deleted from the disk is still there.
        self.open_on_disk.extend(frozen.entries.keys().cloned());
        for (key, entry) in &frozen.entries {
            if !self.memtable.contains_key(key) {
                remember(&mut self.memtable, &mut self.memtable_bytes, key.clone(), entry.clone());
            }
        }
        Err(error)
    }
}

/// What a write to the disk says about a state being open.
#[derive(Clone, Copy)]
enum Mark {
    Open,
    /// It may stand there as open from before.
    Closed,
    NeverOpen,
}

/// Reads the states of these keys, which ascend: in one pass where they stand close together, with a look for each where
/// they do not. False when one of them is not there.
fn read_states(disk: &dyn Disk, keys: &[Vec<u8>], found: &mut dyn FnMut(&[u8], &[u8])) -> Result<bool, StorageError> {
    /// A look costs about as much as passing over so many.
    const PASSED_MAX: usize = 64;
    let mut next = 0;
    while next < keys.len() {
        let (before, mut passed) = (next, 0);
        disk.scan(&prefixed(space::STATE, &keys[next]), &mut |key, bytes| {
            let Some((&space::STATE, key)) = key.split_first() else { return false };
            match key.cmp(&keys[next]) {
                std::cmp::Ordering::Less => {
                    passed += 1;
                    passed < PASSED_MAX
                }
                std::cmp::Ordering::Equal => {
                    found(key, bytes);
                    (next, passed) = (next + 1, 0);
                    next < keys.len()
                }
                std::cmp::Ordering::Greater => false,
            }
        })?;
        if next == before {
            return Ok(false);
        }
    }
    Ok(true)
}

fn prefixed(space: u8, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.push(space);
    bytes.extend_from_slice(key);
    bytes
}

fn join_entry(at: Timestamp, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len() + 8);
    bytes.extend_from_slice(&at.to_be_bytes());
    bytes.extend_from_slice(value);
    bytes
}

fn split_entry(bytes: &[u8]) -> Option<(Timestamp, &[u8])> {
    let (at, value) = bytes.split_first_chunk::<8>()?;
    Some((Timestamp::from_be_bytes(*at), value))
}

/// Puts a committed state into the memtable, and keeps count of what that takes.
fn remember(memtable: &mut Layer, bytes: &mut usize, key: Key, entry: Entry) {
    *bytes += size_of_entry(&key, &entry);
    if let Some(old) = memtable.insert(key.clone(), entry) {
        *bytes = bytes.saturating_sub(size_of_entry(&key, &old));
    }
}

fn size_of_entry(key: &Key, entry: &Entry) -> usize {
    const OVERHEAD: usize = 96;
    OVERHEAD + key.len() + entry.value.as_ref().map_or(0, |value| value.len())
}

/// Deletes states whose time to live is over, a bounded number a call, going round.
fn sweep(disk: &dyn Disk, oldest: Timestamp, from: &std::sync::Mutex<Vec<u8>>) -> Result<(), StorageError> {
    let mut from = from.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let start = if from.is_empty() { vec![space::STATE] } else { from.clone() };
    let mut expired = Vec::new();
    let mut seen = 0;
    let mut last = Vec::new();
    disk.scan(&start, &mut |key, bytes| {
        if key.first() != Some(&space::STATE) {
            return false;
        }
        if split_entry(bytes).is_some_and(|(at, _)| at < oldest) {
            expired.push(key.to_vec());
        }
        seen += 1;
        if seen == SWEEP_KEYS {
            last = key.to_vec();
        }
        seen < SWEEP_KEYS
    })?;
    *from = last;
    if expired.is_empty() {
        return Ok(());
    }
    disk.write(&mut expired.into_iter().map(|key| (key, None)))
}

fn encode_positions(positions: &BTreeMap<TopicPartition, Offset>, name: NameTopic<'_>) -> Vec<u8> {
    let mut text = String::new();
    for (partition, next) in positions {
        text.push_str(&name(*partition));
        text.push(' ');
        text.push_str(&next.to_string());
        text.push('\n');
    }
    text.into_bytes()
}

fn decode_positions(bytes: &[u8], find: FindTopic<'_>) -> Option<BTreeMap<TopicPartition, Offset>> {
    let mut positions = BTreeMap::new();
    for line in std::str::from_utf8(bytes).ok()?.lines() {
        let (name, next) = line.rsplit_once(' ')?;
        let next = next.parse().ok()?;
        if let Some(partition) = find(name) {
            positions.insert(partition, next);
        }
    }
    Some(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::processor::Open;

    /// What was written, in order; refuses to write when told to.
    #[derive(Default)]
    struct Written {
        log: std::sync::Mutex<Vec<(Vec<u8>, bool)>>,
        refuses: AtomicBool,
    }

    impl Disk for Written {
        fn get(&self, _: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
            Ok(None)
        }

        fn scan(&self, _: &[u8], _: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), StorageError> {
            Ok(())
        }

        fn write(&self, batch: &mut dyn Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>) -> Result<(), StorageError> {
            if self.refuses.load(Ordering::Relaxed) {
                return Err(StorageError::Unavailable { store: "s".into(), reason: "told to".into() });
            }
            let marks = batch.filter(|(key, _)| key.first() == Some(&space::OPEN));
            self.log.lock().unwrap().extend(marks.map(|(key, value)| (key, value.is_some())));
            Ok(())
        }

        fn clear(&self) -> Result<(), StorageError> {
            Ok(())
        }
    }

    /// A value `[n, ..]` has a deadline at `n`, none at 0.
    #[test]
    fn what_stands_on_the_disk_as_open_is_deleted_there_once_and_nothing_else_is() {
        let disk = Arc::new(Written::default());
        let definition = StoreDefinition {
            name: "s",
            tables: Vec::new(),
            format: String::new(),
            open: Some(|_, value| {
                let deadline = value.first().filter(|at| **at > 0).map(|at| (*at).into());
                Open { deadline, ..Open::default() }
            }),
        };
        let mut store = Store::open("s".into(), disk.clone(), &definition, None, &|_| None).unwrap();
        let mut written = |puts: &[(&[u8], Option<u8>)]| {
            for (key, value) in puts {
                let value = value.map(|value| Value::from([value]));
                store.write(key, Entry { value, at: 0 });
            }
            store.commit_overlay(|_, _| {});
            let job = store.freeze(0, &|_| String::new());
            job.map(|job| job.map(|job| job())).map_err(|error| error.to_string())?;
            let mut log = std::mem::take(&mut *disk.log.lock().unwrap());
            log.sort();
            Ok::<_, String>(log)
        };
        let mark = |key: &[u8], is_open| (prefixed(space::OPEN, key), is_open);
        assert_eq!(written(&[(b"1", Some(9)), (b"2", Some(0))]).unwrap(), [mark(b"1", true)]);
        assert_eq!(written(&[(b"2", Some(0))]).unwrap(), [], "it never was");
        disk.refuses.store(true, Ordering::Relaxed);
        assert_eq!(written(&[(b"1", Some(0))]).unwrap(), [], "the write fails in the background");
        disk.refuses.store(false, Ordering::Relaxed);
        assert!(written(&[]).is_err(), "which is told at the next");
        assert!(written(&[]).unwrap().contains(&mark(b"1", false)), "what the failed write did not delete");
        assert_eq!(written(&[(b"1", None)]).unwrap(), [], "deleted once");
    }
}
