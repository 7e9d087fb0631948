//! Between records as bytes and records as types, for all five processors: typed inputs, typed outputs, typed tables.
//! Owns what is said when bytes cannot be read; never decides anything about an order.

use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::Arc;

use millrace_runtime::{Change, Failure, Fold, Record, Step, TableDefinition};
use millrace_schemas::{AvroRecord, Codec, DecodeError, murmur2_partition};

/// Bytes before the datum: magic byte and schema id.
const FRAME: usize = 5;

/// The codec, in the words of processors.
#[derive(Clone)]
pub(crate) struct Wire {
    codec: Codec,
}

impl Wire {
    /// Over this codec; cheap.
    pub(crate) fn new(codec: &Codec) -> Self {
        Self { codec: codec.clone() }
    }

    /// The record's value as a `T`.
    ///
    /// # Errors
    /// [`Failure::NotYet`] while the writer's schema is being fetched; else [`Failure::Poison`], also for a tombstone.
    pub(crate) fn read<T: AvroRecord>(&self, record: &Record<'_>) -> Result<T, Failure> {
        self.codec.decode(value_of(record)?).map_err(|error| unreadable(record.topic, T::NAME, &error))
    }

    /// The bare datum of the record's value, as `T`'s own schema writes it: for [`fields`], which looks through it.
    ///
    /// # Errors
    /// As [`Wire::read`].
    pub(crate) fn datum<'a, T: AvroRecord>(&self, record: &Record<'a>) -> Result<Cow<'a, [u8]>, Failure> {
        self.codec.datum::<T>(value_of(record)?).map_err(|error| unreadable(record.topic, T::NAME, &error))
    }

    /// Emits `value` to `topic`.
    ///
    /// # Errors
    /// As [`Step::emit`].
    pub(crate) fn emit<T: AvroRecord>(
        &self,
        step: &mut Step<'_>,
        topic: &'static str,
        key: &str,
        kind: &'static str,
        value: &T,
    ) -> Result<(), Failure> {
        step.emit(topic, key.as_bytes(), kind, |out| self.codec.encode(topic, value, out))
    }

    /// `topic` as a table of the latest record of each key, kept as the bare datum: read it with [`Table::get`] or
    /// [`datum`]. A tombstone deletes the key.
    pub(crate) fn latest<T: AvroRecord + 'static>(&self, topic: &'static str) -> TableDefinition {
        let wire = self.clone();
        let fold: Fold = Arc::new(move |record, _| match record.value {
            None => Ok(Change::Delete),
            // A record this step is only just writing: its bytes are our own datum behind the frame.
            Some(value) if record.offset < 0 => Ok(Change::Put(value.get(FRAME..).unwrap_or_default().to_vec())),
            Some(_) => {
                let datum = wire.datum::<T>(record)?;
                fields::<T>(record.topic, &datum)?;
                Ok(Change::Put(datum.into_owned()))
            }
        });
        TableDefinition { topic, fold }
    }
}

/// The format of a store that [`Wire::latest`] fills: see [`millrace_runtime::StoreDefinition::format`].
pub(crate) fn latest_format<T: AvroRecord>() -> String {
    format!("datum {}", T::schema_fingerprint())
}

/// The fields of a datum that came from a topic, for who needs some of them only.
///
/// # Errors
/// [`Failure::Poison`] when it is not the datum of a `T`.
pub(crate) fn fields<'a, T: AvroRecord>(topic: &str, datum: &'a [u8]) -> Result<T::Fields<'a>, Failure> {
    T::fields(datum).map_err(|error| unreadable(topic, T::NAME, &error))
}

fn value_of<'a>(record: &Record<'a>) -> Result<&'a [u8], Failure> {
    let tombstone = || Failure::poison(format!("a tombstone on {}, where every record has a value", record.topic));
    record.value.ok_or_else(tombstone)
}

fn unreadable(topic: &str, name: &str, error: &DecodeError) -> Failure {
    let reason = format!("a value of {topic} cannot be read as {name}: {error}");
    if error.is_not_yet() { Failure::NotYet(reason) } else { Failure::Poison(reason) }
}

/// The record's key as text.
///
/// # Errors
/// [`Failure::Poison`] when it has none or it is not UTF-8.
pub(crate) fn key<'a>(record: &Record<'a>) -> Result<&'a str, Failure> {
    match std::str::from_utf8(record.key) {
        Ok("") => Err(Failure::poison(format!("a record without a key on {}", record.topic))),
        Ok(key) => Ok(key),
        Err(_) => Err(Failure::poison(format!("a key on {} that is not UTF-8", record.topic))),
    }
}

/// Holds a record's key against the id inside it.
///
/// # Errors
/// [`Failure::Poison`] when they differ or there is none: the record stands on a partition that does not own it.
pub(crate) fn key_is(record: &Record<'_>, id: &str) -> Result<(), Failure> {
    if record.key == id.as_bytes() && !id.is_empty() {
        return Ok(());
    }
    let key = key(record)?;
    Err(Failure::poison(format!("a record of {id:?} on {} under the key {key:?}", record.topic)))
}

/// Holds a key against the partition it stands on: what is emitted under it must land where its state is.
///
/// # Errors
/// [`Failure::Poison`] when somebody wrote it with another partitioner.
pub(crate) fn owned(step: &Step<'_>, key: &str, partitions: i32) -> Result<(), Failure> {
    let owner = murmur2_partition(key.as_bytes(), partitions);
    if owner == step.partition() {
        Ok(())
    } else {
        Err(Failure::poison(format!("{key:?} belongs to partition {owner}, but stands on {}", step.partition())))
    }
}

/// A store of bare data of type `T`, by its place in the definition.
#[derive(Debug)]
pub(crate) struct Table<T> {
    store: usize,
    of: PhantomData<fn() -> T>,
}

impl<T> Clone for Table<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Table<T> {}

impl<T: AvroRecord> Table<T> {
    /// The store at this place.
    pub(crate) const fn at(store: usize) -> Self {
        Self { store, of: PhantomData }
    }

    /// The state of a key.
    ///
    /// # Errors
    /// [`Failure::Storage`] when the store cannot be read or holds what is no `T`.
    pub(crate) fn get(self, step: &mut Step<'_>, key: &str) -> Result<Option<T>, Failure> {
        let Some(value) = step.get(self.store, key.as_bytes())? else { return Ok(None) };
        match datum(&value) {
            Ok(state) => Ok(Some(state)),
            Err(error) => Err(Failure::Storage(format!("the state of {key:?} cannot be read as {}: {error}", T::NAME))),
        }
    }
}

/// A bare datum as a `T`: the form in which tables keep their values, and in which deadlines and calls are given them.
///
/// # Errors
/// [`DecodeError`] when it is not one.
pub(crate) fn datum<T: AvroRecord>(mut value: &[u8]) -> Result<T, DecodeError> {
    T::decode_datum(&mut value)
}
