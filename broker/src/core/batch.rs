//! Record batches (format v2): reading headers, checking what clients send, building markers.
//!
//! Knows bytes only; never which partition they belong to.

use super::ErrorCode;

/// Bytes of a batch before its first record.
pub const HEADER_BYTES: usize = 61;
/// Bytes of the header not counted by its length field: base offset and the length itself.
const LENGTH_OVERHEAD: usize = 12;
const CRC_POSITION: usize = 17;
const CRC_START: usize = 21;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;

/// The fixed part of a record batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record.
    pub base_offset: i64,
    /// Whole length of the batch in bytes, header included.
    pub length: usize,
    /// Codec, timestamp type, transactional and control bits.
    pub attributes: i16,
    /// Offset of the last record, relative to the first.
    pub last_offset_delta: i32,
    /// Timestamp of the first record, milliseconds.
    pub base_timestamp: i64,
    /// Largest timestamp in the batch, milliseconds.
    pub max_timestamp: i64,
    /// Producer id, -1 for none.
    pub producer_id: i64,
    /// Producer epoch, -1 for none.
    pub producer_epoch: i16,
    /// Sequence number of the first record, -1 for none.
    pub base_sequence: i32,
    /// Number of records.
    pub record_count: i32,
}

fn int16(bytes: &[u8], at: usize) -> i16 {
    i16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn int32(bytes: &[u8], at: usize) -> i32 {
    let mut raw = [0; 4];
    raw.copy_from_slice(&bytes[at..at + 4]);
    i32::from_be_bytes(raw)
}

fn int64(bytes: &[u8], at: usize) -> i64 {
    let mut raw = [0; 8];
    raw.copy_from_slice(&bytes[at..at + 8]);
    i64::from_be_bytes(raw)
}

impl BatchHeader {
    /// Reads the header at the start of `bytes`; `None` if there are too few bytes or the length field is impossible.
    /// The magic byte and the checksum are not looked at.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < HEADER_BYTES {
            return None;
        }
        let length = usize::try_from(int32(bytes, 8)).ok()? + LENGTH_OVERHEAD;
        if length < HEADER_BYTES {
            return None;
        }
        Some(Self {
            base_offset: int64(bytes, 0),
            length,
            attributes: int16(bytes, 21),
            last_offset_delta: int32(bytes, 23),
            base_timestamp: int64(bytes, 27),
            max_timestamp: int64(bytes, 35),
            producer_id: int64(bytes, 43),
            producer_epoch: int16(bytes, 51),
            base_sequence: int32(bytes, 53),
            record_count: int32(bytes, 57),
        })
    }

    /// Offset of the last record (of the last that was there before compaction, if any were removed).
    #[must_use]
    pub fn last_offset(&self) -> i64 {
        // The offset is covered by no checksum, so after damage it may be anything.
        self.base_offset.saturating_add(i64::from(self.last_offset_delta))
    }

    /// Sequence number of the last record; sequences wrap from the largest `i32` to 0.
    #[must_use]
    pub fn last_sequence(&self) -> i32 {
        add_sequence(self.base_sequence, self.last_offset_delta)
    }

    /// Whether the batch belongs to a transaction.
    #[must_use]
    pub fn is_transactional(&self) -> bool {
        self.attributes & TRANSACTIONAL != 0
    }

    /// Whether the batch holds a control record (a transaction marker) instead of data.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.attributes & CONTROL != 0
    }

    /// Whether all records carry the time of the append, which is then `max_timestamp`.
    #[must_use]
    pub fn is_log_append_time(&self) -> bool {
        self.attributes & LOG_APPEND_TIME != 0
    }

    /// Compression codec: 0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd.
    #[must_use]
    pub fn codec(&self) -> i16 {
        self.attributes & CODEC_MASK
    }

    /// Whether an idempotent producer wrote the batch.
    #[must_use]
    pub fn has_producer(&self) -> bool {
        self.producer_id >= 0
    }
}

/// `sequence + delta` with Kafka's wrap-around to 0.
#[must_use]
pub fn add_sequence(sequence: i32, delta: i32) -> i32 {
    let sum = i64::from(sequence) + i64::from(delta);
    let wrapped = if sum > i64::from(i32::MAX) { sum - i64::from(i32::MAX) - 1 } else { sum };
    wrapped as i32
}

/// Whether magic byte and checksum of the whole batch in `bytes` are right.
#[must_use]
pub fn is_intact(bytes: &[u8]) -> bool {
    bytes.len() >= HEADER_BYTES
        && bytes[16] == 2
        && crc32c::crc32c(&bytes[CRC_START..]) == int32(bytes, CRC_POSITION) as u32
}

/// Checks the batches a client sent for one partition and returns their headers.
///
/// # Errors
/// `CORRUPT_MESSAGE` for bytes that are not whole batches with a right checksum, `UNSUPPORTED_FOR_MESSAGE_FORMAT` for
/// other formats than v2, `INVALID_RECORD` for contents no producer may send, `MESSAGE_TOO_LARGE` is not decided here.
pub fn check_produced(bytes: &[u8]) -> Result<Vec<BatchHeader>, ErrorCode> {
    let mut headers = Vec::with_capacity(1);
    let mut rest = bytes;
    while !rest.is_empty() {
        let header = BatchHeader::parse(rest).ok_or(ErrorCode::CorruptMessage)?;
        if header.length > rest.len() {
            return Err(ErrorCode::CorruptMessage);
        }
        let (batch, tail) = rest.split_at(header.length);
        if batch[16] != 2 {
            return Err(ErrorCode::UnsupportedForMessageFormat);
        }
        if !is_intact(batch) {
            return Err(ErrorCode::CorruptMessage);
        }
        let plausible = header.record_count > 0
            && header.last_offset_delta == header.record_count - 1
            && !header.is_control()
            && header.codec() <= 4
            && (!header.has_producer() || (header.producer_epoch >= 0 && header.base_sequence >= 0))
            && (!header.is_transactional() || header.has_producer());
        if !plausible {
            return Err(ErrorCode::InvalidRecord);
        }
        headers.push(header);
        rest = tail;
    }
    if headers.is_empty() {
        return Err(ErrorCode::InvalidRecord);
    }
    Ok(headers)
}

/// Gives the batch at the start of `batch` its place in the log. The checksum does not cover these fields.
pub fn set_base_offset(batch: &mut [u8], base_offset: i64) {
    batch[0..8].copy_from_slice(&base_offset.to_be_bytes());
    batch[12..16].copy_from_slice(&0i32.to_be_bytes());
}

/// Stamps a whole batch with the time of its append and renews the checksum.
pub fn set_log_append_time(batch: &mut [u8], now: i64) {
    let attributes = int16(batch, 21) | LOG_APPEND_TIME;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    batch[35..43].copy_from_slice(&now.to_be_bytes());
    renew_checksum(batch);
}

/// Makes a whole batch non-transactional and renews the checksum. Used on batches whose transaction has committed.
pub fn clear_transactional(batch: &mut [u8]) {
    let attributes = int16(batch, 21) & !TRANSACTIONAL;
    batch[21..23].copy_from_slice(&attributes.to_be_bytes());
    renew_checksum(batch);
}

/// Makes any bytes of at least a header's length a batch that passes for whole, whatever its records are: for fuzzing.
pub(crate) fn mend(batch: &mut [u8]) {
    let length = (batch.len() - LENGTH_OVERHEAD) as i32;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    batch[16] = 2;
    let count = (int32(batch, 57) & 0xffff).max(1);
    batch[57..61].copy_from_slice(&count.to_be_bytes());
    batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
    renew_checksum(batch);
}

fn renew_checksum(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[CRC_START..]);
    batch[CRC_POSITION..CRC_POSITION + 4].copy_from_slice(&crc.to_be_bytes());
}

/// Builds a batch from a header and the bytes of its records. `length` and the checksum are computed.
#[must_use]
pub fn assemble(header: &BatchHeader, records: &[u8]) -> Vec<u8> {
    let mut batch = Vec::with_capacity(HEADER_BYTES + records.len());
    batch.extend_from_slice(&header.base_offset.to_be_bytes());
    let length = HEADER_BYTES - LENGTH_OVERHEAD + records.len();
    batch.extend_from_slice(&(length as i32).to_be_bytes());
    batch.extend_from_slice(&0i32.to_be_bytes());
    batch.push(2);
    batch.extend_from_slice(&[0; 4]);
    batch.extend_from_slice(&header.attributes.to_be_bytes());
    batch.extend_from_slice(&header.last_offset_delta.to_be_bytes());
    batch.extend_from_slice(&header.base_timestamp.to_be_bytes());
    batch.extend_from_slice(&header.max_timestamp.to_be_bytes());
    batch.extend_from_slice(&header.producer_id.to_be_bytes());
    batch.extend_from_slice(&header.producer_epoch.to_be_bytes());
    batch.extend_from_slice(&header.base_sequence.to_be_bytes());
    batch.extend_from_slice(&header.record_count.to_be_bytes());
    batch.extend_from_slice(records);
    renew_checksum(&mut batch);
    batch
}

/// A transaction marker: the control batch that ends a producer's transaction in one partition.
#[must_use]
pub fn marker(base_offset: i64, now: i64, producer_id: i64, epoch: i16, commit: bool) -> Vec<u8> {
    let key = [0, 0, 0, u8::from(commit)];
    let value = [0; 6];
    let header = BatchHeader {
        base_offset,
        length: 0,
        attributes: TRANSACTIONAL | CONTROL,
        last_offset_delta: 0,
        base_timestamp: now,
        max_timestamp: now,
        producer_id,
        producer_epoch: epoch,
        base_sequence: -1,
        record_count: 1,
    };
    assemble(&header, &encode_record(Some(&key), Some(&value)))
}

/// Whether an uncompressed control batch commits (`true`) or aborts; `None` if it is neither.
#[must_use]
pub fn marker_commits(batch: &[u8]) -> Option<bool> {
    let record = Records::new(batch.get(HEADER_BYTES..)?).next()?.ok()?;
    match record.key? {
        [_, _, 0, 0, ..] => Some(false),
        [_, _, 0, 1, ..] => Some(true),
        _ => None,
    }
}

/// A batch of one record without a producer, as the broker itself writes it.
#[must_use]
pub fn single_record(now: i64, key: &[u8], value: Option<&[u8]>) -> Vec<u8> {
    let header = BatchHeader {
        base_offset: 0,
        length: 0,
        attributes: 0,
        last_offset_delta: 0,
        base_timestamp: now,
        max_timestamp: now,
        producer_id: -1,
        producer_epoch: -1,
        base_sequence: -1,
        record_count: 1,
    };
    assemble(&header, &encode_record(Some(key), value))
}

fn encode_record(key: Option<&[u8]>, value: Option<&[u8]>) -> Vec<u8> {
    let mut body = vec![0, 0, 0]; // attributes, timestamp delta, offset delta
    for part in [key, value] {
        match part {
            Some(bytes) => {
                put_varint(&mut body, bytes.len() as i64);
                body.extend_from_slice(bytes);
            }
            None => put_varint(&mut body, -1),
        }
    }
    put_varint(&mut body, 0);
    let mut record = Vec::with_capacity(body.len() + 2);
    put_varint(&mut record, body.len() as i64);
    record.extend_from_slice(&body);
    record
}

/// Appends a zigzag variable-length integer.
fn put_varint(out: &mut Vec<u8>, value: i64) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push((rest as u8 & 0x7f) | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

fn take_varint(bytes: &mut &[u8]) -> Option<i64> {
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

fn take<'a>(bytes: &mut &'a [u8], count: usize) -> Option<&'a [u8]> {
    if bytes.len() < count {
        return None;
    }
    let (taken, rest) = bytes.split_at(count);
    *bytes = rest;
    Some(taken)
}

/// One record inside an uncompressed batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// All bytes of the record, its length prefix included.
    pub raw: &'a [u8],
    /// Timestamp relative to the batch's base timestamp.
    pub timestamp_delta: i64,
    /// Offset relative to the batch's base offset.
    pub offset_delta: i64,
    /// Key, if any.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
}

/// The records section of a batch does not hold what its length prefixes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedRecord;

/// Iterates over the decompressed records section of a batch.
#[derive(Debug, Clone)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Reads `records`, the bytes after the batch header, decompressed.
    #[must_use]
    pub fn new(records: &'a [u8]) -> Self {
        Self { rest: records }
    }

    fn record(&mut self) -> Option<RecordView<'a>> {
        let whole = self.rest;
        let length = usize::try_from(take_varint(&mut self.rest)?).ok()?;
        let mut body = take(&mut self.rest, length)?;
        let raw = &whole[..whole.len() - self.rest.len()];
        take(&mut body, 1)?;
        let timestamp_delta = take_varint(&mut body)?;
        let offset_delta = take_varint(&mut body)?;
        let key = take_nullable(&mut body)?;
        let value = take_nullable(&mut body)?;
        Some(RecordView { raw, timestamp_delta, offset_delta, key, value })
    }
}

fn take_nullable<'a>(body: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match take_varint(body)? {
        -1 => Some(None),
        length => Some(Some(take(body, usize::try_from(length).ok()?)?)),
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordView<'a>, MalformedRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.record();
        if record.is_none() {
            self.rest = &[];
        }
        Some(record.ok_or(MalformedRecord))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_built_batch_is_read_back() {
        let batch = single_record(1_700, b"key", Some(b"value"));
        let headers = check_produced(&batch).expect("a batch of our own is valid");
        assert_eq!(headers.len(), 1);
        assert_eq!(headers[0].length, batch.len());
        let record = Records::new(&batch[HEADER_BYTES..]).next().expect("one record").expect("well-formed");
        assert_eq!(record.key, Some(&b"key"[..]));
        assert_eq!(record.value, Some(&b"value"[..]));
        assert_eq!(record.raw, &batch[HEADER_BYTES..]);
    }

    #[test]
    fn one_flipped_bit_is_refused() {
        let mut batch = single_record(1_700, b"key", Some(b"value"));
        let last = batch.len() - 1;
        batch[last] ^= 1;
        assert_eq!(check_produced(&batch), Err(ErrorCode::CorruptMessage));
    }

    #[test]
    fn markers_tell_commit_from_abort() {
        assert_eq!(marker_commits(&marker(0, 0, 1, 0, true)), Some(true));
        assert_eq!(marker_commits(&marker(0, 0, 1, 0, false)), Some(false));
    }

    #[test]
    fn clients_may_not_write_markers() {
        let batch = marker(0, 0, 1, 0, true);
        assert_eq!(check_produced(&batch), Err(ErrorCode::InvalidRecord));
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(add_sequence(i32::MAX, 1), 0);
        assert_eq!(add_sequence(i32::MAX - 1, 3), 1);
    }
}
