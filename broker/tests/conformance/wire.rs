//! A client that hides nothing: it sends one request in one version and returns the answer as it came. And the short
//! words the cases are told in.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages as m;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{
    BrokerId, GroupId, ProducerId, RequestHeader, ResponseHeader, TopicName, TransactionalId,
};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, Request, StrBytes};
use kafka_protocol::records::{
    Compression, NO_PRODUCER_EPOCH, NO_PRODUCER_ID, NO_SEQUENCE, Record, RecordBatchDecoder, RecordBatchEncoder,
    RecordEncodeOptions, TimestampType,
};

pub const PATIENCE: Duration = Duration::from_secs(40);

/// One connection.
pub struct Wire {
    stream: TcpStream,
    correlation: i32,
}

impl Wire {
    pub fn connect(servers: &str) -> Self {
        let stream = TcpStream::connect(servers).expect("connected");
        stream.set_nodelay(true).expect("set");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Self { stream, correlation: 0 }
    }

    pub fn send<Q: Request>(&mut self, version: i16, request: &Q) {
        self.correlation += 1;
        let header = RequestHeader::default()
            .with_request_api_key(Q::KEY)
            .with_request_api_version(version)
            .with_correlation_id(self.correlation)
            .with_client_id(Some(text("conformance")));
        let mut body = BytesMut::new();
        header.encode(&mut body, Q::header_version(version)).expect("encodable");
        request.encode(&mut body, version).expect("encodable in this version");
        self.stream.write_all(&(body.len() as i32).to_be_bytes()).expect("sent");
        self.stream.write_all(&body).expect("sent");
    }

    pub fn receive<Q: Request>(&mut self, version: i16) -> Q::Response {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("an answer");
        let mut frame = vec![0; i32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut frame).expect("a whole answer");
        let mut frame = Bytes::from(frame);
        let header = ResponseHeader::decode(&mut frame, Q::Response::header_version(version)).expect("a header");
        assert_eq!(header.correlation_id, self.correlation);
        let answer = Q::Response::decode(&mut frame, version).expect("decodable");
        assert!(frame.is_empty(), "{} bytes are left of the answer to {}", frame.len(), Q::KEY);
        answer
    }

    pub fn call<Q: Request>(&mut self, version: i16, request: &Q) -> Q::Response {
        self.send(version, request);
        self.receive::<Q>(version)
    }
}

pub fn text(string: &str) -> StrBytes {
    StrBytes::from_string(string.to_owned())
}

pub fn topic_name(name: &str) -> TopicName {
    TopicName(text(name))
}

pub fn group_id(name: &str) -> GroupId {
    GroupId(text(name))
}

pub fn txn_id(name: &str) -> TransactionalId {
    TransactionalId(text(name))
}

/// Kafka's name of an error, `ok` for none.
pub fn named(code: i16) -> String {
    match kafka_protocol::error::ResponseError::try_from_code(code) {
        None => "ok".to_owned(),
        Some(error) => format!("{error:?}"),
    }
}

/// A batch to be written.
#[derive(Clone)]
pub struct Batch {
    pub producer: i64,
    pub epoch: i16,
    pub sequence: i32,
    pub transactional: bool,
    pub timestamp: i64,
    pub compression: Compression,
    pub records: Vec<(Option<String>, Option<String>)>,
}

/// Long ago, but not so long that retention would notice.
pub fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    since.as_millis() as i64
}

impl Batch {
    /// Values under the key `k`, without a producer.
    pub fn of(values: &[&str]) -> Self {
        let records = values.iter().map(|value| (Some("k".to_owned()), Some((*value).to_owned()))).collect();
        Self {
            producer: NO_PRODUCER_ID,
            epoch: NO_PRODUCER_EPOCH,
            sequence: NO_SEQUENCE,
            transactional: false,
            timestamp: now(),
            compression: Compression::None,
            records,
        }
    }

    pub fn keyed(pairs: &[(&str, Option<&str>)]) -> Self {
        let records = pairs.iter().map(|(key, value)| (Some((*key).to_owned()), value.map(str::to_owned))).collect();
        Self { records, ..Self::of(&[]) }
    }

    pub fn by(self, producer: i64, epoch: i16, sequence: i32) -> Self {
        Self { producer, epoch, sequence, ..self }
    }

    pub fn in_transaction(self) -> Self {
        Self { transactional: true, ..self }
    }

    pub fn at(self, timestamp: i64) -> Self {
        Self { timestamp, ..self }
    }

    pub fn encode(&self) -> Bytes {
        let records: Vec<Record> = self
            .records
            .iter()
            .enumerate()
            .map(|(number, (key, value))| Record {
                transactional: self.transactional,
                control: false,
                delete_horizon: false,
                partition_leader_epoch: -1,
                producer_id: self.producer,
                producer_epoch: self.epoch,
                timestamp_type: TimestampType::Creation,
                offset: number as i64,
                // The encoder begins a new batch where sequence and offset part.
                sequence: self.sequence + number as i32,
                timestamp: self.timestamp,
                key: key.clone().map(Bytes::from),
                value: value.clone().map(Bytes::from),
                headers: Default::default(),
            })
            .collect();
        let mut bytes = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: self.compression };
        RecordBatchEncoder::encode(&mut bytes, records.iter(), &options).expect("encodable");
        bytes.freeze()
    }
}

/// What a case works with. Topic, group and transactional id have the case's own name.
pub struct Case {
    pub wire: Wire,
    pub servers: String,
    pub name: String,
}

impl Case {
    /// Another connection.
    pub fn another(&self) -> Wire {
        Wire::connect(&self.servers)
    }

    pub fn create(&mut self, partitions: i32, configs: &[(&str, &str)]) {
        let name = self.name.clone();
        self.create_named(&name, partitions, configs);
    }

    /// Creates a topic and waits until it can be used.
    pub fn create_named(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let code = self.create_code(name, partitions, configs);
        assert_eq!(named(code), "ok", "{name}");
        let deadline = Instant::now() + PATIENCE;
        for partition in 0..partitions {
            while self.list_offset_of(name, partition, -1, 0, 7).0 != 0 {
                assert!(Instant::now() < deadline, "{name} has no leader");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }

    pub fn create_code(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> i16 {
        let configs = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value))));
        let topic = CreatableTopic::default()
            .with_name(topic_name(name))
            .with_num_partitions(partitions)
            .with_replication_factor(1)
            .with_configs(configs.collect());
        let request = m::CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
        self.wire.call(7, &request).topics[0].error_code
    }

    pub fn produce(&mut self, batch: &Batch) -> String {
        let name = self.name.clone();
        self.produce_bytes(&name, 0, 1, None, batch.encode())
    }

    /// Within a transaction of the case's own id.
    pub fn produce_in_transaction(&mut self, batch: &Batch) -> String {
        let name = self.name.clone();
        self.produce_bytes(&name.clone(), 0, -1, Some(&name), batch.encode())
    }

    /// `ok@offset`, or the error.
    pub fn produce_bytes(&mut self, topic: &str, partition: i32, acks: i16, id: Option<&str>, bytes: Bytes) -> String {
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(bytes));
        let data = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
        let request = m::ProduceRequest::default()
            .with_acks(acks)
            .with_timeout_ms(5_000)
            .with_transactional_id(id.map(txn_id))
            .with_topic_data(vec![data]);
        let answer = self.wire.call(9, &request);
        let partition = &answer.responses[0].partition_responses[0];
        match partition.error_code {
            0 => format!("ok@{}", partition.base_offset),
            code => named(code),
        }
    }

    pub fn fetch_partition(&mut self, partition: FetchPartition, isolation: i8) -> PartitionData {
        let topic = FetchTopic::default().with_topic(topic_name(&self.name)).with_partitions(vec![partition]);
        let request = m::FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(0)
            .with_min_bytes(0)
            .with_max_bytes(1 << 20)
            .with_isolation_level(isolation)
            .with_session_epoch(-1)
            .with_topics(vec![topic]);
        let mut answer = self.wire.call(12, &request);
        assert_eq!(named(answer.error_code), "ok");
        answer.responses.remove(0).partitions.remove(0)
    }

    pub fn fetch(&mut self, offset: i64, isolation: i8) -> PartitionData {
        let partition = FetchPartition::default()
            .with_partition(0)
            .with_current_leader_epoch(-1)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_fetch_offset(offset)
            .with_partition_max_bytes(1 << 20);
        self.fetch_partition(partition, isolation)
    }

    /// Offsets and values as an application would see them: markers and aborted records left out.
    pub fn read(&mut self, isolation: i8) -> String {
        let mut offset = self.list_offset(-2, 0, 7).1;
        let mut seen = Vec::new();
        loop {
            let data = self.fetch(offset, isolation);
            let mut aborted: Vec<(i64, ProducerId)> = data
                .aborted_transactions
                .unwrap_or_default()
                .iter()
                .map(|aborted| (aborted.first_offset, aborted.producer_id))
                .collect();
            let mut records = data.records.unwrap_or_default();
            if records.is_empty() {
                return seen.join(" ");
            }
            let mut open: Vec<i64> = Vec::new();
            for set in RecordBatchDecoder::decode_all(&mut records).expect("batches") {
                for record in set.records {
                    let before = offset;
                    offset = offset.max(record.offset + 1);
                    aborted.retain(|(first, producer)| {
                        let begins = *first <= record.offset;
                        if begins {
                            open.push(producer.0);
                        }
                        !begins
                    });
                    if record.control {
                        open.retain(|producer| *producer != record.producer_id);
                    } else if record.offset >= before && !(record.transactional && open.contains(&record.producer_id)) {
                        let key = record.key.map_or("-".to_owned(), |key| String::from_utf8_lossy(&key).into_owned());
                        let value = record.value.map_or("-".to_owned(), |v| String::from_utf8_lossy(&v).into_owned());
                        seen.push(format!("{}:{key}={value}", record.offset));
                    }
                }
            }
        }
    }

    pub fn list_offset_of(
        &mut self,
        topic: &str,
        partition: i32,
        time: i64,
        isolation: i8,
        version: i16,
    ) -> (i16, i64, i64) {
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(partition)
            .with_current_leader_epoch(-1)
            .with_timestamp(time);
        let topic = ListOffsetsTopic::default().with_name(topic_name(topic)).with_partitions(vec![wanted]);
        let request = m::ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(isolation)
            .with_topics(vec![topic]);
        let answer = self.wire.call(version, &request);
        let found = &answer.topics[0].partitions[0];
        (found.error_code, found.offset, found.timestamp)
    }

    pub fn list_offset(&mut self, time: i64, isolation: i8, version: i16) -> (i16, i64, i64) {
        let name = self.name.clone();
        self.list_offset_of(&name, 0, time, isolation, version)
    }

    /// Oldest offset, end, and end for those who read what is committed.
    pub fn bounds(&mut self) -> String {
        let (start, end, stable) =
            (self.list_offset(-2, 0, 7).1, self.list_offset(-1, 0, 7).1, self.list_offset(-1, 1, 7).1);
        format!("{start}..{end} stable {stable}")
    }

    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !done(self) {
            assert!(Instant::now() < deadline, "{}: waited in vain: {what}", self.name);
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
