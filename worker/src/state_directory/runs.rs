//! The states of one store in one sled tree: sorted runs of blocks, the newest first to be asked. Owns what stands in the
//! tree and when runs are merged; never decides when to write, and trusts whoever calls that there is one writer.
//!
//! ```text
//! tree     "m"                       manifest: the runs, oldest first
//!          "r" ‖ run ‖ first key     a block of the run
//!          "f" ‖ run ‖ number        a piece of the run's filter
//! ```
//!
//! Decisions:
//! - **Not one entry of sled for each state.** A random new key costs sled 20 to 32 µs of CPU whatever the batch; a block
//!   of 16 KiB behind all others costs little more than one key, and holds dozens. So a batch is written as a run of its own,
//!   in order, and runs are merged later, as in a log-structured merge tree (O'Neil et al. 1996).
//! - **A run is there when the manifest names it.** It is written before; what a death leaves of others is deleted when the
//!   store is opened. So a batch is there as a whole or not at all.
//! - **A key that is in no run costs no look at sled**, but for one in a hundred: every run has a filter in memory, 10 bits
//!   for each key. Most keys an engine asks for are new.
//! - **Few runs, few rewrites**: the newest runs are merged with the oldest one that is no larger than all newer than
//!   it together, when those are seven or more. So sizes at least double from the newest to the oldest, and so does
//!   the run of an entry whenever it is written again.
//! - A deletion is dropped once it is merged into the oldest run.

use std::iter;
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::block::{self, BLOCK_BYTES, Entry, Merged};
use super::filter::{self, Filter};

const MANIFEST: &[u8] = b"m";
const BLOCKS: u8 = b'r';
const FILTERS: u8 = b'f';
/// Bytes of a filter in one value of sled.
const FILTER_PIECE: usize = 16 << 10;
/// Newer runs that a run must have to be merged with them.
const NEWER: usize = 7;
/// Keys of sled deleted in one batch.
const DELETED_AT_ONCE: usize = 256;

/// The runs of one store. All who have the store open in this process share it.
pub(super) struct Runs {
    tree: sled::Tree,
    /// Those that readers see, oldest first.
    current: RwLock<Arc<Vec<Arc<Run>>>>,
    writer: Mutex<Writer>,
}

struct Writer {
    next: u64,
    /// Merged into others; deleted once no reader has them.
    retired: Vec<Arc<Run>>,
}

#[derive(Debug)]
struct Run {
    number: u64,
    /// Entries, deletions among them.
    count: u64,
    bytes: u64,
    filter: Filter,
}

type Snapshot = Arc<Vec<Arc<Run>>>;

impl Runs {
    /// Reads the manifest and the filters, and deletes what is of no run.
    pub(super) fn open(tree: sled::Tree) -> sled::Result<Self> {
        let manifest = tree.get(MANIFEST)?;
        let (next, listed) = manifest.as_deref().map_or(Some((0, Vec::new())), decode_manifest).ok_or_else(damaged)?;
        let mut runs = Vec::new();
        for [number, count, bytes, filter_bytes] in &listed {
            let mut filter = Vec::new();
            for piece in tree.scan_prefix(prefix(FILTERS, *number)) {
                filter.extend_from_slice(&piece?.1);
            }
            // One that lacks a piece would hide keys.
            if filter.len() as u64 != *filter_bytes {
                return Err(damaged());
            }
            let filter = Filter::from_bytes(filter).ok_or_else(damaged)?;
            runs.push(Arc::new(Run { number: *number, count: *count, bytes: *bytes, filter }));
        }
        for space in [BLOCKS, FILTERS] {
            delete_all_but(&tree, space, &listed)?;
        }
        let writer = Mutex::new(Writer { next, retired: Vec::new() });
        Ok(Self { tree, current: RwLock::new(Arc::new(runs)), writer })
    }

    /// The value of a key.
    pub(super) fn get(&self, key: &[u8]) -> sled::Result<Option<Vec<u8>>> {
        let hash = filter::hash(key);
        for run in self.snapshot().iter().rev().filter(|run| run.filter.may_have(hash)) {
            let Some((_, block)) = self.block_at(run.number, key)? else { continue };
            for entry in block::entries(&block) {
                let (at, value) = entry.map_err(|_| damaged())?;
                if at >= key {
                    if at == key {
                        return Ok(value.map(<[u8]>::to_vec));
                    }
                    break;
                }
            }
        }
        Ok(None)
    }

    /// The entries from `from` on, ascending, without the deleted ones.
    pub(super) fn scan(&self, from: &[u8]) -> impl Iterator<Item = sled::Result<(Vec<u8>, Vec<u8>)>> + use<> {
        let runs = self.snapshot();
        let streams: Vec<_> = runs.iter().map(|run| self.stream(run.clone(), from)).collect();
        Merged::new(streams).filter_map(|entry| match entry {
            Ok((key, value)) => value.map(|value| Ok((key, value))),
            Err(error) => Some(Err(error)),
        })
    }

    /// Writes a batch, all or nothing, and merges runs.
    pub(super) fn write(&self, batch: &mut dyn Iterator<Item = Entry>) -> sled::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut entries: Vec<Entry> = batch.collect();
        // Stable, so that of two entries of one key the later one stands last, and that one is kept.
        entries.sort_by(|(one, _), (other, _)| one.cmp(other));
        entries.dedup_by(|later, kept| {
            let again = later.0 == kept.0;
            if again {
                std::mem::swap(later, kept);
            }
            again
        });
        if entries.is_empty() {
            return Ok(());
        }
        let mut runs = (*self.snapshot()).clone();
        let (count, oldest) = (entries.len() as u64, runs.is_empty());
        runs.extend(self.write_run(&mut writer, entries.into_iter().map(Ok), count, oldest)?);
        self.publish(&writer, runs)?;
        while self.merge(&mut writer)? {}
        self.delete_retired(&mut writer)
    }

    /// Empties the store.
    pub(super) fn clear(&self) -> sled::Result<()> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot();
        self.publish(&writer, Vec::new())?;
        writer.retired.extend(before.iter().cloned());
        drop(before);
        self.delete_retired(&mut writer)
    }

    fn snapshot(&self) -> Snapshot {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Names these runs as the store's, on the disk and to readers.
    fn publish(&self, writer: &Writer, runs: Vec<Arc<Run>>) -> sled::Result<()> {
        // What it names must be there when it is.
        self.tree.flush()?;
        self.tree.insert(MANIFEST, encode_manifest(writer.next, &runs))?;
        self.tree.flush()?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(runs);
        Ok(())
    }

    /// Merges the runs that are due; whether there were any.
    fn merge(&self, writer: &mut Writer) -> sled::Result<bool> {
        let runs = self.snapshot();
        let Some(from) = due(&runs.iter().map(|run| run.bytes).collect::<Vec<_>>()) else { return Ok(false) };
        let (kept, merged) = runs.split_at(from);
        let streams: Vec<_> = merged.iter().map(|run| self.stream(run.clone(), &[])).collect();
        let count = merged.iter().map(|run| run.count).sum();
        let written = self.write_run(writer, Merged::new(streams), count, kept.is_empty())?;
        self.publish(writer, kept.iter().cloned().chain(written).collect())?;
        writer.retired.extend(merged.iter().cloned());
        Ok(true)
    }

    /// Writes ascending entries, at most so many, as a run that the manifest does not name yet; deletions only when there
    /// are older runs to hide something of. `None` when nothing is left.
    fn write_run(
        &self,
        writer: &mut Writer,
        entries: impl Iterator<Item = sled::Result<Entry>>,
        at_most: u64,
        oldest: bool,
    ) -> sled::Result<Option<Arc<Run>>> {
        let number = writer.next;
        writer.next += 1;
        let written = self.write_blocks(number, entries, at_most, oldest);
        if written.is_err() {
            // Nobody will ever read it. What cannot be deleted now is when the store is opened next.
            let _ = self.delete_run(number);
        }
        Ok(written?.map(Arc::new))
    }

    fn write_blocks(
        &self,
        number: u64,
        entries: impl Iterator<Item = sled::Result<Entry>>,
        at_most: u64,
        oldest: bool,
    ) -> sled::Result<Option<Run>> {
        let filter = Filter::for_keys(usize::try_from(at_most).expect("as many as memory has room for"));
        let mut run = Run { number, count: 0, bytes: 0, filter };
        let (mut first, mut block) = (Vec::new(), Vec::with_capacity(2 * BLOCK_BYTES));
        for entry in entries {
            let (key, value) = entry?;
            if oldest && value.is_none() {
                continue;
            }
            if block.len() >= BLOCK_BYTES {
                self.write_block(&mut run, &first, &mut block)?;
            }
            run.filter.add(filter::hash(&key));
            run.count += 1;
            let begins = block.is_empty();
            block::append(&mut block, &key, value.as_deref());
            if begins {
                first = key;
            }
        }
        if block.is_empty() {
            return Ok(None);
        }
        self.write_block(&mut run, &first, &mut block)?;
        for (piece, bytes) in (0_u32..).zip(run.filter.bytes().chunks(FILTER_PIECE)) {
            let key = [&prefix(FILTERS, number)[..], &piece.to_be_bytes()].concat();
            self.tree.insert(key, bytes)?;
        }
        Ok(Some(run))
    }

    fn write_block(&self, run: &mut Run, first: &[u8], block: &mut Vec<u8>) -> sled::Result<()> {
        run.bytes += block.len() as u64;
        self.tree.insert(block_key(run.number, first), block.as_slice())?;
        block.clear();
        Ok(())
    }

    fn delete_run(&self, number: u64) -> sled::Result<()> {
        for space in [BLOCKS, FILTERS] {
            delete(&self.tree, self.tree.scan_prefix(prefix(space, number)).keys())?;
        }
        Ok(())
    }

    /// The block of a run that holds a key if any does: the last that begins at or before it.
    fn block_at(&self, run: u64, key: &[u8]) -> sled::Result<Option<(sled::IVec, sled::IVec)>> {
        let (from, to) = (prefix(BLOCKS, run), block_key(run, key));
        self.tree.range::<&[u8], _>(&from[..]..=&to[..]).next_back().transpose()
    }

    /// The entries of a run from a key on.
    fn stream(&self, run: Arc<Run>, from: &[u8]) -> Box<dyn Iterator<Item = sled::Result<Entry>>> {
        let end = prefix(BLOCKS, run.number + 1);
        let first = match self.block_at(run.number, from) {
            Ok(found) => found.map_or_else(|| prefix(BLOCKS, run.number).to_vec(), |(key, _)| key.to_vec()),
            Err(error) => return Box::new(iter::once(Err(error))),
        };
        let blocks = self.tree.range::<&[u8], _>((Bound::Included(&first[..]), Bound::Excluded(&end[..])));
        let from = from.to_vec();
        let entries = blocks.flat_map(move |block| {
            // Held as long as its blocks are read.
            let _run = &run;
            match block {
                Ok((_, block)) => block::entries(&block)
                    .filter(|entry| entry.as_ref().map_or(true, |(key, _)| *key >= &from[..]))
                    .map(|entry| {
                        let (key, value) = entry.map_err(|_| damaged())?;
                        Ok((key.to_vec(), value.map(<[u8]>::to_vec)))
                    })
                    .collect(),
                Err(error) => vec![Err(error)],
            }
        });
        Box::new(entries)
    }

    /// Deletes the runs that no reader has any more.
    fn delete_retired(&self, writer: &mut Writer) -> sled::Result<()> {
        let (free, read): (Vec<_>, Vec<_>) = writer.retired.drain(..).partition(|run| Arc::strong_count(run) == 1);
        writer.retired = read;
        free.iter().try_for_each(|run| self.delete_run(run.number))
    }
}

/// The first of the runs that are to be merged, of their sizes from the oldest to the newest.
fn due(sizes: &[u64]) -> Option<usize> {
    let newer = |at: usize| sizes[at + 1..].iter().sum::<u64>();
    (0..sizes.len().saturating_sub(NEWER)).find(|at| sizes[*at] <= newer(*at))
}

/// Deletes what a death has left of runs that the manifest does not name.
fn delete_all_but(tree: &sled::Tree, space: u8, listed: &[Listed]) -> sled::Result<()> {
    let mut numbers: Vec<u64> = listed.iter().map(|[number, ..]| *number).collect();
    numbers.sort_unstable();
    let mut from = 0;
    for number in numbers.into_iter().map(Some).chain([None]) {
        let end = number.map_or_else(|| vec![space + 1], |number| prefix(space, number).to_vec());
        let between = tree.range::<&[u8], _>(&prefix(space, from)[..]..&end[..]);
        delete(tree, between.keys())?;
        from = number.map_or(0, |number| number + 1);
    }
    Ok(())
}

fn delete(tree: &sled::Tree, keys: impl Iterator<Item = sled::Result<sled::IVec>>) -> sled::Result<()> {
    let (mut batch, mut count) = (sled::Batch::default(), 0);
    for key in keys {
        batch.remove(key?);
        count += 1;
        if count == DELETED_AT_ONCE {
            tree.apply_batch(std::mem::take(&mut batch))?;
            count = 0;
        }
    }
    if count > 0 { tree.apply_batch(batch) } else { Ok(()) }
}

fn prefix(space: u8, run: u64) -> [u8; 9] {
    let mut bytes = [space; 9];
    bytes[1..].copy_from_slice(&run.to_be_bytes());
    bytes
}

fn block_key(run: u64, key: &[u8]) -> Vec<u8> {
    [&prefix(BLOCKS, run)[..], key].concat()
}

/// A run in the manifest: its number, entries, bytes, and bytes of its filter.
type Listed = [u64; 4];

/// The number of the next run, then what is listed of each; all big endian.
fn encode_manifest(next: u64, runs: &[Arc<Run>]) -> Vec<u8> {
    let listed = |run: &Arc<Run>| -> Listed { [run.number, run.count, run.bytes, run.filter.bytes().len() as u64] };
    iter::once(next).chain(runs.iter().flat_map(listed)).flat_map(u64::to_be_bytes).collect()
}

fn decode_manifest(bytes: &[u8]) -> Option<(u64, Vec<Listed>)> {
    let (numbers, rest) = bytes.as_chunks::<8>();
    let (next, runs) = numbers.split_first()?;
    let (runs, odd) = runs.as_chunks::<4>();
    let listed = runs.iter().map(|run| run.map(u64::from_be_bytes)).collect();
    (rest.is_empty() && odd.is_empty()).then_some((u64::from_be_bytes(*next), listed))
}

/// What sled would say of bytes that are not what was written.
fn damaged() -> sled::Error {
    sled::Error::ReportableBug("a run of a store is damaged".into())
}

#[cfg(test)]
mod tests;
