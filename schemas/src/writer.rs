//! The schema that somebody else's bytes were written with. Owns the resolution of older and newer versions to ours, by
//! Avro's rules; never fetches a schema and never sees bytes of our own version.

use std::fmt;
use std::sync::OnceLock;

use apache_avro::Schema;
use apache_avro::reader::datum::GenericDatumReader;
use apache_avro::schema::ResolvedSchema;
use apache_avro::writer::datum::GenericDatumWriter;

use crate::codec::AvroRecord;
use crate::error::{DecodeError, MAX_RECORD_BYTES};
use crate::topics::TOPICS;

/// A compiled schema, parsed.
pub(crate) struct Compiled {
    pub(crate) schema: Schema,
    /// Names, types and order without docs and defaults: schemas with the same one write the same bytes.
    pub(crate) canonical: String,
}

/// The compiled schema of the record at this position of [`TOPICS`].
pub(crate) fn compiled(position: usize) -> &'static Compiled {
    static COMPILED: [OnceLock<Compiled>; TOPICS.len()] = [const { OnceLock::new() }; TOPICS.len()];
    COMPILED[position].get_or_init(|| {
        let schema = Schema::parse_str(TOPICS[position].schema_json).expect("a test parses every .avsc");
        Compiled { canonical: schema.canonical_form(), schema }
    })
}

/// What resolving to a compiled schema needs every time.
struct Target {
    names: ResolvedSchema<'static>,
    writer: GenericDatumWriter<'static>,
}

/// The target at this position of [`TOPICS`].
fn target(position: usize) -> &'static Target {
    static TARGETS: [OnceLock<Target>; TOPICS.len()] = [const { OnceLock::new() }; TOPICS.len()];
    TARGETS[position].get_or_init(|| {
        let schema = &compiled(position).schema;
        Target {
            names: ResolvedSchema::try_from(schema).expect("a test resolves to every .avsc"),
            writer: GenericDatumWriter::builder(schema).build().expect("a test resolves to every .avsc"),
        }
    })
}

/// Lets apache-avro allocate no more at once than resolving a record of the largest size can need.
fn bound_allocation() {
    apache_avro::util::max_allocation_bytes(64 * MAX_RECORD_BYTES);
}

/// A writer's schema.
pub(crate) struct Writer {
    /// Reads what it wrote.
    reader: GenericDatumReader<'static>,
    /// The record's name without namespace.
    name: String,
    /// The compiled schema that writes the same bytes, as a position in [`TOPICS`].
    same_as: Option<usize>,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("name", &self.name).field("same_as", &self.same_as).finish_non_exhaustive()
    }
}

impl Writer {
    /// Of the schema's JSON. The parsed schema is kept for as long as the process runs: a registry has few, and each is
    /// parsed once.
    ///
    /// # Errors
    /// In words, when it is not a schema of a record.
    pub(crate) fn parse(json: &str) -> Result<Self, String> {
        bound_allocation();
        let schema = Schema::parse_str(json).map_err(|error| format!("it is not an Avro schema: {error}"))?;
        let Schema::Record(record) = &schema else {
            return Err("it is not the schema of a record".to_owned());
        };
        let name = record.name.name().to_owned();
        let canonical = schema.canonical_form();
        let same_as = (0..TOPICS.len()).find(|&position| compiled(position).canonical == canonical);
        let schema: &'static Schema = Box::leak(Box::new(schema));
        let reader = GenericDatumReader::builder(schema).build().map_err(|error| error.to_string())?;
        Ok(Self { reader, name, same_as })
    }

    /// Whether it writes the same bytes as the compiled schema at this position of [`TOPICS`].
    pub(crate) fn writes_as(&self, position: usize) -> bool {
        self.same_as == Some(position)
    }

    /// The datum as the compiled schema of `T` would have written it.
    ///
    /// # Errors
    /// [`DecodeError::Unresolvable`], [`DecodeError::Malformed`] or [`DecodeError::TrailingBytes`].
    pub(crate) fn resolve<T: AvroRecord>(&self, id: u32, mut datum: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let unresolvable = |problem: String| DecodeError::Unresolvable { record: T::NAME, id, problem };
        if self.name != T::NAME {
            return Err(unresolvable(format!("it is the schema of {}", self.name)));
        }
        let value = self.reader.read_value(&mut datum).map_err(|error| DecodeError::Malformed {
            record: T::NAME,
            field: String::new(),
            problem: format!("under schema {id}, {error}"),
        })?;
        if !datum.is_empty() {
            return Err(DecodeError::TrailingBytes { record: T::NAME, bytes: datum.len() });
        }
        let Target { names, writer } = target(T::POSITION);
        let value = value.resolve_with_names(&compiled(T::POSITION).schema, names.get_names());
        let value = value.map_err(|error| unresolvable(error.to_string()))?;
        writer.write_value_to_vec(value).map_err(|error| unresolvable(error.to_string()))
    }
}
