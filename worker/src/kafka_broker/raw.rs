//! What the safe client does not tell: at which topic and offset a partition's end was reached, whether a consumer is a
//! member of its group and of which generation, and how its coordinator describes a group. The only unsafe code of this
//! crate; never decides anything.
//!
//! Why not the safe calls: `KafkaError::PartitionEOF` carries a partition number without topic or offset,
//! `ConsumerGroupMetadata` is opaque, nothing gives the member id, a producer's flush waits for nobody, and
//! `fetch_group_list` asks every broker, so that one that is down spoils the answer. Each block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString};
use std::ptr;
use std::time::Duration;

use millrace_runtime::{Headers, InputRecord, header_name};
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use rdkafka::types::RDKafkaRespErr;

/// What one poll of a reader outside any group gave.
pub(crate) enum Polled {
    Nothing,
    Record { topic: String, partition: i32, record: InputRecord },
    End { topic: String, partition: i32, offset: i64 },
    Error { code: RDKafkaErrorCode, topic: String, partition: i32 },
}

/// Takes what waits first, or what comes within `wait`. Only for consumers that are assigned by hand: in a group, this
/// call would answer rebalances by itself.
pub(crate) fn poll<C: ConsumerContext>(consumer: &BaseConsumer<C>, wait: Duration) -> Polled {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client pointer is valid while `consumer` is borrowed, and the call is thread-safe.
    let message = unsafe { native::rd_kafka_consumer_poll(consumer.client().native_ptr(), wait_ms) };
    if message.is_null() {
        return Polled::Nothing;
    }
    // SAFETY: a non-null answer is a message that is ours until destroyed below; everything read from it is copied
    // before that. Its topic is null only for errors that concern no topic.
    unsafe {
        let polled = read(&*message, message);
        native::rd_kafka_message_destroy(message);
        polled
    }
}

/// Has a producer send what waits for its batches to fill, until everything is delivered or for as long as `wait`. Another
/// thread must take the reports meanwhile. The safe call does not wait, and what it asks for is forgotten as it returns.
pub(crate) fn flush<C: ProducerContext + 'static>(producer: &BaseProducer<C>, wait: Duration) {
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    // SAFETY: the client pointer is valid while `producer` is borrowed, and the call is thread-safe. Its result says whether
    // everything was delivered, which whoever takes the reports sees.
    unsafe { native::rd_kafka_flush(producer.client().native_ptr(), wait_ms) };
}

/// SAFETY: `message` must be the live message that `at` points to.
unsafe fn read(message: &native::rd_kafka_message_t, at: *mut native::rd_kafka_message_t) -> Polled {
    let topic = if message.rkt.is_null() {
        String::new()
    } else {
        // SAFETY: a topic's name is a C string that lives as long as the message holds the topic.
        unsafe { CStr::from_ptr(native::rd_kafka_topic_name(message.rkt)) }.to_string_lossy().into_owned()
    };
    let partition = message.partition;
    match message.err {
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR => {
            // SAFETY: pointer and length of key and value describe memory of the live message.
            let record = unsafe {
                InputRecord {
                    offset: message.offset,
                    timestamp: native::rd_kafka_message_timestamp(at, ptr::null_mut()),
                    key: bytes(message.key, message.key_len),
                    value: bytes(message.payload, message.len),
                    headers: headers(at),
                }
            };
            Polled::Record { topic, partition, record }
        }
        RDKafkaRespErr::RD_KAFKA_RESP_ERR__PARTITION_EOF => Polled::End { topic, partition, offset: message.offset },
        error => Polled::Error { code: error.into(), topic, partition },
    }
}

/// SAFETY: `at` must be null or point to `length` readable bytes.
unsafe fn bytes(at: *const std::os::raw::c_void, length: usize) -> Option<Vec<u8>> {
    if at.is_null() {
        return None;
    }
    // SAFETY: by the contract above.
    Some(unsafe { std::slice::from_raw_parts(at.cast::<u8>(), length) }.to_vec())
}

/// SAFETY: `message` must be a live message.
unsafe fn headers(message: *const native::rd_kafka_message_t) -> Headers {
    let mut headers = Headers::new();
    let mut list = ptr::null_mut();
    // SAFETY: the list, if there is one, belongs to the live message; name and value pointers are valid with it.
    unsafe {
        if native::rd_kafka_message_headers(message, &mut list) != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return headers;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        while native::rd_kafka_header_get_all(list, headers.len(), &mut name, &mut value, &mut length)
            == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            let name = header_name(&CStr::from_ptr(name).to_string_lossy());
            headers.push((name, bytes(value, length).unwrap_or_default()));
        }
    }
    headers
}

/// The generation of its group this consumer is in; -1 while it is in none.
pub(crate) fn generation<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> i32 {
    // SAFETY: the client pointer is valid while `consumer` is borrowed; the metadata is ours and destroyed once.
    unsafe {
        let metadata = native::rd_kafka_consumer_group_metadata(consumer.client().native_ptr());
        if metadata.is_null() {
            return -1;
        }
        let generation = native::rd_kafka_consumer_group_metadata_generation_id(metadata);
        native::rd_kafka_consumer_group_metadata_destroy(metadata);
        generation
    }
}

/// Whether the group's coordinator knows this consumer by an id: not before it has joined, and not after it has left.
pub(crate) fn has_member_id<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    // SAFETY: the client pointer is valid while `consumer` is borrowed; the id is null or a C string of ours, freed once.
    unsafe {
        let client = consumer.client().native_ptr();
        let id = native::rd_kafka_memberid(client);
        if id.is_null() {
            return false;
        }
        let known = !CStr::from_ptr(id).is_empty();
        native::rd_kafka_mem_free(client, id.cast());
        known
    }
}

/// A group as its coordinator describes it.
pub(crate) struct Described {
    /// Every member knows its assignment, and no rebalance is under way.
    pub(crate) stable: bool,
    /// What is assigned to any of the members: topics and partitions.
    pub(crate) assigned: Vec<(String, i32)>,
    /// The `group.instance.id` of each static member.
    pub(crate) instances: Vec<String>,
}

/// How long the library may go on with a question, at most; the caller waits far less. Not as long as the caller, for the
/// library uses a question it has given up once more when the coordinator is found after all, and ends the process
/// (librdkafka issue 4605, not mended in 2.12).
const LIBRARY_MS: i32 = 3_600_000;

/// Asks the coordinator of a group, and nobody else. An error of the group itself is an error, and so is no answer within
/// `wait`.
pub(crate) fn describe<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    group: &str,
    wait: Duration,
) -> Result<Described, RDKafkaErrorCode> {
    let name = CString::new(group).map_err(|_| RDKafkaErrorCode::InvalidArgument)?;
    let wait_ms = i32::try_from(wait.as_millis()).unwrap_or(i32::MAX);
    let client = consumer.client().native_ptr();
    // SAFETY: the client pointer is valid while `consumer` is borrowed. Options, queue and event are ours, and each is
    // destroyed once, after its last use; the library copies the name, and what is read from the event is copied before
    // the event is destroyed. An answer that comes after the queue is gone is the library's to drop.
    unsafe {
        let operation = native::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
        let options = native::rd_kafka_AdminOptions_new(client, operation);
        native::rd_kafka_AdminOptions_set_request_timeout(options, LIBRARY_MS, ptr::null_mut(), 0);
        let queue = native::rd_kafka_queue_new(client);
        native::rd_kafka_DescribeConsumerGroups(client, &mut name.as_ptr(), 1, options, queue);
        let event = native::rd_kafka_queue_poll(queue, wait_ms);
        let described = if event.is_null() { Err(RDKafkaErrorCode::OperationTimedOut) } else { described(event) };
        if !event.is_null() {
            native::rd_kafka_event_destroy(event);
        }
        native::rd_kafka_queue_destroy(queue);
        native::rd_kafka_AdminOptions_destroy(options);
        described
    }
}

/// SAFETY: `event` must be a live event.
unsafe fn described(event: *mut native::rd_kafka_event_t) -> Result<Described, RDKafkaErrorCode> {
    // SAFETY: everything here is read from the live event; counts are the library's own, and a description, its members and
    // their partitions live as long as the event. A member that has none has no list.
    unsafe {
        let failed = native::rd_kafka_event_error(event);
        if failed != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(failed.into());
        }
        let result = native::rd_kafka_event_DescribeConsumerGroups_result(event);
        let mut count = 0;
        let groups = native::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count);
        if groups.is_null() || count != 1 {
            return Err(RDKafkaErrorCode::BadMessage);
        }
        let group = *groups;
        let failed = native::rd_kafka_error_code(native::rd_kafka_ConsumerGroupDescription_error(group));
        if failed != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(failed.into());
        }
        let stable = native::rd_kafka_consumer_group_state_t::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE;
        let stable = native::rd_kafka_ConsumerGroupDescription_state(group) == stable;
        let (mut assigned, mut instances) = (Vec::new(), Vec::new());
        for at in 0..native::rd_kafka_ConsumerGroupDescription_member_count(group) {
            let member = native::rd_kafka_ConsumerGroupDescription_member(group, at);
            let instance = native::rd_kafka_MemberDescription_group_instance_id(member);
            if !instance.is_null() {
                instances.push(CStr::from_ptr(instance).to_string_lossy().into_owned());
            }
            let assignment = native::rd_kafka_MemberDescription_assignment(member);
            if assignment.is_null() {
                continue;
            }
            let list = native::rd_kafka_MemberAssignment_partitions(assignment);
            if list.is_null() {
                continue;
            }
            for at in 0..usize::try_from((*list).cnt).unwrap_or(0) {
                let element = &*(*list).elems.add(at);
                assigned.push((CStr::from_ptr(element.topic).to_string_lossy().into_owned(), element.partition));
            }
        }
        Ok(Described { stable, assigned, instances })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use millrace_broker::{Broker, BrokerConfig};
    use millrace_chaos::{Proxy, Routes};
    use rdkafka::ClientConfig;

    use super::*;

    const MOMENT: Duration = Duration::from_millis(100);

    /// A consumer whose broker does not answer yet.
    fn ask_before_the_broker_answers(then: impl FnOnce(BaseConsumer, Proxy)) {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = BrokerConfig { data_dir: dir.path().to_owned(), ..BrokerConfig::default() };
        let broker = runtime.block_on(Broker::start(config)).unwrap();
        let proxy = Proxy::start(broker.kafka_addr().port(), &Routes::default()).unwrap();
        proxy.stall();
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", proxy.address()).set("group.id", "asked");
        let consumer: BaseConsumer = settings.create().unwrap();
        assert_eq!(describe(&consumer, "asked", MOMENT).err(), Some(RDKafkaErrorCode::OperationTimedOut));
        then(consumer, proxy);
    }

    /// With a time-out of the library's own as short as the caller's, it ends the process here.
    #[test]
    fn a_question_given_up_harms_nothing_when_the_broker_answers() {
        ask_before_the_broker_answers(|consumer, proxy| {
            proxy.resume();
            // Answered behind the one that was given up.
            let described = describe(&consumer, "asked", Duration::from_secs(30)).unwrap();
            assert!(described.instances.is_empty() && described.assigned.is_empty());
        });
    }

    #[test]
    fn a_client_may_end_with_a_question_open() {
        ask_before_the_broker_answers(|consumer, proxy| {
            drop(consumer);
            proxy.resume();
        });
    }
}
