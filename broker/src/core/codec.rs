//! Compression of the records section of a batch. Used by compaction, timestamp look-up and the registry only: records
//! pass through the broker as they came. Never gives more than [`DECOMPRESSED_MAX`] bytes, whatever a batch claims.

use std::io::{self, Read};

use bytes::{Bytes, BytesMut};
use kafka_protocol::compression::{Compressor, Decompressor, Gzip, Lz4, Snappy, Zstd};

/// Most bytes that the records of one batch may have: more than a request may, so more than a client has in one batch.
const DECOMPRESSED_MAX: usize = 128 << 20;

/// The bytes could not be compressed or decompressed.
#[derive(Debug, thiserror::Error)]
#[error("codec {codec}: {reason}")]
pub struct CodecError {
    /// Codec number from the batch attributes.
    pub codec: i16,
    /// What the codec said.
    pub reason: String,
}

/// Decompresses the records section of a batch.
///
/// # Errors
/// Unknown codec, broken bytes, or more than [`DECOMPRESSED_MAX`] of them.
pub fn decompress(codec: i16, records: Bytes) -> Result<Bytes, CodecError> {
    decompress_at_most(DECOMPRESSED_MAX, codec, records)
}

fn decompress_at_most(most: usize, codec: i16, mut records: Bytes) -> Result<Bytes, CodecError> {
    let failed = |reason: String| CodecError { codec, reason };
    let plain = match codec {
        0 => return Ok(records),
        1 => read(most, flate2::read::GzDecoder::new(&records[..])),
        2 => {
            // It takes as much memory as the bytes claim, before it reads them.
            let claimed = snappy_length(&records).map_err(|error| failed(error.to_string()))?;
            if claimed > most {
                return Err(failed(too_many(most)));
            }
            let plain = Snappy::decompress(&mut records, |plain: &mut Bytes| Ok(plain.clone()));
            return plain.map_err(|error| failed(format!("{error:#}")));
        }
        3 => lz4::Decoder::new(&records[..]).and_then(|reader| read(most, reader)),
        4 => zstd::stream::read::Decoder::new(&records[..]).and_then(|reader| read(most, reader)),
        _ => return Err(unknown(codec)),
    };
    plain.map_err(|error| failed(error.to_string()))
}

fn read(most: usize, reader: impl Read) -> io::Result<Bytes> {
    let mut plain = Vec::new();
    reader.take(most as u64 + 1).read_to_end(&mut plain)?;
    if plain.len() > most {
        return Err(io::Error::new(io::ErrorKind::InvalidData, too_many(most)));
    }
    Ok(plain.into())
}

/// What comes before the blocks that Kafka's clients write; each block has its length before it. Other clients write one
/// block without either.
const SNAPPY_BLOCKS: &[u8] = b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01";

/// How many bytes the blocks say they have.
fn snappy_length(records: &[u8]) -> Result<usize, snap::Error> {
    let Some(mut blocks) = records.strip_prefix(SNAPPY_BLOCKS) else {
        return snap::raw::decompress_len(records);
    };
    let mut all = 0_usize;
    while let Some((length, rest)) = blocks.split_first_chunk::<4>() {
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        let Some((block, rest)) = rest.split_at_checked(length) else { break };
        all = all.saturating_add(snap::raw::decompress_len(block)?);
        blocks = rest;
    }
    Ok(all)
}

fn too_many(most: usize) -> String {
    format!("more than {most} bytes")
}

/// Compresses the records section of a batch.
///
/// # Errors
/// Unknown codec, or the codec failed.
pub fn compress(codec: i16, records: &[u8]) -> Result<Bytes, CodecError> {
    let mut out = BytesMut::new();
    let fill = |plain: &mut BytesMut| {
        plain.extend_from_slice(records);
        Ok(())
    };
    let result = match codec {
        0 => return Ok(Bytes::copy_from_slice(records)),
        1 => Gzip::compress(&mut out, fill),
        2 => Snappy::compress(&mut out, fill),
        3 => Lz4::compress(&mut out, fill),
        4 => Zstd::compress(&mut out, fill),
        _ => return Err(unknown(codec)),
    };
    result.map(|()| out.freeze()).map_err(|error| CodecError { codec, reason: format!("{error:#}") })
}

fn unknown(codec: i16) -> CodecError {
    CodecError { codec, reason: "unknown codec".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_returns_what_it_was_given() {
        let plain = b"the same words the same words the same words".repeat(20);
        for codec in 0..=4 {
            let packed = compress(codec, &plain).expect("compresses");
            let unpacked = decompress(codec, packed).expect("decompresses");
            assert_eq!(unpacked, plain, "codec {codec}");
        }
    }

    #[test]
    fn more_than_may_be_is_an_error() {
        let plain = [7; 100_000];
        for codec in 1..=4 {
            let packed = compress(codec, &plain).expect("compresses");
            let unpacked = decompress_at_most(plain.len(), codec, packed.clone()).expect("as many as may be");
            assert_eq!(unpacked.len(), plain.len(), "codec {codec}");
            let error = decompress_at_most(plain.len() - 1, codec, packed).expect_err("one too many");
            assert_eq!(error.reason, "more than 99999 bytes", "codec {codec}");
        }
    }

    /// One block, without what Kafka's clients write before it, that says it has 3.5 GB.
    #[test]
    fn a_claim_takes_no_memory() {
        let claim = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0c, 0, 0, 0]);
        assert_eq!(decompress(2, claim).expect_err("too many").reason, format!("more than {DECOMPRESSED_MAX} bytes"));
    }

    #[test]
    fn broken_bytes_are_an_error() {
        for codec in 1..=4 {
            assert!(decompress(codec, Bytes::from_static(b"not compressed")).is_err());
        }
    }
}
