//! What travels: records, where they stand, and what a task is called. Never what they mean.

use std::borrow::Cow;
use std::fmt;

/// Milliseconds since 1970 UTC.
pub type Timestamp = i64;
/// A position in a partition of a topic.
pub type Offset = i64;
/// Name of a header: see [`header_name`].
pub type HeaderName = Cow<'static, str>;
/// Name and bytes of each header, in order.
pub type Headers = Vec<(HeaderName, Vec<u8>)>;

/// The names of headers that the pipeline writes itself: CloudEvents attributes, the request and its trace.
const USUAL_HEADERS: [&str; 8] =
    ["ce_specversion", "ce_id", "ce_source", "ce_type", "content-type", "x-request-id", "traceparent", "tracestate"];

/// The name of a header that was read. Usual ones are not copied: a record has five or more of them.
#[must_use]
pub fn header_name(name: &str) -> HeaderName {
    let usual = USUAL_HEADERS.iter().find(|usual| **usual == name);
    usual.map_or_else(|| Cow::Owned(name.to_owned()), |usual| Cow::Borrowed(*usual))
}

/// A topic of the topology, by its place in [`crate::Topology::topics`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub u16);

/// One partition of one topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Which topic.
    pub topic: TopicId,
    /// Which partition of it.
    pub partition: i32,
}

/// A sub-topology, by its place in [`crate::Topology::sub_topologies`]. Each is one consumer group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubTopologyId(pub u16);

/// A processor, by its place in [`crate::Topology::processors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessorId(pub u16);

/// One processor on one partition. Prints as `2_0`: processor 2, partition 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TaskId {
    /// Which processor.
    pub processor: ProcessorId,
    /// Which partition of its inputs.
    pub partition: i32,
}

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}_{}", self.processor.0, self.partition)
    }
}

/// A record as the broker gave it, owned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InputRecord {
    /// Its position.
    pub offset: Offset,
    /// Its time, as its producer or the broker set it.
    pub timestamp: Timestamp,
    /// Its key; a record of the shop always has one, a stranger's may not.
    pub key: Option<Vec<u8>>,
    /// Its value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers.
    pub headers: Headers,
}

/// A record as a processor sees it.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Name of the topic it stands in.
    pub topic: &'a str,
    /// Partition it stands in.
    pub partition: i32,
    /// Position it stands at; -1 for a record that this step is only just writing.
    pub offset: Offset,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its key, empty where it had none.
    pub key: &'a [u8],
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [(HeaderName, Vec<u8>)],
}

impl<'a> Record<'a> {
    /// The record as a processor sees it, from the record as the broker gave it.
    #[must_use]
    pub fn of(topic: &'a str, partition: i32, input: &'a InputRecord) -> Self {
        Self {
            topic,
            partition,
            offset: input.offset,
            timestamp: input.timestamp,
            key: input.key.as_deref().unwrap_or_default(),
            value: input.value.as_deref(),
            headers: &input.headers,
        }
    }
}

/// A record on its way out. The broker copies what it needs.
#[derive(Clone, Copy, Debug)]
pub struct OutgoingRecord<'a> {
    /// Where to.
    pub to: TopicPartition,
    /// Its key.
    pub key: &'a [u8],
    /// Its value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its time.
    pub timestamp: Timestamp,
    /// Its headers.
    pub headers: &'a [(HeaderName, Vec<u8>)],
}
