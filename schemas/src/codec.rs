//! Between records and the bytes on topics. Owns the framing (a zero byte, the schema's id, the datum) and what is known
//! of schema ids; never does I/O: ids it does not know are wanted, and somebody else teaches them.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::datum::Split;
use crate::error::{DecodeError, EncodeError, MAX_RECORD_BYTES};
use crate::topics::{TOPICS, Topic};
use crate::writer::Writer;

/// A record that is on a topic. Only types of this crate are.
pub trait AvroRecord: Split {
    /// The record's name, such as `OrderPlaced`.
    const NAME: &'static str;
    /// The one topic that carries it.
    const TOPIC: &'static Topic;
    #[doc(hidden)]
    const POSITION: usize;

    /// The schema, as in the `.avsc`.
    fn schema_json() -> &'static str {
        Self::TOPIC.schema_json
    }

    /// Stands for the form of a datum: two schemas with the same one write the same bytes. 16 lower hex digits.
    fn schema_fingerprint() -> String {
        let digest = Sha256::digest(crate::writer::compiled(Self::POSITION).canonical.as_bytes());
        crate::fingerprint::hex(&digest[..8])
    }

    /// Appends the datum, without header. Allocates only what `out` has to grow.
    fn encode_datum(&self, out: &mut Vec<u8>) {
        self.write(out);
    }

    /// Takes one datum off the front of `input`, which must be written with exactly this schema.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`]; `input` is then anywhere.
    fn decode_datum(input: &mut &[u8]) -> Result<Self, DecodeError> {
        Self::read(input).map_err(|fault| DecodeError::malformed(Self::NAME, *fault))
    }

    /// The fields of the one record that is the whole of `datum`, which must be written with exactly this schema. Refuses what
    /// [`AvroRecord::decode_datum`] refuses and allocates nothing: for who needs some of the fields.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] or [`DecodeError::TrailingBytes`].
    fn fields(mut datum: &[u8]) -> Result<Self::Fields<'_>, DecodeError> {
        let fields = Self::split(&mut datum).map_err(|fault| DecodeError::malformed(Self::NAME, *fault))?;
        nothing_left::<Self>(datum)?;
        Ok(fields)
    }

    /// Appends the datum that has these fields.
    fn encode_fields(fields: &Self::Fields<'_>, out: &mut Vec<u8>) {
        Self::join(fields, out);
    }

    /// The record as plain JSON: field names as in the schema, enums as symbols, null for what is not there.
    fn to_json(&self) -> Value {
        self.json()
    }

    /// The record of plain JSON, as [`AvroRecord::to_json`] gives it; fields with a default may be missing.
    ///
    /// # Errors
    /// [`EncodeError::BadJson`], with the field that is unknown, missing or of another type.
    fn from_json(json: &Value) -> Result<Self, EncodeError> {
        Self::parse_json(json).map_err(|fault| EncodeError::BadJson {
            record: Self::NAME,
            field: fault.field,
            problem: fault.problem,
        })
    }
}

/// Bytes before the datum: a zero byte and the schema's id, big endian.
const HEADER_BYTES: usize = 5;
/// Wanted ids kept at a time. Ids past it are wanted again when their record is tried again.
const MAX_WANTED: usize = 1_024;
/// Ids kept that the registry does not have. Past it they are forgotten and asked for again.
const MAX_MISSING: usize = 16_384;

/// Encodes and decodes the records of all topics. Cheap to clone; clones share what they learn.
#[derive(Clone, Debug)]
pub struct Codec {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// The ids of the compiled schemas, as [`TOPICS`] is ordered. Never changes, so that nothing is locked for them.
    ids: [u32; TOPICS.len()],
    learned: RwLock<HashMap<u32, Learned>>,
    wanted: Mutex<BTreeSet<u32>>,
}

/// What the registry says of an id.
#[derive(Clone, Debug)]
enum Learned {
    Schema(Arc<Writer>),
    Missing,
    Unreadable(Arc<str>),
}

impl Codec {
    /// Every record type with a made-up id, from 1: for tests and simulation, needs no registry.
    pub fn offline() -> Self {
        Self::with_ids(std::array::from_fn(|position| position as u32 + 1))
    }

    /// With the ids a registry gave to the schemas of [`TOPICS`], in that order.
    pub fn with_ids(ids: [u32; TOPICS.len()]) -> Self {
        Self { shared: Arc::new(Shared { ids, learned: RwLock::default(), wanted: Mutex::default() }) }
    }

    /// The schema id that records of `T` are written with.
    pub fn id_of<T: AvroRecord>(&self) -> u32 {
        self.shared.ids[T::POSITION]
    }

    /// Appends header and datum of `value` to `out`. Never fails and never looks at the size: records built by
    /// processors are bounded by the orders they are about. Use [`Codec::try_encode`] for what comes from outside.
    ///
    /// `topic` is where the record goes; that it is the record's own topic is checked in debug builds only.
    pub fn encode<T: AvroRecord>(&self, topic: &str, value: &T, out: &mut Vec<u8>) {
        debug_assert!(
            topic == T::TOPIC.topic || Topic::find(topic).is_none(),
            "{} belongs on {}, not on {topic}",
            T::NAME,
            T::TOPIC.topic
        );
        out.push(0);
        out.extend_from_slice(&self.id_of::<T>().to_be_bytes());
        value.encode_datum(out);
    }

    /// As [`Codec::encode`] to the record's own topic, for at most [`MAX_RECORD_BYTES`].
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`]; `out` is then as it was.
    pub fn try_encode<T: AvroRecord>(&self, value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let before = out.len();
        self.encode(T::TOPIC.topic, value, out);
        let bytes = out.len() - before;
        if bytes > MAX_RECORD_BYTES {
            out.truncate(before);
            return Err(EncodeError::TooLarge { record: T::NAME, bytes });
        }
        Ok(())
    }

    /// The `T` in the bytes of a record. Bytes of the compiled schema are read directly, without a lock; those of
    /// another version are resolved to it first, as Avro says.
    ///
    /// # Errors
    /// See [`DecodeError`]. On [`DecodeError::UnknownSchema`] the id is wanted from then on: see [`Codec::wanted`].
    pub fn decode<T: AvroRecord>(&self, bytes: &[u8]) -> Result<T, DecodeError> {
        let datum = self.datum::<T>(bytes)?;
        let mut rest = &*datum;
        let record = T::decode_datum(&mut rest)?;
        nothing_left::<T>(rest)?;
        Ok(record)
    }

    /// The datum in the bytes of a record, as `T`'s own schema writes it: as it stands there, or resolved from another
    /// version. It has not been looked through: [`AvroRecord::fields`] and [`AvroRecord::decode_datum`] do.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    pub fn datum<'a, T: AvroRecord>(&self, bytes: &'a [u8]) -> Result<Cow<'a, [u8]>, DecodeError> {
        if bytes.len() > MAX_RECORD_BYTES {
            return Err(DecodeError::TooLarge { bytes: bytes.len() });
        }
        let Some(([0, id @ ..], datum)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err(DecodeError::NotFramed { bytes: bytes.len(), first: bytes.first().copied() });
        };
        let id = u32::from_be_bytes(*id);
        if id == self.id_of::<T>() {
            return Ok(Cow::Borrowed(datum));
        }
        let writer = self.writer(T::NAME, id)?;
        if writer.writes_as(T::POSITION) {
            return Ok(Cow::Borrowed(datum));
        }
        writer.resolve::<T>(id, datum).map(Cow::Owned)
    }

    /// Ids that were seen and are not known, ascending: fetch them and [`Codec::learn`] them.
    pub fn wanted(&self) -> Vec<u32> {
        self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// Fills an id: with the schema's JSON, or with `None` when the registry says that there is none. An id that has a
    /// schema keeps it: registries never change one.
    pub fn learn(&self, id: u32, schema: Option<&str>) {
        if let Some(Learned::Schema(_)) = self.learned(id) {
            return;
        }
        let learned = match schema.map(Writer::parse) {
            Some(Ok(writer)) => Learned::Schema(Arc::new(writer)),
            Some(Err(problem)) => Learned::Unreadable(problem.into()),
            None => Learned::Missing,
        };
        {
            let mut all = self.shared.learned.write().unwrap_or_else(PoisonError::into_inner);
            if all.len() >= MAX_MISSING {
                all.retain(|_, learned| !matches!(learned, Learned::Missing));
            }
            all.insert(id, learned);
        }
        self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn learned(&self, id: u32) -> Option<Learned> {
        self.shared.learned.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    fn writer(&self, record: &'static str, id: u32) -> Result<Arc<Writer>, DecodeError> {
        if let Some(position) = self.shared.ids.iter().position(|&own| own == id) {
            let problem = format!("it is the schema of {}", TOPICS[position].record);
            return Err(DecodeError::Unresolvable { record, id, problem });
        }
        match self.learned(id) {
            Some(Learned::Schema(writer)) => Ok(writer),
            Some(Learned::Missing) => Err(DecodeError::NoSuchSchema { id }),
            Some(Learned::Unreadable(problem)) => {
                Err(DecodeError::Unresolvable { record, id, problem: problem.to_string() })
            }
            None => {
                let mut wanted = self.shared.wanted.lock().unwrap_or_else(PoisonError::into_inner);
                if wanted.len() < MAX_WANTED {
                    wanted.insert(id);
                }
                Err(DecodeError::UnknownSchema { id })
            }
        }
    }
}

/// A record must be the whole datum.
fn nothing_left<T: AvroRecord>(rest: &[u8]) -> Result<(), DecodeError> {
    if rest.is_empty() { Ok(()) } else { Err(DecodeError::TrailingBytes { record: T::NAME, bytes: rest.len() }) }
}

/// The record in the bytes from a topic, as plain JSON: field names as in the schema, enums as symbols, null for what is
/// not there.
///
/// # Errors
/// As [`Codec::decode`]; [`DecodeError::UnknownTopic`] when the topic carries no record of ours.
pub fn decode_json(codec: &Codec, topic: &str, bytes: &[u8]) -> Result<Value, DecodeError> {
    match Topic::find(topic) {
        Some(topic) => (topic.decode_json)(codec, bytes),
        None => Err(DecodeError::UnknownTopic { topic: topic.to_owned() }),
    }
}

/// The bytes for a topic of a record in plain JSON, as [`decode_json`] gives it; fields with a default may be missing.
///
/// # Errors
/// [`EncodeError`], naming the field that is unknown, missing or of another type.
pub fn encode_json(codec: &Codec, topic: &str, json: &Value) -> Result<Vec<u8>, EncodeError> {
    let topic = Topic::find(topic).ok_or_else(|| EncodeError::UnknownTopic { topic: topic.to_owned() })?;
    let mut out = Vec::new();
    (topic.encode_json)(codec, json, &mut out)?;
    Ok(out)
}
