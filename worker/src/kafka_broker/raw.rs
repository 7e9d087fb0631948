//! The two things the safe client does not tell: at which topic and offset a partition's end was reached, and which
//! generation of its group a consumer is in. The only unsafe code of this crate; never decides anything.
//!
//! Why not the safe calls: `KafkaError::PartitionEOF` carries a partition number without topic or offset, and
//! `ConsumerGroupMetadata` is opaque. Each block says why it is sound.
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::ptr;
use std::time::Duration;

use millrace_runtime::InputRecord;
use rdkafka::bindings as native;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
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
unsafe fn headers(message: *const native::rd_kafka_message_t) -> Vec<(String, Vec<u8>)> {
    let mut headers = Vec::new();
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
            let name = CStr::from_ptr(name).to_string_lossy().into_owned();
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
