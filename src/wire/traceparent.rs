//! The trace of a ride (W3C Trace Context), passed on to the status change that the ride causes.

/// The name of its header, in HTTP and in Kafka.
pub const HEADER: &str = "traceparent";

/// A W3C `traceparent`, kept as it was sent. Every ride may have one and few rides change anything, so one
/// of the present version is stored without an allocation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traceparent(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    /// Version 00, which has this length.
    Present([u8; 55]),
    /// A later version.
    Later(Box<str>),
}

impl From<&str> for Traceparent {
    fn from(text: &str) -> Self {
        Self(match text.as_bytes().try_into() {
            Ok(bytes) => Form::Present(bytes),
            Err(_) => Form::Later(text.into()),
        })
    }
}

impl Traceparent {
    /// The text.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // It was made from a text.
            Form::Present(bytes) => std::str::from_utf8(bytes).unwrap_or_default(),
            Form::Later(text) => text,
        }
    }
}

/// The first of these header values that has the form of W3C Trace Context. Others are dropped, as the
/// standard demands.
pub fn first_of<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Option<&'a str> {
    values
        .into_iter()
        .filter_map(|value| std::str::from_utf8(value).ok())
        .find(|text| is_traceparent(text))
}

/// `version-traceid-parentid-flags` in lower-case hex; neither id is all zero. Version `00` ends there, a
/// later version may continue after another dash, and `ff` is not a version.
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
        // It is passed on, so its characters and its length are limited.
        && rest.iter().all(u8::is_ascii_graphic)
        && rest.len() <= 200
}

#[cfg(test)]
mod tests {
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
    fn finds_the_first_that_has_the_form() {
        let values = [&b"\xff"[..], b"00", GOOD.as_bytes(), b"x"];
        assert_eq!(first_of(values), Some(GOOD));
        assert_eq!(first_of([]), None);
    }

    #[test]
    fn a_traceparent_is_kept_as_it_came_and_the_present_version_without_an_allocation() {
        let present = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let later = "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more";
        for text in [present, later] {
            assert_eq!(Traceparent::from(text).as_str(), text);
        }
        assert!(matches!(Traceparent::from(present).0, Form::Present(_)));
    }
}
