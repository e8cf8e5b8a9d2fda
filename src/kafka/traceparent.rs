//! The trace a ride belongs to, carried on to the status change it causes.

use rdkafka::message::Headers;

const HEADER: &str = "traceparent";

/// The first `traceparent` header that has the form of W3C Trace Context; one that has not is
/// dropped, as that standard says.
pub fn traceparent_of<H: Headers>(headers: &H) -> Option<&str> {
    (0..headers.count())
        .filter_map(|index| headers.try_get(index))
        .filter(|header| header.key == HEADER)
        .filter_map(|header| std::str::from_utf8(header.value?).ok())
        .find(|text| is_traceparent(text))
}

/// `version-traceid-parentid-flags` in lower-case hex; neither id all zero; version `00` ends
/// there, a later one may go on after another dash, and `ff` is none.
pub fn is_traceparent(text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_hex = |part: &[u8]| {
        part.iter()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let is_id = |part: &[u8]| is_hex(part) && part.iter().any(|byte| *byte != b'0');
    if bytes.len() < 55 || [2, 35, 52].iter().any(|dash| bytes[*dash] != b'-') {
        return false;
    }
    let (version, rest) = (&bytes[..2], &bytes[55..]);
    is_hex(version)
        && version != b"ff"
        && is_id(&bytes[3..35])
        && is_id(&bytes[36..52])
        && is_hex(&bytes[53..55])
        && (rest.is_empty() || (version != b"00" && rest[0] == b'-'))
        // It is written on, so it may hold nothing odd and may not grow without end.
        && rest.iter().all(u8::is_ascii_graphic)
        && rest.len() <= 200
}

#[cfg(test)]
mod tests {
    use rdkafka::message::{Header, OwnedHeaders};

    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn takes_what_the_standard_takes() {
        assert!(is_traceparent(GOOD));
        assert!(is_traceparent(
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-the-future-holds"
        ));
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-\n",
            "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
            "00-0af7651916cd43dd8448eb211c80319é-b7ad6b7169203331-01",
        ] {
            assert!(!is_traceparent(bad), "{bad}");
        }
    }

    #[test]
    fn finds_it_among_headers() {
        let header = |key, value: Option<&'static [u8]>| Header { key, value };
        let headers = OwnedHeaders::new()
            .insert(header("ce_id", Some(b"1")))
            .insert(header("traceparent", None))
            .insert(header("traceparent", Some(b"\xff")))
            .insert(header("traceparent", Some(GOOD.as_bytes())));
        assert_eq!(traceparent_of(&headers), Some(GOOD));
        assert_eq!(traceparent_of(&OwnedHeaders::new()), None);
    }
}
