//! A topic read in full, every partition, into memory: the newest value of each key. Advice for decisions, never the
//! truth of another processor. Owns what the disk has of it, so that a restart reads on where the last run ended; never needs it:
//! a table whose disk fails is in memory alone, and read anew at the next start.

use std::collections::BTreeMap;

use hashbrown::HashMap;

use crate::io::{Bounds, Storage, StorageError};
use crate::processor::{Change, Failure, Fold};
use crate::record::{Offset, Record, Timestamp, TopicId, TopicPartition};
use crate::store::{Entry, NameTopic, Store, Value};

/// A global table.
#[derive(Default)]
pub struct GlobalTable {
    values: HashMap<Box<[u8]>, Value>,
    /// Per partition: next offset to apply, and the end that must be reached before the table may be used.
    partitions: HashMap<i32, Progress>,
    /// `None` where nothing is kept on a disk.
    kept: Option<Kept>,
}

/// What the disk has of a table, and what it will have.
struct Kept {
    topic: TopicId,
    store: Store,
}

impl Kept {
    fn at(&self, partition: i32) -> TopicPartition {
        TopicPartition { topic: self.topic, partition }
    }
}

#[derive(Clone, Copy)]
struct Progress {
    next: Offset,
    needed: Offset,
}

impl GlobalTable {
    /// A table of what this store has, which is kept there from now on.
    ///
    /// # Errors
    /// [`StorageError`]: the store cannot be read, or not be emptied where it cannot be trusted.
    pub(crate) fn kept_in(topic: TopicId, mut store: Store) -> Result<Self, StorageError> {
        let mut values = HashMap::new();
        let read = store.scan_committed(&mut |key, value| {
            values.insert(key.into(), value.into());
            true
        });
        match read {
            Ok(()) => {}
            Err(StorageError::Corrupt { .. }) => {
                store.clear()?;
                values.clear();
            }
            Err(error) => return Err(error),
        }
        Ok(Self { values, partitions: HashMap::new(), kept: Some(Kept { topic, store }) })
    }

    /// The partitions of the topic begin and end here. It will be read from where the table stands, and may be used once
    /// the ends are reached. A table that stands outside of its topic is of another, and is emptied.
    pub(crate) fn expect(&mut self, bounds: &BTreeMap<i32, Bounds>) {
        let stands = |table: &Self, partition| table.kept.as_ref().and_then(|k| k.store.position(k.at(partition)));
        let outside = |(partition, bounds): (&i32, &Bounds)| {
            stands(self, *partition).is_some_and(|next| next < bounds.start || next > bounds.end)
        };
        if bounds.iter().any(outside) {
            self.values.clear();
            if self.kept.as_mut().is_some_and(|kept| kept.store.clear().is_err()) {
                self.kept = None;
            }
        }
        for (partition, bounds) in bounds {
            let next = stands(self, *partition).unwrap_or(bounds.start);
            self.partitions.insert(*partition, Progress { next, needed: bounds.end });
        }
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
                let value = Value::from(value);
                self.keep(record, Some(value.clone()));
                self.values.insert(record.key.into(), value);
            }
            Change::Delete => {
                self.keep(record, None);
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
        if let Some(kept) = &mut self.kept {
            kept.store.set_position(kept.at(partition), next);
        }
    }

    fn keep(&mut self, record: &Record<'_>, value: Option<Value>) {
        if let Some(kept) = &mut self.kept {
            kept.store.restore(record.key, Entry { value, at: record.timestamp });
        }
    }

    /// About how many bytes of memory wait for the disk.
    pub(crate) fn memtable_bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.store.memtable_bytes())
    }

    /// Has what waits for the disk written, as [`Store::write_out`].
    ///
    /// # Errors
    /// [`StorageError`]: another thread of this process has taken the store, or the disk fails. The table is in memory
    /// alone from now on.
    pub(crate) fn write_out(
        &mut self,
        now: Timestamp,
        name: NameTopic<'_>,
        storage: &dyn Storage,
    ) -> Result<(), StorageError> {
        let written = self.kept.as_mut().map_or(Ok(()), |kept| kept.store.write_out(now, name, storage));
        if written.is_err() {
            self.kept = None;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::processor::StoreDefinition;
    use crate::testing::MemoryStorage;

    const TOPIC: TopicId = TopicId(3);

    fn opened(storage: &MemoryStorage) -> GlobalTable {
        let definition = StoreDefinition { name: "t", tables: Vec::new(), format: "1".into(), open: None };
        let find = |name: &str| Some(TopicPartition { topic: TOPIC, partition: name.parse().ok()? });
        let store = Store::open("t".into(), storage.open("t").unwrap(), &definition, None, &find).unwrap();
        GlobalTable::kept_in(TOPIC, store).unwrap()
    }

    fn expecting(mut table: GlobalTable, start: Offset, end: Offset) -> GlobalTable {
        table.expect(&[(0, Bounds { start, end })].into());
        table
    }

    /// A storage that has a table of ten records.
    fn written() -> MemoryStorage {
        let storage = MemoryStorage::default();
        let mut table = expecting(opened(&storage), 0, 10);
        let fold: Fold = Arc::new(|record, _| Ok(Change::Put(record.value.unwrap_or_default().to_vec())));
        for offset in 0..10 {
            let key = [u8::try_from(offset).unwrap()];
            let record =
                Record { topic: "t", partition: 0, offset, timestamp: 0, key: &key, value: Some(b"v"), headers: &[] };
            table.apply(&fold, &record).unwrap();
        }
        assert!(table.is_ready());
        assert!(table.memtable_bytes() > 0, "there is something to write");
        table.write_out(0, &|at| at.partition.to_string(), &storage).unwrap();
        storage.run_background();
        storage
    }

    #[test]
    fn it_goes_on_from_what_its_disk_has() {
        let table = expecting(opened(&written()), 0, 12);
        assert_eq!((table.len(), table.position(0), table.is_ready()), (10, Some(10), false));
    }

    /// Records between were deleted, or it is another topic of the name.
    #[test]
    fn it_is_read_anew_where_it_stands_outside_of_its_topic() {
        for (start, end) in [(11, 20), (0, 9)] {
            let storage = written();
            let table = expecting(opened(&storage), start, end);
            assert_eq!((table.len(), table.position(0)), (0, Some(start)));
            assert!(opened(&storage).is_empty(), "and the disk says so");
        }
    }
}
