//! Finding a record by its timestamp inside fetched batches. The only place where a read decompresses.

use bytes::Bytes;

use super::ErrorCode;
use super::batch::{BatchHeader, HEADER_BYTES, Records};
use super::codec::decompress;

/// First record at or after `from` whose timestamp is at least `timestamp`, as (offset, timestamp).
pub(super) fn first_at_least(batches: &Bytes, timestamp: i64, from: i64) -> Result<Option<(i64, i64)>, ErrorCode> {
    let mut rest = batches.clone();
    while let Some(header) = BatchHeader::parse(&rest) {
        if header.length > rest.len() {
            break;
        }
        let batch = rest.split_to(header.length);
        if header.is_control() || header.max_timestamp < timestamp {
            continue;
        }
        if header.is_log_append_time() {
            return Ok(Some((header.base_offset.max(from), header.max_timestamp)));
        }
        let records =
            decompress(header.codec(), batch.slice(HEADER_BYTES..)).map_err(|_| ErrorCode::KafkaStorageError)?;
        for record in Records::new(&records).flatten() {
            let offset = header.base_offset + record.offset_delta;
            let at = header.base_timestamp + record.timestamp_delta;
            if at >= timestamp && offset >= from {
                return Ok(Some((offset, at)));
            }
        }
    }
    Ok(None)
}

/// The first record at or after `from` with the largest timestamp, as (offset, timestamp). Batches that cannot have it are
/// not decompressed.
pub(super) fn largest(batches: &Bytes, from: i64) -> Result<Option<(i64, i64)>, ErrorCode> {
    let mut best: Option<(i64, i64)> = None;
    let mut rest = batches.clone();
    while let Some(header) = BatchHeader::parse(&rest) {
        if header.length > rest.len() {
            break;
        }
        let batch = rest.split_to(header.length);
        let beaten = best.is_some_and(|(_, most)| header.max_timestamp <= most);
        if header.is_control() || beaten {
            continue;
        }
        if header.is_log_append_time() {
            best = Some((header.base_offset.max(from), header.max_timestamp));
            continue;
        }
        let records =
            decompress(header.codec(), batch.slice(HEADER_BYTES..)).map_err(|_| ErrorCode::KafkaStorageError)?;
        for record in Records::new(&records).flatten() {
            let offset = header.base_offset + record.offset_delta;
            let at = header.base_timestamp + record.timestamp_delta;
            if offset >= from && best.is_none_or(|(_, most)| at > most) {
                best = Some((offset, at));
            }
        }
    }
    Ok(best)
}
