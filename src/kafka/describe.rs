//! Descriptions of a topic or a group for which the crate has no call: which topic it really is,
//! and what this user may do with it.
//!
//! A topic that was deleted and created again, or one of another cluster, has the same name and
//! smaller offsets; positions belong to the identity.
//!
//! Beside `epoch.rs` this is the only module that uses `unsafe`, because it calls librdkafka
//! directly. A guard owns every object of the library and frees it on all paths.
#![expect(unsafe_code, reason = "the calls without a safe binding")]

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::client::{Client, ClientContext};
use rdkafka::types::{RDKafkaErrorCode, RDKafkaRespErr};
use rdkafka_sys as sys;

/// Why librdkafka returned no description.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DescribeError {
    NoSuchTopic,
    TimedOut,
    Refused(RDKafkaErrorCode),
}

/// An object of librdkafka and the function that frees it.
struct RdKafkaHandle<T> {
    object: *mut T,
    free: unsafe extern "C" fn(*mut T),
}

impl<T> RdKafkaHandle<T> {
    /// `None` for a null pointer. `object` must be owned by the caller and be freed by `free`.
    fn new(object: *mut T, free: unsafe extern "C" fn(*mut T)) -> Option<Self> {
        (!object.is_null()).then_some(Self { object, free })
    }
}

impl<T> Drop for RdKafkaHandle<T> {
    fn drop(&mut self) {
        // SAFETY: the object is not null and is owned by this guard alone, which is dropped once;
        // `free` is the library's function for exactly this type.
        unsafe { (self.free)(self.object) }
    }
}

fn millis(timeout: Duration) -> c_int {
    c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX)
}

/// The cluster's id from the latest metadata; waits at most `timeout` for the first metadata.
/// `None` if there was none in time, or if the brokers have no cluster id.
pub(super) fn cluster_id<C: ClientContext>(
    client: &Client<C>,
    timeout: Duration,
) -> Option<String> {
    let client = client.native_ptr();
    // SAFETY: `client` is alive for this function, borrowed from its owner. The result is null or a
    // string that this function must free.
    let id = unsafe { sys::rd_kafka_clusterid(client, millis(timeout)) };
    if id.is_null() {
        return None;
    }
    // SAFETY: not null, NUL-terminated, and not shared.
    let text = unsafe { CStr::from_ptr(id) }.to_string_lossy().into_owned();
    // SAFETY: allocated by the library for the caller, freed once, not used again. (The crate's own
    // call leaks it.)
    unsafe { sys::rd_kafka_mem_free(client, id.cast::<c_void>()) };
    Some(text)
}

/// What a broker lets a user do with a topic or a group; only the operations of Kafka that matter
/// here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Read records; be a member of a group.
    Read,
    /// Publish records.
    Write,
    /// Ask for partitions and offsets.
    Describe,
    /// Ask for settings.
    DescribeConfigs,
}

impl Operation {
    /// Its name in Kafka's tools.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "Read",
            Self::Write => "Write",
            Self::Describe => "Describe",
            Self::DescribeConfigs => "DescribeConfigs",
        }
    }
}

/// Asks a broker for the topic's id. Blocks, at most about `timeout`.
pub(super) fn topic_id<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<String, DescribeError> {
    let event = describe_topic(client, topic, timeout, false)?;
    Ok(id_of(topic_description(&event)?, &event))
}

/// Asks a broker for the topic's id and its partitions, ascending. Both are from one response, so
/// that they belong together. Blocks, at most about `timeout`.
pub(super) fn topic_and_partitions<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<(String, Vec<i32>), DescribeError> {
    let event = describe_topic(client, topic, timeout, false)?;
    let description = topic_description(&event)?;
    let mut count = 0_usize;
    // SAFETY: a description of `event`, alive; `count` is writable.
    let infos = unsafe { sys::rd_kafka_TopicDescription_partitions(description, &mut count) };
    if infos.is_null() || count == 0 {
        return Err(DescribeError::NoSuchTopic);
    }
    // SAFETY: an array of `count` > 0 pointers that lives as long as `event`.
    let infos = unsafe { std::slice::from_raw_parts(infos, count) };
    let mut partitions: Vec<i32> = infos
        .iter()
        // SAFETY: each is a partition of the description, alive.
        .map(|info| unsafe { sys::rd_kafka_TopicPartitionInfo_partition(*info) })
        .collect();
    partitions.sort_unstable();
    Ok((id_of(description, &event), partitions))
}

/// The id of a topic that `event` describes.
fn id_of(
    description: *const sys::rd_kafka_TopicDescription_t,
    _alive: &RdKafkaHandle<sys::rd_kafka_event_t>,
) -> String {
    // SAFETY: a description of `event`, alive; its id is null or lives as long.
    let id = unsafe { sys::rd_kafka_TopicDescription_topic_id(description) };
    if id.is_null() {
        return String::new();
    }
    // SAFETY: not null, lives as long as `event`.
    let (high, low) = unsafe {
        (
            sys::rd_kafka_Uuid_most_significant_bits(id),
            sys::rd_kafka_Uuid_least_significant_bits(id),
        )
    };
    as_kafka_writes(high, low)
}

/// Asks a broker what this user may do with the topic; everything if the cluster has no ACLs.
/// Blocks, at most about `timeout`.
pub(super) fn topic_operations<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
) -> Result<BTreeSet<Operation>, DescribeError> {
    let event = describe_topic(client, topic, timeout, true)?;
    let description = topic_description(&event)?;
    let mut count = 0_usize;
    // SAFETY: a description of `event`, alive; `count` is writable.
    let operations =
        unsafe { sys::rd_kafka_TopicDescription_authorized_operations(description, &mut count) };
    Ok(known(operations, count, &event))
}

/// Asks the group's coordinator what this user may do with the group, which need not exist. Blocks,
/// at most about `timeout`.
pub(super) fn group_operations<C: ClientContext>(
    client: &Client<C>,
    group: &str,
    timeout: Duration,
) -> Result<BTreeSet<Operation>, DescribeError> {
    let name = CString::new(group)
        .map_err(|_| DescribeError::Refused(RDKafkaErrorCode::InvalidGroupId))?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS;
    let event = ask(
        client,
        operation,
        timeout,
        true,
        |client, options, queue| {
            // SAFETY: all are alive; one valid C string, and the library copies what it keeps.
            unsafe {
                sys::rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), 1, options, queue);
            }
        },
    )?;
    // SAFETY: `event` is alive; null is answered for an event of another kind.
    let result = unsafe { sys::rd_kafka_event_DescribeConsumerGroups_result(event.object) };
    if result.is_null() {
        return Err(OUT_OF_MEMORY);
    }
    let mut count = 0_usize;
    // SAFETY: `result` is not null and lives as long as `event`; `count` is writable.
    let groups = unsafe { sys::rd_kafka_DescribeConsumerGroups_result_groups(result, &mut count) };
    if groups.is_null() || count == 0 {
        return Err(OUT_OF_MEMORY);
    }
    // SAFETY: an array of `count` > 0 pointers that lives as long as `event`.
    let description = unsafe { *groups };
    // SAFETY: a description of `event`, alive; its error is null or lives as long.
    let error = unsafe { sys::rd_kafka_ConsumerGroupDescription_error(description) };
    if !error.is_null() {
        // SAFETY: not null, lives as long as `event`.
        refuse(unsafe { sys::rd_kafka_error_code(error) })?;
    }
    let mut count = 0_usize;
    // SAFETY: a description of `event`, alive; `count` is writable.
    let operations = unsafe {
        sys::rd_kafka_ConsumerGroupDescription_authorized_operations(description, &mut count)
    };
    Ok(known(operations, count, &event))
}

/// The operations of an array that the library answered with `event`, those of [`Operation`].
fn known(
    operations: *const sys::rd_kafka_AclOperation_t,
    count: usize,
    _alive: &RdKafkaHandle<sys::rd_kafka_event_t>,
) -> BTreeSet<Operation> {
    use sys::rd_kafka_AclOperation_t as Acl;

    if operations.is_null() {
        return BTreeSet::new();
    }
    // As the numbers they are: one that the bindings do not know must not become their enum.
    // SAFETY: `count` enums of C, each the size of a u32, that live as long as the event.
    let codes = unsafe { std::slice::from_raw_parts(operations.cast::<u32>(), count) };
    codes
        .iter()
        .filter_map(|code| {
            [
                (Acl::RD_KAFKA_ACL_OPERATION_READ, Operation::Read),
                (Acl::RD_KAFKA_ACL_OPERATION_WRITE, Operation::Write),
                (Acl::RD_KAFKA_ACL_OPERATION_DESCRIBE, Operation::Describe),
                (
                    Acl::RD_KAFKA_ACL_OPERATION_DESCRIBE_CONFIGS,
                    Operation::DescribeConfigs,
                ),
            ]
            .into_iter()
            .find_map(|(acl, operation)| (acl as u32 == *code).then_some(operation))
        })
        .collect()
}

/// The error if the library has no memory left, or breaks its own documentation.
const OUT_OF_MEMORY: DescribeError = DescribeError::Refused(RDKafkaErrorCode::Fail);

/// Asks for the description of one topic.
fn describe_topic<C: ClientContext>(
    client: &Client<C>,
    topic: &str,
    timeout: Duration,
    with_operations: bool,
) -> Result<RdKafkaHandle<sys::rd_kafka_event_t>, DescribeError> {
    // No topic has a name with a NUL.
    let name = CString::new(topic).map_err(|_| DescribeError::NoSuchTopic)?;
    let mut names: [*const c_char; 1] = [name.as_ptr()];
    // SAFETY: one valid C string, which the library copies; ours to free.
    let topics = unsafe { sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), 1) };
    let topics =
        RdKafkaHandle::new(topics, sys::rd_kafka_TopicCollection_destroy).ok_or(OUT_OF_MEMORY)?;
    let operation = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
    ask(
        client,
        operation,
        timeout,
        with_operations,
        |client, options, queue| {
            // SAFETY: all four are alive; the library copies what it keeps beyond the call.
            unsafe { sys::rd_kafka_DescribeTopics(client, topics.object, options, queue) }
        },
    )
}

/// The description of the one topic that was asked for; lives as long as `event`.
fn topic_description(
    event: &RdKafkaHandle<sys::rd_kafka_event_t>,
) -> Result<*const sys::rd_kafka_TopicDescription_t, DescribeError> {
    // SAFETY: `event` is alive; null is answered for an event of another kind.
    let result = unsafe { sys::rd_kafka_event_DescribeTopics_result(event.object) };
    if result.is_null() {
        return Err(OUT_OF_MEMORY);
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
    Ok(description)
}

/// Sends an admin request and waits for its result, at most about `timeout`.
fn ask<C: ClientContext>(
    client: &Client<C>,
    operation: sys::rd_kafka_admin_op_t,
    timeout: Duration,
    with_operations: bool,
    send: impl FnOnce(
        *mut sys::rd_kafka_t,
        *const sys::rd_kafka_AdminOptions_t,
        *mut sys::rd_kafka_queue_t,
    ),
) -> Result<RdKafkaHandle<sys::rd_kafka_event_t>, DescribeError> {
    let client = client.native_ptr();
    // SAFETY: `client` is alive for this function; ours to free.
    let options = unsafe { sys::rd_kafka_AdminOptions_new(client, operation) };
    let options =
        RdKafkaHandle::new(options, sys::rd_kafka_AdminOptions_destroy).ok_or(OUT_OF_MEMORY)?;
    // Without room for a message the library returns only the code.
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
    if with_operations {
        // SAFETY: `options` is alive and of this client; the answer is null or an error of ours to
        // free.
        let error = unsafe {
            sys::rd_kafka_AdminOptions_set_include_authorized_operations(options.object, 1)
        };
        if let Some(error) = RdKafkaHandle::new(error, sys::rd_kafka_error_destroy) {
            // SAFETY: not null, alive.
            refuse(unsafe { sys::rd_kafka_error_code(error.object) })?;
        }
    }

    // SAFETY: `client` is alive for this function, which must free the queue. The library frees a
    // result that arrives after the timeout, because the queue is closed.
    let queue = unsafe { sys::rd_kafka_queue_new(client) };
    let queue = RdKafkaHandle::new(queue, sys::rd_kafka_queue_destroy).ok_or(OUT_OF_MEMORY)?;
    send(client, options.object, queue.object);
    // The request's own timeout fires first, as an event; the margin is for the delivery of that
    // event.
    let response_timeout = timeout.saturating_add(Duration::from_millis(500));
    // SAFETY: `queue` is alive; the answer is null or an event of ours to free.
    let event = unsafe { sys::rd_kafka_queue_poll(queue.object, millis(response_timeout)) };
    let event =
        RdKafkaHandle::new(event, sys::rd_kafka_event_destroy).ok_or(DescribeError::TimedOut)?;
    // SAFETY: `event` is alive.
    refuse(unsafe { sys::rd_kafka_event_error(event.object) })?;
    Ok(event)
}

/// The library's own text form has another base64 alphabet than Kafka's tools.
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
