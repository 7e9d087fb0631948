//! Parked records: a poison record of a processor with `on-poison = "park"` waits here, later records of its key behind
//! it, in order, while other keys flow. Owns the queue of each key; never decides what is poison.
//!
//! A queue is tried again from its head, with growing pauses; a head that failed often enough goes to the dead letters
//! and the next one is tried.

use crate::processor::{Open, StoreDefinition};
use crate::record::{Headers, InputRecord, Record, Timestamp, header_name};

/// Name of the store that keeps the queues.
pub(crate) const STORE: &str = "parked";
/// A queue longer than this gives its head to the dead letters.
pub(crate) const QUEUE_MAX: usize = 200;
/// A queue of more bytes than this gives its head to the dead letters: a changelog record stays under 1 MiB.
pub(crate) const QUEUE_BYTES_MAX: usize = 512 << 10;

/// The parked records of one key, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Queue {
    pub(crate) tries: u32,
    pub(crate) next_try: Timestamp,
    pub(crate) records: Vec<Parked>,
}

/// A record that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) reason: String,
    pub(crate) record: InputRecord,
}

/// A parked record, as people look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkedRecord {
    /// The topic it stands in.
    pub topic: String,
    /// Its partition.
    pub partition: i32,
    /// Why it waits.
    pub reason: String,
    /// The record.
    pub record: InputRecord,
    /// How often the head of its queue was tried.
    pub tries: u32,
    /// When the queue is tried again.
    pub next_try: Timestamp,
}

/// The queue in a value of the changelog of parked records, its head first; `None` when it is no queue.
#[must_use]
pub fn parked_records(value: &[u8]) -> Option<Vec<ParkedRecord>> {
    let Queue { tries, next_try, records } = Queue::decode(value)?;
    let of = |Parked { topic, partition, reason, record }| ParkedRecord {
        topic,
        partition,
        reason,
        record,
        tries,
        next_try,
    };
    Some(records.into_iter().map(of).collect())
}

impl Parked {
    pub(crate) fn of(record: &Record<'_>, reason: &str) -> Self {
        Self {
            topic: record.topic.to_owned(),
            partition: record.partition,
            reason: reason.to_owned(),
            record: InputRecord {
                offset: record.offset,
                timestamp: record.timestamp,
                key: Some(record.key.to_vec()),
                value: record.value.map(<[u8]>::to_vec),
                headers: record.headers.to_vec(),
            },
        }
    }
}

/// The store as the engine opens it.
pub(crate) fn definition() -> StoreDefinition {
    StoreDefinition {
        name: STORE,
        tables: Vec::new(),
        format: "queue 1".into(),
        open: Some(|_, value| Open { deadline: next_try(value), ..Open::default() }),
    }
}

fn next_try(value: &[u8]) -> Option<Timestamp> {
    value.split_first_chunk::<8>().map(|(at, _)| Timestamp::from_be_bytes(*at))
}

impl Queue {
    pub(crate) fn bytes(&self) -> usize {
        self.records.iter().map(|p| p.record.value.as_ref().map_or(0, Vec::len) + p.reason.len() + 128).sum()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = self.next_try.to_be_bytes().to_vec();
        out.extend(self.tries.to_be_bytes());
        for parked in &self.records {
            put(&mut out, Some(parked.topic.as_bytes()));
            out.extend(parked.partition.to_be_bytes());
            put(&mut out, Some(parked.reason.as_bytes()));
            out.extend(parked.record.offset.to_be_bytes());
            out.extend(parked.record.timestamp.to_be_bytes());
            put(&mut out, parked.record.key.as_deref());
            put(&mut out, parked.record.value.as_deref());
            let headers = u32::try_from(parked.record.headers.len()).unwrap_or(u32::MAX);
            out.extend(headers.to_be_bytes());
            for (name, value) in &parked.record.headers {
                put(&mut out, Some(name.as_bytes()));
                put(&mut out, Some(value));
            }
        }
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Option<Self> {
        let input = &mut bytes;
        let mut queue = Self {
            next_try: i64::from_be_bytes(take(input)?),
            tries: u32::from_be_bytes(take(input)?),
            records: Vec::new(),
        };
        while !input.is_empty() {
            let topic = String::from_utf8(get(input)??).ok()?;
            let partition = i32::from_be_bytes(take(input)?);
            let reason = String::from_utf8(get(input)??).ok()?;
            let offset = i64::from_be_bytes(take(input)?);
            let timestamp = i64::from_be_bytes(take(input)?);
            let key = get(input)?;
            let value = get(input)?;
            let mut headers = Headers::new();
            for _ in 0..u32::from_be_bytes(take(input)?) {
                headers.push((header_name(std::str::from_utf8(&get(input)??).ok()?), get(input)??));
            }
            let record = InputRecord { offset, timestamp, key, value, headers };
            queue.records.push(Parked { topic, partition, reason, record });
        }
        Some(queue)
    }
}

fn put(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    let length = bytes.map_or(u32::MAX, |bytes| u32::try_from(bytes.len()).unwrap_or(u32::MAX - 1));
    out.extend(length.to_be_bytes());
    out.extend(bytes.unwrap_or_default());
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = input.split_first_chunk::<N>()?;
    *input = rest;
    Some(*head)
}

#[allow(clippy::option_option)]
fn get(input: &mut &[u8]) -> Option<Option<Vec<u8>>> {
    let length = u32::from_be_bytes(take(input)?);
    if length == u32::MAX {
        return Some(None);
    }
    let length = usize::try_from(length).ok()?;
    let (head, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(Some(head.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_reads_back_as_written_and_never_panics_on_less() {
        let record = InputRecord {
            offset: 7,
            timestamp: 9,
            key: Some(b"k".to_vec()),
            value: None,
            headers: vec![("h".into(), vec![1, 2])],
        };
        let parked = Parked { topic: "t".into(), partition: 2, reason: "why".into(), record };
        let queue = Queue { tries: 3, next_try: 11, records: vec![parked.clone(), parked] };
        let bytes = queue.encode();
        assert_eq!(Queue::decode(&bytes).as_ref(), Some(&queue));
        assert_eq!(next_try(&bytes), Some(11));
        for end in 0..bytes.len() {
            assert_ne!(Queue::decode(&bytes[..end]).as_ref(), Some(&queue));
        }
    }
}
