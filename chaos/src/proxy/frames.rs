//! Kafka's frames: four bytes of length, then a request or an answer. Reads, writes and, in answers that name brokers,
//! puts the proxy's address in place of the broker's. Never looks at records.

use std::io::{self, ErrorKind, Read, Write};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::{
    ApiKey, ApiVersionsResponse, DescribeClusterResponse, FindCoordinatorResponse, MetadataResponse, ResponseHeader,
};
use kafka_protocol::protocol::{Decodable, Encodable};

use super::Routes;

/// Larger frames than any broker of the tests takes.
const FRAME_MAX: usize = 128 << 20;

/// Above these versions the answers to Produce and Fetch name brokers, too (KIP-951). They are not offered, so that
/// bulk need not be taken apart.
const OFFERED_MAX: &[(ApiKey, i16)] = &[(ApiKey::Produce, 9), (ApiKey::Fetch, 15)];

/// Unsupported version: the answer has the form of version 0 then.
const UNSUPPORTED_VERSION: i16 = 35;

/// What must be known of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) api: i16,
    version: i16,
    pub(super) correlation: i32,
}

impl Request {
    pub(super) fn of(frame: &[u8]) -> io::Result<Self> {
        Ok(Self { api: i16_at(frame, 0)?, version: i16_at(frame, 2)?, correlation: i32_at(frame, 4)? })
    }
}

/// The correlation id an answer begins with.
pub(super) fn correlation(frame: &[u8]) -> io::Result<i32> {
    i32_at(frame, 0)
}

/// The next frame without its length; nothing at the end.
pub(super) fn read(from: &mut impl Read) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    match from.read_exact(&mut length) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(None),
        other => other?,
    }
    let length = usize::try_from(i32::from_be_bytes(length)).ok().filter(|length| *length <= FRAME_MAX);
    let mut frame = vec![0; length.ok_or_else(|| io::Error::other("this is no frame of Kafka's"))?];
    from.read_exact(&mut frame)?;
    Ok(Some(frame))
}

/// Writes a frame with its length, in one piece.
pub(super) fn write(to: &mut impl Write, frame: &[u8]) -> io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    let mut bytes = Vec::with_capacity(frame.len() + 4);
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(frame);
    to.write_all(&bytes)
}

/// An answer as the client may see it.
pub(super) fn rewrite(request: Request, frame: Vec<u8>, routes: &Routes) -> anyhow::Result<Vec<u8>> {
    let Ok(api) = ApiKey::try_from(request.api) else { return Ok(frame) };
    match api {
        ApiKey::Metadata => changed::<MetadataResponse>(api, request.version, frame, |answer| {
            for broker in &mut answer.brokers {
                broker.port = routes.instead_of(broker.port);
            }
        }),
        ApiKey::FindCoordinator => changed::<FindCoordinatorResponse>(api, request.version, frame, |answer| {
            answer.port = routes.instead_of(answer.port);
            for coordinator in &mut answer.coordinators {
                coordinator.port = routes.instead_of(coordinator.port);
            }
        }),
        ApiKey::DescribeCluster => changed::<DescribeClusterResponse>(api, request.version, frame, |answer| {
            for broker in &mut answer.brokers {
                broker.port = routes.instead_of(broker.port);
            }
        }),
        ApiKey::ApiVersions if i16_at(&frame, 4)? != UNSUPPORTED_VERSION => {
            changed::<ApiVersionsResponse>(api, request.version, frame, |answer| {
                for offered in &mut answer.api_keys {
                    for (api, most) in OFFERED_MAX {
                        if offered.api_key == *api as i16 {
                            offered.max_version = offered.max_version.min(*most);
                        }
                    }
                }
            })
        }
        _ => Ok(frame),
    }
}

fn changed<T: Decodable + Encodable>(
    api: ApiKey,
    version: i16,
    frame: Vec<u8>,
    change: impl FnOnce(&mut T),
) -> anyhow::Result<Vec<u8>> {
    let header_version = api.response_header_version(version);
    let mut rest = Bytes::from(frame);
    let header = ResponseHeader::decode(&mut rest, header_version)?;
    let mut answer = T::decode(&mut rest, version)?;
    change(&mut answer);
    let mut bytes = BytesMut::new();
    header.encode(&mut bytes, header_version)?;
    answer.encode(&mut bytes, version)?;
    Ok(bytes.to_vec())
}

fn i16_at(frame: &[u8], at: usize) -> io::Result<i16> {
    let bytes = frame.get(at..at + 2).and_then(|bytes| bytes.try_into().ok());
    bytes.map(i16::from_be_bytes).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

fn i32_at(frame: &[u8], at: usize) -> io::Result<i32> {
    let bytes = frame.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    bytes.map(i32::from_be_bytes).ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut bytes = Vec::new();
        write(&mut bytes, b"one").unwrap();
        write(&mut bytes, b"").unwrap();
        let mut from = bytes.as_slice();
        assert_eq!(read(&mut from).unwrap().as_deref(), Some(&b"one"[..]));
        assert_eq!(read(&mut from).unwrap().as_deref(), Some(&b""[..]));
        assert_eq!(read(&mut from).unwrap(), None);
        assert!(read(&mut &b"\xff\xff\xff\xff"[..]).is_err());
        assert!(read(&mut &b"\x00\x00\x00\x05abc"[..]).is_err(), "cut in the middle");
    }

    #[test]
    fn addresses_are_replaced_and_nothing_else_is() {
        let routes = Routes::default();
        routes.add(9_000, 9_001);
        let mut metadata = MetadataResponse::default();
        for port in [9_000, 8_000] {
            let broker = kafka_protocol::messages::metadata_response::MetadataResponseBroker::default();
            metadata.brokers.push(broker.with_port(port));
        }
        let version = 12;
        let header_version = ApiKey::Metadata.response_header_version(version);
        let mut bytes = BytesMut::new();
        ResponseHeader::default().with_correlation_id(7).encode(&mut bytes, header_version).unwrap();
        metadata.encode(&mut bytes, version).unwrap();
        let request = Request { api: ApiKey::Metadata as i16, version, correlation: 7 };
        let frame = rewrite(request, bytes.to_vec(), &routes).unwrap();
        assert_eq!(correlation(&frame).unwrap(), 7);
        let mut rest = Bytes::from(frame);
        ResponseHeader::decode(&mut rest, header_version).unwrap();
        let ports: Vec<i32> =
            MetadataResponse::decode(&mut rest, version).unwrap().brokers.iter().map(|broker| broker.port).collect();
        assert_eq!(ports, [9_001, 8_000]);
        let other = Request { api: ApiKey::EndTxn as i16, version: 1, correlation: 7 };
        assert_eq!(rewrite(other, b"as it is".to_vec(), &routes).unwrap(), b"as it is");
    }
}
