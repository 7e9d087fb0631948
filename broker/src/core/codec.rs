//! Compression of the records section of a batch. Used by compaction and timestamp look-up only: records pass through
//! the broker as they came.

use bytes::{Bytes, BytesMut};
use kafka_protocol::compression::{Compressor, Decompressor, Gzip, Lz4, Snappy, Zstd};

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
/// Unknown codec or broken bytes.
pub fn decompress(codec: i16, mut records: Bytes) -> Result<Bytes, CodecError> {
    let keep = |plain: &mut Bytes| Ok(plain.clone());
    let result = match codec {
        0 => return Ok(records),
        1 => Gzip::decompress(&mut records, |plain| Ok(Bytes::copy_from_slice(plain))),
        2 => Snappy::decompress(&mut records, keep),
        3 => Lz4::decompress(&mut records, keep),
        4 => Zstd::decompress(&mut records, keep),
        _ => return Err(unknown(codec)),
    };
    result.map_err(|error| CodecError { codec, reason: format!("{error:#}") })
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
    fn broken_bytes_are_an_error() {
        for codec in 1..=4 {
            assert!(decompress(codec, Bytes::from_static(b"not compressed")).is_err());
        }
    }
}
