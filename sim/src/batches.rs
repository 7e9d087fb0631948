//! Records to the bytes of batches and back, as a client library does it. Knows bytes only.

use millrace_broker::core::batch::{BatchHeader, HEADER_BYTES, assemble};
use millrace_broker::core::log::Fetched;
use millrace_runtime::{Headers, InputRecord, Offset, header_name};

use crate::defects::{ClientDefect, is_planted};

const TRANSACTIONAL: i16 = 0x10;

/// Whose batch it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Producer {
    pub(crate) id: i64,
    pub(crate) epoch: i16,
    pub(crate) sequence: i32,
    pub(crate) transactional: bool,
}

/// A client that has no producer id: nothing recognises its repetitions.
pub(crate) const ANONYMOUS: Producer = Producer { id: -1, epoch: -1, sequence: -1, transactional: false };

/// Records of one batch, being written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Draft {
    bytes: Vec<u8>,
    pub(crate) count: i32,
    first_timestamp: i64,
    last_timestamp: i64,
}

impl Draft {
    pub(crate) fn push(&mut self, timestamp: i64, key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) {
        if self.count == 0 {
            self.first_timestamp = timestamp;
            self.last_timestamp = timestamp;
        }
        self.last_timestamp = self.last_timestamp.max(timestamp);
        let mut body = Vec::with_capacity(64 + key.map_or(0, <[u8]>::len) + value.map_or(0, <[u8]>::len));
        body.push(0);
        put(&mut body, timestamp - self.first_timestamp);
        put(&mut body, i64::from(self.count));
        for part in [key, value] {
            put_bytes(&mut body, part);
        }
        put(&mut body, headers.len() as i64);
        for (name, value) in headers {
            put_bytes(&mut body, Some(name.as_bytes()));
            put_bytes(&mut body, Some(value));
        }
        put(&mut self.bytes, body.len() as i64);
        self.bytes.extend_from_slice(&body);
        self.count += 1;
    }

    /// The finished batch.
    pub(crate) fn seal(&self, producer: Producer) -> Vec<u8> {
        let header = BatchHeader {
            base_offset: 0,
            length: 0,
            attributes: if producer.transactional { TRANSACTIONAL } else { 0 },
            last_offset_delta: self.count - 1,
            base_timestamp: self.first_timestamp,
            max_timestamp: self.last_timestamp,
            producer_id: producer.id,
            producer_epoch: producer.epoch,
            base_sequence: producer.sequence,
            record_count: self.count,
        };
        assemble(&header, &self.bytes)
    }
}

/// What a reader of committed records makes of a fetch: the records from `from` on, at most `most`, and where it stands
/// afterwards. A batch is taken in part where there is no room for the rest.
pub(crate) fn committed_records(fetched: &Fetched, from: Offset, most: usize) -> (Vec<InputRecord>, Offset) {
    let (mut records, mut next) = (Vec::new(), from);
    let mut bytes: &[u8] = &fetched.records;
    while let Some(header) = BatchHeader::parse(bytes) {
        let (batch, rest) = bytes.split_at(header.length);
        bytes = rest;
        let after = header.last_offset() + 1;
        if after <= next {
            continue;
        }
        let seen = is_planted(ClientDefect::AbortedRecordsRead);
        if header.is_control() || (is_aborted(fetched, &header) && !seen) {
            next = after;
            continue;
        }
        let mut body = &batch[HEADER_BYTES..];
        for _ in 0..header.record_count {
            let Some(record) = take_record(&mut body, &header) else { break };
            if record.offset < next {
                continue;
            }
            if records.len() >= most {
                return (records, next);
            }
            next = record.offset + 1;
            records.push(record);
        }
        next = next.max(after);
    }
    (records, next)
}

fn is_aborted(fetched: &Fetched, header: &BatchHeader) -> bool {
    header.is_transactional()
        && fetched.aborted.iter().any(|aborted| {
            aborted.producer_id == header.producer_id
                && aborted.first_offset <= header.base_offset
                && header.base_offset < aborted.marker_offset
        })
}

fn take_record(bytes: &mut &[u8], header: &BatchHeader) -> Option<InputRecord> {
    let length = usize::try_from(take(bytes)?).ok()?;
    let (mut body, rest) = bytes.split_at_checked(length)?;
    *bytes = rest;
    body = body.get(1..)?;
    let timestamp = header.base_timestamp + take(&mut body)?;
    let offset = header.base_offset + take(&mut body)?;
    let key = take_bytes(&mut body)?;
    let value = take_bytes(&mut body)?;
    let count = take(&mut body)?;
    let mut headers = Headers::with_capacity(usize::try_from(count).ok()?.min(body.len()));
    for _ in 0..count {
        let name = header_name(std::str::from_utf8(take_part(&mut body)??).ok()?);
        headers.push((name, take_bytes(&mut body)?.unwrap_or_default()));
    }
    Some(InputRecord { offset, timestamp, key, value, headers })
}

/// Nothing where nothing can be read; a null is something.
fn take_part<'b>(body: &mut &'b [u8]) -> Option<Option<&'b [u8]>> {
    let length = take(body)?;
    if length < 0 {
        return Some(None);
    }
    let (bytes, rest) = body.split_at_checked(usize::try_from(length).ok()?)?;
    *body = rest;
    Some(Some(bytes))
}

fn take_bytes(body: &mut &[u8]) -> Option<Option<Vec<u8>>> {
    Some(take_part(body)?.map(<[u8]>::to_vec))
}

fn put_bytes(out: &mut Vec<u8>, bytes: Option<&[u8]>) {
    match bytes {
        Some(bytes) => {
            put(out, bytes.len() as i64);
            out.extend_from_slice(bytes);
        }
        None => put(out, -1),
    }
}

/// A zigzag variable-length integer.
fn put(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push((rest as u8 & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn take(bytes: &mut &[u8]) -> Option<i64> {
    let mut value = 0u64;
    for (count, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * count);
        if byte & 0x80 == 0 {
            *bytes = &bytes[count + 1..];
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}
