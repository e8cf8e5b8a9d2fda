//! What is known of a partition's log before a position. It shows later whether the log is still the
//! one that was read. Kafka can lose the end of a log (power loss, an unclean election, a wiped disk)
//! and give its offsets to other records; then the offset alone proves nothing.

use super::ride::Fnv1a;

/// How many bytes of a key or a value the fingerprint covers; it always covers their lengths.
const MAX_BYTES: usize = 4_096;

/// What is known of the log before a position.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Anchor {
    /// The leader epoch of the last record read before the position; `None` if unknown.
    pub leader_epoch: Option<i32>,
    /// The last record that was applied; `None` if unknown.
    pub record: Option<RecordMark>,
}

/// What is needed to recognise a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMark {
    /// Its offset.
    pub offset: i64,
    /// A hash of its offset, timestamp, key and value. It is stored, so its computation never changes.
    pub fingerprint: i64,
}

impl RecordMark {
    /// The mark of a record. `timestamp_ms` is in milliseconds since 1970, -1 if it has none.
    pub fn new(offset: i64, timestamp_ms: i64, key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        let mut bytes = Vec::new();
        Self::write_bytes(&mut bytes, offset, timestamp_ms, key, value);
        Self::of_bytes(offset, &bytes)
    }

    /// Replaces `bytes` by the input of the fingerprint. Copying is cheaper than hashing, and only the
    /// last of many records needs its fingerprint.
    pub fn write_bytes(
        bytes: &mut Vec<u8>,
        offset: i64,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
    ) {
        bytes.clear();
        bytes.extend_from_slice(&offset.to_le_bytes());
        bytes.extend_from_slice(&timestamp_ms.to_le_bytes());
        for part in [key, value] {
            let length = part.map_or(-1, |part| i64::try_from(part.len()).unwrap_or(i64::MAX));
            bytes.extend_from_slice(&length.to_le_bytes());
            let part = part.unwrap_or_default();
            bytes.extend_from_slice(&part[..part.len().min(MAX_BYTES)]);
        }
    }

    /// The mark of the record whose bytes [`RecordMark::write_bytes`] wrote.
    pub fn of_bytes(offset: i64, bytes: &[u8]) -> Self {
        let mut hash = Fnv1a::new();
        hash.write(bytes);
        Self {
            offset,
            fingerprint: hash.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_of_a_record_is_in_its_fingerprint() {
        let marks = [
            RecordMark::new(7, 1, Some(b"k"), Some(b"v")),
            RecordMark::new(8, 1, Some(b"k"), Some(b"v")),
            RecordMark::new(7, 2, Some(b"k"), Some(b"v")),
            RecordMark::new(7, 1, Some(b"kv"), Some(b"")),
            RecordMark::new(7, 1, None, Some(b"kv")),
            RecordMark::new(7, 1, Some(b""), Some(b"kv")),
            RecordMark::new(7, 1, Some(b"k"), None),
            RecordMark::new(7, 1, Some(b"k"), Some(&[0; MAX_BYTES + 1])),
            RecordMark::new(7, 1, Some(b"k"), Some(&[0; MAX_BYTES + 2])),
        ];
        for (at, one) in marks.iter().enumerate() {
            for other in &marks[at + 1..] {
                assert_ne!(one.fingerprint, other.fingerprint);
            }
        }
        // These are stored, so they are the same in every release.
        assert_eq!(marks[0].fingerprint, 616_025_901_112_078_548);
    }
}
