//! The shape of each request, to walk over a frame before it is decoded. The decoder reserves memory for as many elements
//! as an array claims to have; a frame that claims more than it holds must not get that far.

use kafka_protocol::messages::ApiKey;

use super::connection::Malformed;

/// More elements than this in one request are refused.
const MAX_ELEMENTS: usize = 1_000_000;

/// Fields of a request in order. `b h i l`: integers of 1, 2, 4, 8 bytes; `u`: UUID; `s`: string; `B`: bytes; `[..]`:
/// array of structures; `<.>`: array of plain values. `3:` before a field: since version 3; `2-4:`: in versions 2 to 4.
fn shape(key: ApiKey) -> Option<&'static str> {
    Some(match key {
        ApiKey::Produce => "s h i [s[iB]]",
        ApiKey::Fetch => "i i i i b 7:i 7:i [s[i 9:i l 12:i 5:l i]] 7:[s<i>] 11:s",
        ApiKey::ListOffsets => "i 2:b [s[i 4:i l]]",
        ApiKey::Metadata => "[10:u s] 4:b 8-10:b 8:b",
        ApiKey::OffsetCommit => "s i s 7:s 2-4:l [s[i l 6:i s]]",
        ApiKey::OffsetFetch => "0-7:s 0-7:[s<i>] 8:[s[s<i>]] 7:b",
        ApiKey::FindCoordinator => "0-3:s 1:b 4:<s>",
        ApiKey::JoinGroup => "s i 1:i s 5:s s [sB] 8:s",
        ApiKey::Heartbeat => "s i s 3:s",
        ApiKey::LeaveGroup => "s 0-2:s 3:[ss 5:s]",
        ApiKey::SyncGroup => "s i s 3:s 5:s 5:s [sB]",
        ApiKey::DescribeGroups => "<s> 3:b",
        ApiKey::ListGroups => "4:<s> 5:<s>",
        ApiKey::ApiVersions => "3:s 3:s",
        ApiKey::CreateTopics => "[s i h [i<i>] [ss]] i b",
        ApiKey::DeleteTopics => "6:[su] 1-5:<s> i",
        ApiKey::DeleteRecords => "[s[il]] i",
        ApiKey::InitProducerId => "s i 3:l 3:h",
        ApiKey::OffsetForLeaderEpoch => "3:i [s[iii]]",
        ApiKey::AddPartitionsToTxn => "s l h [s<i>]",
        ApiKey::AddOffsetsToTxn => "s l h s",
        ApiKey::EndTxn => "s l h b",
        ApiKey::TxnOffsetCommit => "s s l h 3:i 3:s 3:s [s[i l 2:i s]]",
        ApiKey::DescribeConfigs => "[b s <s>] b 3:b",
        ApiKey::AlterConfigs => "[b s [ss]] b",
        ApiKey::CreatePartitions => "[s i [<i>]] i b",
        ApiKey::DeleteGroups => "<s>",
        ApiKey::IncrementalAlterConfigs => "[b s [sbs]] b",
        ApiKey::DescribeCluster => "b 1:b",
        ApiKey::OffsetDelete => "s [s[i]]",
        ApiKey::DescribeProducers => "[s<i>]",
        ApiKey::DescribeTransactions => "<s>",
        ApiKey::ListTransactions => "<s> <l> 1:l 2:s",
        ApiKey::WriteTxnMarkers => "[l h b [s<i>] i]",
        ApiKey::DescribeLogDirs => "[s<i>]",
        ApiKey::ListPartitionReassignments => "i [s<i>]",
        _ => return None,
    })
}

/// Checks that `body` begins with the shape of the request. What follows is nobody's business: librdkafka leaves bytes
/// behind a list of topics that is null, and Apache Kafka does not look at them either.
pub(super) fn check(key: ApiKey, version: i16, body: &[u8]) -> Result<(), Malformed> {
    let wrong = || Malformed::new(format!("{key:?} version {version} has the wrong shape"));
    let fields = shape(key).ok_or_else(wrong)?;
    let mut walk = Walk {
        rest: body,
        version,
        // Since some version, lengths are variable and structures end in tagged fields.
        flexible: key.request_header_version(version) >= 2,
        elements: 0,
    };
    let done = walk.structure(fields.as_bytes());
    match done {
        Some([]) => Ok(()),
        _ => Err(wrong()),
    }
}

struct Walk<'a> {
    rest: &'a [u8],
    version: i16,
    flexible: bool,
    elements: usize,
}

impl Walk<'_> {
    fn skip(&mut self, count: usize) -> Option<()> {
        self.rest = self.rest.get(count..)?;
        Some(())
    }

    fn integer<const N: usize>(&mut self) -> Option<[u8; N]> {
        let bytes = *self.rest.first_chunk::<N>()?;
        self.skip(N)?;
        Some(bytes)
    }

    fn varint(&mut self) -> Option<usize> {
        let mut value = 0usize;
        for position in 0..5 {
            let [byte] = self.integer::<1>()?;
            value |= usize::from(byte & 0x7f) << (7 * position);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A length; `None` inside for null.
    fn length(&mut self, wide: bool) -> Option<Option<usize>> {
        if self.flexible {
            return Some(self.varint()?.checked_sub(1));
        }
        let length =
            if wide { i32::from_be_bytes(self.integer()?) } else { i32::from(i16::from_be_bytes(self.integer()?)) };
        match length {
            -1 => Some(None),
            length => Some(Some(usize::try_from(length).ok()?)),
        }
    }

    fn tagged(&mut self) -> Option<()> {
        if self.flexible {
            for _ in 0..self.varint()? {
                self.varint()?;
                let length = self.varint()?;
                self.skip(length)?;
            }
        }
        Some(())
    }

    /// Walks the fields up to the end or a closing bracket; returns what is left of their description.
    fn structure<'s>(&mut self, mut fields: &'s [u8]) -> Option<&'s [u8]> {
        loop {
            match fields {
                [] | [b']' | b'>', ..] => {
                    self.tagged()?;
                    return Some(fields);
                }
                [b' ', after @ ..] => fields = after,
                _ => fields = self.field(fields)?,
            }
        }
    }

    /// Walks one field; returns the description after it.
    fn field<'s>(&mut self, fields: &'s [u8]) -> Option<&'s [u8]> {
        let (present, fields) = self.gate(fields)?;
        let (kind, after) = fields.split_first()?;
        let end = match kind {
            b'[' | b'<' => closing(fields)?,
            _ => 1,
        };
        if present {
            match kind {
                b'b' => self.skip(1)?,
                b'h' => self.skip(2)?,
                b'i' => self.skip(4)?,
                b'l' => self.skip(8)?,
                b'u' => self.skip(16)?,
                b's' | b'B' => {
                    let length = self.length(*kind == b'B')?;
                    self.skip(length.unwrap_or(0))?;
                }
                _ => {
                    let count = self.length(true)?.unwrap_or(0);
                    self.elements += count;
                    if count > self.rest.len() || self.elements > MAX_ELEMENTS {
                        return None;
                    }
                    for _ in 0..count {
                        if *kind == b'[' {
                            self.structure(after)?;
                        } else {
                            self.field(after)?;
                        }
                    }
                }
            }
        }
        fields.get(end..)
    }

    /// Reads `3:` or `2-4:` before a field.
    fn gate<'s>(&self, fields: &'s [u8]) -> Option<(bool, &'s [u8])> {
        if !fields.first()?.is_ascii_digit() {
            return Some((true, fields));
        }
        let colon = fields.iter().position(|byte| *byte == b':')?;
        let range = std::str::from_utf8(&fields[..colon]).ok()?;
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (from.parse().ok()?, to.parse().ok()?),
            None => (range.parse().ok()?, i16::MAX),
        };
        let present = (from..=to).contains(&self.version);
        Some((present, &fields[colon + 1..]))
    }
}

/// Length of a bracketed description.
fn closing(fields: &[u8]) -> Option<usize> {
    let mut depth = 0;
    for (position, byte) in fields.iter().enumerate() {
        match byte {
            b'[' | b'<' => depth += 1,
            b']' | b'>' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(position + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use kafka_protocol::messages::alter_configs_request::{self, AlterableConfig};
    use kafka_protocol::messages::create_partitions_request::{CreatePartitionsAssignment, CreatePartitionsTopic};
    use kafka_protocol::messages::create_topics_request::{
        CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig,
    };
    use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
    use kafka_protocol::messages::leave_group_request::MemberIdentity;
    use kafka_protocol::messages::offset_fetch_request::OffsetFetchRequestTopic;
    use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
    use kafka_protocol::messages::txn_offset_commit_request::{
        TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
    };
    use kafka_protocol::messages::{self as m, BrokerId, TopicName};
    use kafka_protocol::messages::{
        delete_records_request, describe_configs_request, incremental_alter_configs_request, list_offsets_request,
        offset_commit_request,
    };
    use kafka_protocol::protocol::{Encodable, StrBytes};

    use super::super::apis::APIS;
    use super::*;

    fn name() -> TopicName {
        TopicName(text())
    }

    fn text() -> StrBytes {
        StrBytes::from_static_str("some text")
    }

    /// In every announced version, the encoded request is accepted, and refused when anything is missing.
    fn fits<T: Encodable>(key: ApiKey, request: &T) {
        let api = APIS.iter().find(|api| api.key == key).expect("announced");
        let mut encoded = 0;
        for version in api.min..=api.max {
            let mut body = BytesMut::new();
            if request.encode(&mut body, version).is_err() {
                continue; // a field this version does not have
            }
            encoded += 1;
            check(key, version, &body).unwrap_or_else(|error| panic!("{error}"));
            for end in 0..body.len() {
                let cut = check(key, version, &body[..end]);
                assert!(cut.is_err(), "{key:?} {version} cut at {end}");
            }
        }
        assert!(encoded > 0, "{key:?}");
    }

    #[test]
    fn every_announced_request_has_a_shape() {
        for api in APIS {
            assert!(shape(api.key).is_some(), "{:?}", api.key);
        }
    }

    #[test]
    fn full_requests_fit_their_shapes() {
        let partition = FetchPartition::default().with_partition(1);
        let fetch = FetchTopic::default().with_topic(name()).with_partitions(vec![partition; 2]);
        let fetch = m::FetchRequest::default().with_topics(vec![fetch; 2]);
        fits(ApiKey::Fetch, &fetch);
        let forgotten = ForgottenTopic::default().with_topic(name()).with_partitions(vec![1, 2]);
        let fetch = fetch.with_forgotten_topics_data(vec![forgotten]);
        fits(ApiKey::Fetch, &fetch);

        let partition = list_offsets_request::ListOffsetsPartition::default();
        let topic =
            list_offsets_request::ListOffsetsTopic::default().with_name(name()).with_partitions(vec![partition; 2]);
        let request = m::ListOffsetsRequest::default().with_topics(vec![topic; 2]);
        fits(ApiKey::ListOffsets, &request);

        let topic = OffsetFetchRequestTopic::default().with_name(name()).with_partition_indexes(vec![1, 2]);
        let request = m::OffsetFetchRequest::default().with_topics(Some(vec![topic; 2]));
        fits(ApiKey::OffsetFetch, &request);
        fits(ApiKey::OffsetFetch, &request.with_topics(None));

        let partition = offset_commit_request::OffsetCommitRequestPartition::default();
        let topic = offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(name())
            .with_partitions(vec![partition; 2]);
        let request = m::OffsetCommitRequest::default().with_topics(vec![topic; 2]);
        fits(ApiKey::OffsetCommit, &request);

        let partition = TxnOffsetCommitRequestPartition::default();
        let topic = TxnOffsetCommitRequestTopic::default().with_name(name()).with_partitions(vec![partition; 2]);
        let request = m::TxnOffsetCommitRequest::default()
            .with_topics(vec![topic; 2])
            .with_member_id(text())
            .with_group_instance_id(Some(text()))
            .with_generation_id(3);
        fits(ApiKey::TxnOffsetCommit, &request);

        let member = MemberIdentity::default().with_member_id(text()).with_group_instance_id(Some(text()));
        let request = m::LeaveGroupRequest::default().with_members(vec![member; 2]);
        fits(ApiKey::LeaveGroup, &request);

        let partition = OffsetForLeaderPartition::default();
        let topic = OffsetForLeaderTopic::default().with_topic(name()).with_partitions(vec![partition; 2]);
        let request = m::OffsetForLeaderEpochRequest::default().with_topics(vec![topic; 2]);
        fits(ApiKey::OffsetForLeaderEpoch, &request);
    }

    #[test]
    fn full_admin_requests_fit_their_shapes() {
        let config = CreatableTopicConfig::default().with_name(text());
        let assignment = CreatableReplicaAssignment::default().with_broker_ids(vec![BrokerId(1); 2]);
        let topic = CreatableTopic::default()
            .with_name(name())
            .with_assignments(vec![assignment; 2])
            .with_configs(vec![config; 2]);
        let request = m::CreateTopicsRequest::default().with_topics(vec![topic; 2]);
        fits(ApiKey::CreateTopics, &request);

        let assignment = CreatePartitionsAssignment::default().with_broker_ids(vec![BrokerId(1)]);
        let topic = CreatePartitionsTopic::default().with_name(name()).with_assignments(Some(vec![assignment; 2]));
        let request = m::CreatePartitionsRequest::default().with_topics(vec![topic; 2]);
        fits(ApiKey::CreatePartitions, &request);

        let partition = delete_records_request::DeleteRecordsPartition::default();
        let topic =
            delete_records_request::DeleteRecordsTopic::default().with_name(name()).with_partitions(vec![partition; 2]);
        let request = m::DeleteRecordsRequest::default().with_topics(vec![topic; 2]);
        fits(ApiKey::DeleteRecords, &request);

        let resource = describe_configs_request::DescribeConfigsResource::default()
            .with_resource_name(text())
            .with_configuration_keys(Some(vec![text(); 2]));
        let request = m::DescribeConfigsRequest::default().with_resources(vec![resource; 2]);
        fits(ApiKey::DescribeConfigs, &request);

        let config = AlterableConfig::default().with_name(text());
        let resource = alter_configs_request::AlterConfigsResource::default()
            .with_resource_name(text())
            .with_configs(vec![config; 2]);
        let request = m::AlterConfigsRequest::default().with_resources(vec![resource; 2]);
        fits(ApiKey::AlterConfigs, &request);

        let config = incremental_alter_configs_request::AlterableConfig::default().with_name(text());
        let resource = incremental_alter_configs_request::AlterConfigsResource::default()
            .with_resource_name(text())
            .with_configs(vec![config; 2]);
        let request = m::IncrementalAlterConfigsRequest::default().with_resources(vec![resource; 2]);
        fits(ApiKey::IncrementalAlterConfigs, &request);
    }

    #[test]
    fn simple_requests_fit_their_shapes() {
        fits(ApiKey::Produce, &m::ProduceRequest::default());
        fits(ApiKey::Metadata, &m::MetadataRequest::default());
        fits(ApiKey::FindCoordinator, &m::FindCoordinatorRequest::default());
        fits(ApiKey::JoinGroup, &m::JoinGroupRequest::default());
        fits(ApiKey::Heartbeat, &m::HeartbeatRequest::default());
        fits(ApiKey::SyncGroup, &m::SyncGroupRequest::default());
        fits(ApiKey::DescribeGroups, &m::DescribeGroupsRequest::default());
        fits(ApiKey::DeleteTopics, &m::DeleteTopicsRequest::default());
        fits(ApiKey::InitProducerId, &m::InitProducerIdRequest::default());
        fits(ApiKey::AddPartitionsToTxn, &m::AddPartitionsToTxnRequest::default());
        fits(ApiKey::AddOffsetsToTxn, &m::AddOffsetsToTxnRequest::default());
        fits(ApiKey::EndTxn, &m::EndTxnRequest::default());
        fits(ApiKey::DeleteGroups, &m::DeleteGroupsRequest::default());
        fits(ApiKey::DescribeCluster, &m::DescribeClusterRequest::default());
    }

    #[test]
    fn what_librdkafka_leaves_behind_a_null_list_is_no_fault() {
        // All topics, in version 12, as librdkafka 2.12 to 2.16 writes it.
        let body = [0, 0, 0, 0, 1, 0, 0];
        assert!(check(ApiKey::Metadata, 12, &body).is_ok());
        assert!(check(ApiKey::Metadata, 12, &body[..3]).is_err(), "too short");
    }

    #[test]
    fn an_array_may_not_claim_more_than_there_is() {
        // DeleteGroups with two thousand million names.
        let body = i32::MAX.to_be_bytes();
        assert!(check(ApiKey::DeleteGroups, 0, &body).is_err());
    }
}
