//! Which topic it really is. A topic that was deleted and created again, or another cluster, has
//! the same name and smaller offsets; positions belong to this identity.
//!
//! The only module that uses `unsafe`: the crate has no call for a topic's id, so librdkafka is
//! asked directly. Every object of the library is owned by a guard that frees it on all paths.
#![allow(unsafe_code)]

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka_sys as sys;

/// A cluster and a topic, by what never comes again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TopicIdentity {
    /// The cluster's id; empty where a broker has none.
    pub cluster_id: String,
    /// The topic's id as Kafka's own tools write it, 22 characters of base64url; empty where
    /// there is none (a broker from before Kafka 2.8, librdkafka's in-process cluster). Watermarks
    /// must be compared then.
    pub topic_id: String,
}

/// Why librdkafka did not tell.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DescribeError {
    NoSuchTopic,
    TimedOut,
    Refused(RDKafkaErrorCode),
}

/// An object of librdkafka and the function that frees it.
struct Owned<T> {
    object: *mut T,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> Owned<T> {
    /// `None` for a null pointer. `object` must be owned by the caller and be freed by `free`.
    fn new(object: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        (!object.is_null()).then_some(Self { object, free })
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: the object is not null and is owned by this guard alone, which is dropped once;
        // `free` is the library's function for exactly this type.
        unsafe { (self.free)(self.object) }
    }
}

fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// The cluster's id as the latest metadata said; waits for the first metadata, at most `timeout`.
/// `None` when there was none in time or the brokers have no cluster id.
pub(super) fn cluster_id<C: ClientContext>(
    client: &Client<C>,
    timeout: Duration,
) -> Option<String> {
    let client = client.native_ptr();
    // SAFETY: `client` is alive for this function, borrowed from its owner. The answer is null or
    // a string of ours to free.
    let id = unsafe { sys::rd_kafka_clusterid(client, millis(timeout)) };
    if id.is_null() {
        return None;
    }
    // SAFETY: not null, NUL-terminated, and nobody else has it.
    let text = unsafe { CStr::from_ptr(id) }.to_string_lossy().into_owned();
    // SAFETY: allocated by the library for us, freed once, not used again. (The crate's own call
    // leaks it.)
    unsafe { sys::rd_kafka_mem_free(client, id.cast::<c_void>()) };
    Some(text)
}

/// Asks a broker for the topic's id. Blocks, at most about `timeout`.
pub(super) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<String, DescribeError> {
    // A name with a NUL in it is none that a topic could have.
    let name = CString::new(topic).map_err(|_| DescribeError::NoSuchTopic)?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    let client = client.native_ptr();
    let out_of_memory = || DescribeError::Refused(RDKafkaErrorCode::Fail);

    // SAFETY: one valid C string, which the library copies; ours to free.
    let topics = unsafe { sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1) };
    let topics =
        Owned::new(topics, sys::rd_kafka_TopicCollection_destroy).ok_or_else(out_of_memory)?;

    // SAFETY: `client` is alive for this function; ours to free.
    let options = unsafe {
        sys::rd_kafka_AdminOptions_new(
            client,
            sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS,
        )
    };
    let options =
        Owned::new(options, sys::rd_kafka_AdminOptions_destroy).ok_or_else(out_of_memory)?;
    // Without room for a message the library only answers the code.
    // SAFETY: `options` is alive and of this client; a null buffer of size 0 is not written to.
    let code = unsafe {
        sys::rd_kafka_AdminOptions_set_request_timeout(
            options.object,
            millis(timeout),
            ptr::null_mut(),
            0,
        )
    };
    refuse(code)?;

    // SAFETY: `client` is alive for this function; ours to free. An answer that comes after we
    // gave up finds the queue closed and is freed by the library.
    let queue = unsafe { sys::rd_kafka_queue_new(client) };
    let queue = Owned::new(queue, sys::rd_kafka_queue_destroy).ok_or_else(out_of_memory)?;

    // SAFETY: all four are alive; the library copies what it keeps beyond the call.
    unsafe {
        sys::rd_kafka_DescribeTopics(client, topics.object, options.object, queue.object);
    }
    // The request's own timeout comes first and as an event; the margin is for the event's way.
    let patience = timeout.saturating_add(Duration::from_millis(500));
    // SAFETY: `queue` is alive; the answer is null or an event of ours to free.
    let event = unsafe { sys::rd_kafka_queue_poll(queue.object, millis(patience)) };
    let event = Owned::new(event, sys::rd_kafka_event_destroy).ok_or(DescribeError::TimedOut)?;
    // SAFETY: `event` is alive.
    refuse(unsafe { sys::rd_kafka_event_error(event.object) })?;

    // SAFETY: `event` is alive; null is answered for an event of another kind.
    let result = unsafe { sys::rd_kafka_event_DescribeTopics_result(event.object) };
    if result.is_null() {
        return Err(out_of_memory());
    }
    let mut count = 0_usize;
    // SAFETY: `result` is not null and lives as long as `event`; `count` is writable.
    let descriptions = unsafe { sys::rd_kafka_DescribeTopics_result_topics(result, &mut count) };
    if descriptions.is_null() || count == 0 {
        return Err(DescribeError::NoSuchTopic);
    }
    // SAFETY: an array of `count` > 0 pointers that lives as long as `event`; one topic was asked
    // for, the first is its description.
    let description = unsafe { *descriptions };
    // SAFETY: a description of `event`, alive; its error is null or lives as long.
    let error = unsafe { sys::rd_kafka_TopicDescription_error(description) };
    if !error.is_null() {
        // SAFETY: not null, lives as long as `event`.
        refuse(unsafe { sys::rd_kafka_error_code(error) })?;
    }
    // SAFETY: a description of `event`, alive; its id is null or lives as long.
    let id = unsafe { sys::rd_kafka_TopicDescription_topic_id(description) };
    if id.is_null() {
        return Ok(String::new());
    }
    // SAFETY: not null, lives as long as `event`.
    let (high, low) = unsafe {
        (
            sys::rd_kafka_Uuid_most_significant_bits(id),
            sys::rd_kafka_Uuid_least_significant_bits(id),
        )
    };
    Ok(as_kafka_writes(high, low))
}

/// The library's own text form is of another base64 alphabet than that of Kafka's tools.
fn as_kafka_writes(high: i64, low: i64) -> String {
    if (high, low) == (0, 0) {
        return String::new();
    }
    let mut bytes = [0_u8; 16];
    bytes[..8].copy_from_slice(&high.to_be_bytes());
    bytes[8..].copy_from_slice(&low.to_be_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

fn refuse(code: RDKafkaRespErr) -> Result<(), DescribeError> {
    match RDKafkaErrorCode::from(code) {
        RDKafkaErrorCode::NoError => Ok(()),
        RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic => {
            Err(DescribeError::NoSuchTopic)
        }
        RDKafkaErrorCode::OperationTimedOut | RDKafkaErrorCode::RequestTimedOut => {
            Err(DescribeError::TimedOut)
        }
        code => Err(DescribeError::Refused(code)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_written_as_kafkas_tools_do_and_none_is_empty() {
        assert_eq!(as_kafka_writes(0, 0), "");
        // All bits set shows both characters in which the alphabets differ.
        assert_eq!(as_kafka_writes(-1, -1), "_____________________w");
        assert_eq!(as_kafka_writes(0, 1), "AAAAAAAAAAAAAAAAAAAAAQ");
    }

    #[test]
    fn an_impossible_name_and_an_absent_broker_are_errors_in_time() {
        let client: rdkafka::consumer::BaseConsumer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", "127.0.0.1:1")
            .create()
            .expect("client");
        let client = rdkafka::consumer::Consumer::client(&client);
        let timeout = Duration::from_millis(200);
        assert_eq!(
            topic_id(client, "a\0b", timeout),
            Err(DescribeError::NoSuchTopic)
        );
        let start = std::time::Instant::now();
        assert_eq!(
            topic_id(client, "rides", timeout),
            Err(DescribeError::TimedOut)
        );
        assert_eq!(cluster_id(client, timeout), None);
        assert!(start.elapsed() < Duration::from_secs(3));
    }
}
