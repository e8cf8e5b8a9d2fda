//! Which member owns which partition: parses a member's assignment in the format of the consumer
//! protocol.

use std::collections::BTreeSet;

/// The partitions of `topic` in a member's assignment: `i16` version, an array of (string topic,
/// array of `i32` partitions), user data; all big-endian. `None` if it has another form. A member
/// without partitions may have no bytes at all.
pub(super) fn assigned_partitions(assignment: &[u8], topic: &str) -> Option<BTreeSet<i32>> {
    if assignment.is_empty() {
        return Some(BTreeSet::new());
    }
    // Later versions only add fields at the end.
    let (_version, mut rest) = assignment.split_first_chunk::<2>()?;
    let mut partitions = BTreeSet::new();
    for _ in 0..count(&mut rest)? {
        let (length, after) = rest.split_first_chunk::<2>()?;
        let length = usize::try_from(i16::from_be_bytes(*length)).ok()?;
        let (name, after) = after.split_at_checked(length)?;
        rest = after;
        for _ in 0..count(&mut rest)? {
            let (partition, after) = rest.split_first_chunk::<4>()?;
            rest = after;
            if name == topic.as_bytes() {
                partitions.insert(i32::from_be_bytes(*partition));
            }
        }
    }
    Some(partitions)
}

/// The length of the array that follows.
fn count(rest: &mut &[u8]) -> Option<usize> {
    let (count, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    usize::try_from(i32::from_be_bytes(*count)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 1; `rides`: 0 and 11; `other`: 5; null user data.
    const ASSIGNMENT: &[u8] = b"\x00\x01\x00\x00\x00\x02\
        \x00\x05rides\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x0b\
        \x00\x05other\x00\x00\x00\x01\x00\x00\x00\x05\
        \xff\xff\xff\xff";

    #[test]
    fn reads_the_partitions_of_one_topic() {
        let of = |topic| assigned_partitions(ASSIGNMENT, topic);
        assert_eq!(of("rides"), Some(BTreeSet::from([0, 11])));
        assert_eq!(of("other"), Some(BTreeSet::from([5])));
        assert_eq!(of("none"), Some(BTreeSet::new()));
        assert_eq!(assigned_partitions(b"", "rides"), Some(BTreeSet::new()));
    }

    #[test]
    fn what_is_cut_off_or_odd_is_not_taken_for_nothing() {
        // The user data at the end is not looked at.
        for length in 1..ASSIGNMENT.len() - 4 {
            assert_eq!(
                assigned_partitions(&ASSIGNMENT[..length], "rides"),
                None,
                "{length}"
            );
        }
        assert_eq!(
            assigned_partitions(b"\x00\x00\xff\xff\xff\xff", "rides"),
            None
        );
        assert_eq!(
            assigned_partitions(b"\x00\x00\x7f\xff\xff\xff", "rides"),
            None
        );
    }
}
