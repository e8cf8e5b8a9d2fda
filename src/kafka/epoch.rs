//! Leader epochs, for which the crate has no call. With the epoch of the last record read, a broker
//! can say whether the log up to there is still its own (KIP-320).
//!
//! Beside `describe.rs` this is the only module that uses `unsafe`, because it calls librdkafka
//! directly.
#![expect(unsafe_code, reason = "the calls without a safe binding")]

use std::ffi::CString;

use rdkafka::TopicPartitionList;
use rdkafka::message::BorrowedMessage;
use rdkafka_sys as sys;

/// The leader epoch in which a record was written; `None` if the broker does not report it.
pub fn leader_epoch(message: &BorrowedMessage<'_>) -> Option<i32> {
    // SAFETY: the message is alive for this function, borrowed from its owner.
    known(unsafe { sys::rd_kafka_message_leader_epoch(message.ptr()) })
}

/// The leader epoch that a list has with a partition's offset.
pub fn epoch_in_list(list: &TopicPartitionList, topic: &str, partition: i32) -> Option<i32> {
    let element = find(list, topic, partition)?;
    // SAFETY: an element of `list`, which is alive for this function.
    known(unsafe { sys::rd_kafka_topic_partition_get_leader_epoch(element) })
}

/// Sets the leader epoch of a partition's offset in a list. Nothing is changed if the partition is
/// not in the list.
pub fn set_epoch_in_list(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    leader_epoch: i32,
) {
    if let Some(element) = find(list, topic, partition) {
        // SAFETY: an element of `list`, which is alive and borrowed by nothing else.
        unsafe { sys::rd_kafka_topic_partition_set_leader_epoch(element, leader_epoch) }
    }
}

fn find(
    list: &TopicPartitionList,
    topic: &str,
    partition: i32,
) -> Option<*mut sys::rd_kafka_topic_partition_t> {
    let topic = CString::new(topic).ok()?;
    // SAFETY: the list is alive for this function; one valid C string, which is only read.
    let element =
        unsafe { sys::rd_kafka_topic_partition_list_find(list.ptr(), topic.as_ptr(), partition) };
    (!element.is_null()).then_some(element)
}

fn known(leader_epoch: i32) -> Option<i32> {
    (leader_epoch >= 0).then_some(leader_epoch)
}

#[cfg(test)]
mod tests {
    use rdkafka::Offset;

    use super::*;

    #[test]
    fn an_epoch_stays_with_its_partition() {
        let mut list = TopicPartitionList::new();
        for partition in [0, 1] {
            list.add_partition_offset("rides", partition, Offset::Offset(7))
                .expect("an offset");
        }
        set_epoch_in_list(&mut list, "rides", 1, 3);
        set_epoch_in_list(&mut list, "rides", 2, 4);
        set_epoch_in_list(&mut list, "ri\0des", 1, 4);
        assert_eq!(epoch_in_list(&list, "rides", 0), None);
        assert_eq!(epoch_in_list(&list, "rides", 1), Some(3));
        assert_eq!(epoch_in_list(&list.clone(), "rides", 1), Some(3));
        assert_eq!(epoch_in_list(&list, "rides", 2), None);
    }
}
