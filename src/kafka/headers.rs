//! Headers of records.

use rdkafka::message::Headers;

/// The values of a record's headers of this name, in order. A header without a value is skipped.
pub fn header_values<'h, H: Headers>(
    headers: &'h H,
    name: &'h str,
) -> impl Iterator<Item = &'h [u8]> {
    (0..headers.count())
        .filter_map(|index| headers.try_get(index))
        .filter(move |header| header.key == name)
        .filter_map(|header| header.value)
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;

    #[test]
    fn finds_values_among_headers() {
        let header = |key, value: Option<&'static [u8]>| Header { key, value };
        let headers = OwnedHeaders::new()
            .insert(header("ce_id", Some(b"1")))
            .insert(header("traceparent", None))
            .insert(header("traceparent", Some(b"\xff")))
            .insert(header("traceparent", Some(b"00")));
        let values: Vec<&[u8]> = header_values(&headers, "traceparent").collect();
        assert_eq!(values, [&b"\xff"[..], b"00"]);
        assert_eq!(header_values(&OwnedHeaders::new(), "ce_id").count(), 0);
    }
}
