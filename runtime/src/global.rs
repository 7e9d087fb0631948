//! A topic read in full, every partition, into memory: the newest value of each key. Advice for decisions, never the
//! truth of another processor.

use hashbrown::HashMap;

use crate::processor::{Change, Failure, Fold};
use crate::record::{Offset, Record};
use crate::store::Value;

/// A global table.
#[derive(Default)]
pub struct GlobalTable {
    values: HashMap<Box<[u8]>, Value>,
    /// Per partition: next offset to apply, and the end that must be reached before the table may be used.
    partitions: HashMap<i32, Progress>,
}

#[derive(Clone, Copy)]
struct Progress {
    next: Offset,
    needed: Offset,
}

impl GlobalTable {
    /// A partition of the topic will be read from `start`; the table may be used once `needed` is reached.
    pub fn expect(&mut self, partition: i32, start: Offset, needed: Offset) {
        self.partitions.insert(partition, Progress { next: start, needed });
    }

    /// The newest value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Value> {
        self.values.get(key)
    }

    /// The next offset to apply of a partition; `None` where the partition is not read.
    #[must_use]
    pub fn position(&self, partition: i32) -> Option<Offset> {
        self.partitions.get(&partition).map(|progress| progress.next)
    }

    /// How many keys it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether it holds no key.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether everything that stood in the topic at the start has been read.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.partitions.values().all(|progress| progress.next >= progress.needed)
    }

    /// Applies a record; one that was applied before is passed over.
    ///
    /// # Errors
    /// What the fold gives; the record is then not applied.
    pub fn apply(&mut self, fold: &Fold, record: &Record<'_>) -> Result<(), Failure> {
        let next = self.partitions.get(&record.partition).map_or(0, |progress| progress.next);
        if record.offset >= 0 && record.offset < next {
            return Ok(());
        }
        let before = self.values.get(record.key);
        match fold(record, before.map(|value| &**value))? {
            Change::Keep => {}
            Change::Put(value) => {
                self.values.insert(record.key.into(), value.into());
            }
            Change::Delete => {
                self.values.remove(record.key);
            }
        }
        self.reached(record.partition, record.offset + 1);
        Ok(())
    }

    /// Every committed record of the partition below `next` has been applied.
    pub fn reached(&mut self, partition: i32, next: Offset) {
        let progress = self.partitions.entry(partition).or_insert(Progress { next: 0, needed: 0 });
        progress.next = progress.next.max(next);
    }
}
