//! Checks the heads of requests before hyper reads them. hyper itself rejects what it cannot parse
//! with an empty body, accepts requests without a `Host`, and never says why.

use std::mem::MaybeUninit;

use axum::http::Uri;
use httparse::{Error, Header, Request, Status};

use super::problem::Problem;

/// The largest head of a request, in bytes.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The most header fields of a request.
const MAX_HEADERS: usize = 100;

/// Why a head is refused. No other request can follow on its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// It is not HTTP/1.1 according to RFC 9112; the text says what is wrong.
    Malformed(&'static str),
    /// Its first line is larger than a whole head may be.
    TargetTooLong,
    /// It is too large.
    TooLarge,
    /// It has too many fields.
    TooManyFields,
    /// It did not arrive in time.
    Late,
}

impl HeadError {
    /// The text for the sender.
    pub fn problem(self) -> Problem {
        match self {
            Self::Malformed(detail) => Problem::malformed_head(detail),
            Self::TargetTooLong => Problem::uri_too_long(MAX_HEAD_BYTES),
            Self::TooLarge => Problem::header_fields_too_large(format!(
                "The request's head is larger than {MAX_HEAD_BYTES} bytes."
            )),
            Self::TooManyFields => Problem::header_fields_too_large(format!(
                "The request has more than {MAX_HEADERS} header fields."
            )),
            Self::Late => Problem::head_timeout(),
        }
    }
}

/// Finds where one request ends and the next head begins, in the bytes of a connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Framing {
    part: Part,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Part {
    /// A head comes next.
    #[default]
    Head,
    /// This many bytes of a body follow.
    Body(u64),
    /// The size of a chunk, as far as it was read.
    ChunkSize { size: u64, extension: bool },
    /// This many bytes of a chunk follow, with its line end.
    Chunk(u64),
    /// A line after the last chunk; empty so far.
    Trailers { empty: bool },
    /// The body is malformed. Its reader reports that, and the connection ends.
    Unknown,
}

/// What the inspected bytes are.
#[derive(Debug, PartialEq, Eq)]
pub enum HeadOutcome {
    /// All of them may be read.
    Whole,
    /// The last ones are the beginning of a head.
    Partial,
    /// The last ones are a refused head, or the beginning of one.
    Refused(HeadError),
}

impl Framing {
    /// Whether a head comes next, or the rest of one.
    pub fn expects_head(&self) -> bool {
        self.part == Part::Head
    }

    /// Continues with the bytes that came next, beginning with those of a head that was partial so
    /// far. Returns how many of them may be read.
    pub fn advance(&mut self, bytes: &[u8]) -> (usize, HeadOutcome) {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.part {
                Part::Head => match head(rest) {
                    Ok(Some((len, part))) => {
                        at += len;
                        self.part = part;
                    }
                    Ok(None) => return (at, HeadOutcome::Partial),
                    Err(refusal) => return (at, HeadOutcome::Refused(refusal)),
                },
                Part::Body(left) => {
                    at += take(left, rest);
                    if *left == 0 {
                        self.part = Part::Head;
                    }
                }
                Part::Chunk(left) => {
                    at += take(left, rest);
                    if *left == 0 {
                        self.part = Part::ChunkSize {
                            size: 0,
                            extension: false,
                        };
                    }
                }
                Part::ChunkSize { size, extension } => {
                    at += 1;
                    match (rest[0], *extension) {
                        (b'\n', _) if *size == 0 => self.part = Part::Trailers { empty: true },
                        (b'\n', _) => match size.checked_add(2) {
                            Some(size) => self.part = Part::Chunk(size),
                            None => self.part = Part::Unknown,
                        },
                        (byte, false) => match (byte as char).to_digit(16) {
                            Some(digit) if *size >> 59 == 0 => {
                                *size = *size << 4 | u64::from(digit);
                            }
                            Some(_) => self.part = Part::Unknown,
                            None => *extension = true,
                        },
                        (_, true) => {}
                    }
                }
                Part::Trailers { empty } => {
                    at += 1;
                    match rest[0] {
                        b'\n' if *empty => self.part = Part::Head,
                        b'\n' => *empty = true,
                        b'\r' => {}
                        _ => *empty = false,
                    }
                }
                Part::Unknown => return (bytes.len(), HeadOutcome::Whole),
            }
        }
        (at, HeadOutcome::Whole)
    }
}

fn take(left: &mut u64, bytes: &[u8]) -> usize {
    let taken = usize::try_from(*left).map_or(bytes.len(), |left| left.min(bytes.len()));
    *left -= taken as u64;
    taken
}

/// A head's length and what follows it; `None` if the rest of it has not arrived yet.
fn head(bytes: &[u8]) -> Result<Option<(usize, Part)>, HeadError> {
    let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_HEADERS];
    let mut request = Request::new(&mut []);
    let len = match request.parse_with_uninit_headers(bytes, &mut headers) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Ok(None),
        Ok(Status::Partial) => return Err(too_large(bytes)),
        Err(error) => return Err(refusal(error)),
    };
    if len > MAX_HEAD_BYTES {
        return Err(too_large(bytes));
    }
    if !is_target(request.path.unwrap_or_default()) {
        return Err(HeadError::Malformed("The request's target is malformed."));
    }
    body_of(request.headers, request.version == Some(1)).map(|part| Some((len, part)))
}

/// The part of a head that is too large: its first line, or the fields after it. The result does
/// not depend on how much of it was read.
fn too_large(bytes: &[u8]) -> HeadError {
    if bytes[..MAX_HEAD_BYTES].contains(&b'\n') {
        HeadError::TooLarge
    } else {
        HeadError::TargetTooLong
    }
}

fn refusal(error: Error) -> HeadError {
    HeadError::Malformed(match error {
        Error::TooManyHeaders => return HeadError::TooManyFields,
        Error::HeaderName => "The name of a header field is malformed.",
        Error::HeaderValue => "The value of a header field is malformed.",
        Error::Version => "The request's version is not HTTP/1.1 or HTTP/1.0.",
        Error::NewLine => "A line of the request's head has an invalid end.",
        Error::Token | Error::Status => "The request's first line is malformed.",
    })
}

/// Whether hyper accepts the target.
fn is_target(target: &str) -> bool {
    let usual = target.starts_with('/')
        && target
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"/-_.~:?&=%+,;@!$'()*".contains(&byte));
    usual || target.parse::<Uri>().is_ok()
}

/// What follows a head with these fields (RFC 9112, 3.2 and 6.3). If proxies and servers could
/// disagree on the end of the request, it is refused.
fn body_of(headers: &[Header<'_>], is_http_11: bool) -> Result<Part, HeadError> {
    let mut hosts = 0;
    let mut length = None;
    let mut chunked = false;
    for header in headers {
        let (name, value) = (header.name, header.value);
        if name.eq_ignore_ascii_case("host") {
            hosts += 1;
            if !value.iter().all(|byte| is_of_host(*byte)) {
                return Err(HeadError::Malformed("Host is malformed."));
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let value = std::str::from_utf8(value).ok().filter(|_| digits);
            let value: Option<u64> = value.and_then(|value| value.parse().ok());
            // hyper reserves the largest numbers.
            let value = value.filter(|value| *value < u64::MAX - 2);
            match (value, length) {
                (Some(value), None) => length = Some(value),
                (Some(value), Some(known)) if value == known => {}
                _ => return Err(HeadError::Malformed("Content-Length is malformed.")),
            }
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !is_http_11 || !value.eq_ignore_ascii_case(b"chunked") {
                return Err(HeadError::Malformed("Transfer-Encoding is not chunked."));
            }
            chunked = true;
        }
    }
    match hosts {
        1 => {}
        0 if !is_http_11 => {}
        0 => return Err(HeadError::Malformed("Host is missing.")),
        _ => return Err(HeadError::Malformed("Host is there more than once.")),
    }
    match (chunked, length) {
        (true, Some(_)) => Err(HeadError::Malformed(
            "Content-Length and Transfer-Encoding are there both.",
        )),
        (true, None) => Ok(Part::ChunkSize {
            size: 0,
            extension: false,
        }),
        (false, None | Some(0)) => Ok(Part::Head),
        (false, Some(length)) => Ok(Part::Body(length)),
    }
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~:[]!$&'()*+,;=%".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &[u8] = b"GET /v1/landing?a=%3A HTTP/1.1\r\nhost: a.example:8080\r\n\r\n";

    /// All bytes at once, and one by one as a slow sender's: both must say the same.
    fn judge(bytes: &[u8]) -> (usize, HeadOutcome) {
        let at_once = Framing::default().advance(bytes);
        let mut framing = Framing::default();
        let (mut passed, mut held) = (0, Vec::new());
        let mut outcome = HeadOutcome::Whole;
        for byte in bytes {
            held.push(*byte);
            let (taken, next) = framing.advance(&held);
            held.drain(..taken);
            passed += taken;
            outcome = next;
            if matches!(outcome, HeadOutcome::Refused(_)) {
                break;
            }
        }
        assert_eq!((passed, &outcome), (at_once.0, &at_once.1));
        at_once
    }

    #[test]
    fn requests_follow_one_another_whatever_their_bodies_hold() {
        let posts: [&[u8]; 4] = [
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 16\r\n\r\nGET / HTTP/1.1\r\n",
            b"POST / HTTP/1.1\r\nHost:a\r\nContent-Length: 0\r\n\r\n",
            b"POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n\
              5;a=b\r\n\r\n\r\nG\r\n00A\r\n0123456789\r\n0\r\nx: y\r\n\r\n",
            b"\r\nPOST / HTTP/1.0\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\nx",
        ];
        let mut all = Vec::new();
        for post in posts {
            let whole = [post, GET].concat();
            assert_eq!(judge(&whole), (whole.len(), HeadOutcome::Whole));
            let bad = [post, b"bad\r\n\r\n"].concat();
            let (passed, outcome) = judge(&bad);
            assert_eq!(passed, post.len());
            assert!(matches!(outcome, HeadOutcome::Refused(_)), "{outcome:?}");
            all.extend_from_slice(post);
        }
        assert_eq!(judge(&all), (all.len(), HeadOutcome::Whole));
        let partial = [posts[0], &GET[..20]].concat();
        assert_eq!(judge(&partial), (posts[0].len(), HeadOutcome::Partial));
    }

    #[test]
    fn what_is_no_request_is_refused_by_what_is_wrong() {
        for (head, word) in [
            ("GET / HTTP/1.1\r\n\r\n", "missing"),
            (
                "GET / HTTP/1.1\r\nhost: a\r\nHost: a\r\n\r\n",
                "more than once",
            ),
            (
                "GET / HTTP/1.0\r\nhost: a\r\nhost: b\r\n\r\n",
                "more than once",
            ),
            ("GET / HTTP/1.1\r\nhost: a b\r\n\r\n", "Host is malformed"),
            ("GET / HTTP/1.1\r\nhost: a/b\r\n\r\n", "Host is malformed"),
            ("GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n", "name"),
            ("GET / HTTP/1.1\r\nhost: a\r\nx: \u{1}\r\n\r\n", "value"),
            ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", "HTTP/1.1"),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/1.1"),
            ("\u{16}\u{3}\u{1}", "first line"),
            ("GET http:// HTTP/1.1\r\nhost: a\r\n\r\n", "target"),
            (
                "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\n",
                "Length",
            ),
            (
                "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: \r\n\r\n",
                "Length",
            ),
            (
                "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 18446744073709551616\r\n\r\n",
                "Length",
            ),
            (
                "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
                "Length",
            ),
            (
                "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\r\n",
                "Transfer-Encoding",
            ),
            (
                "GET / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n",
                "Transfer-Encoding",
            ),
            (
                "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
                "both",
            ),
        ] {
            match judge(head.as_bytes()) {
                (0, HeadOutcome::Refused(HeadError::Malformed(why))) => {
                    assert!(why.contains(word), "{head:?}: {why}");
                }
                other => panic!("{head:?}: {other:?}"),
            }
        }
        for head in [
            "GET / HTTP/1.0\r\n\r\n",
            "OPTIONS * HTTP/1.1\r\nhost:\r\n\r\n",
            "GET http://a/b HTTP/1.1\r\nhost: a\r\n\r\n",
            "GET /{\"a\"|b} HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
        ] {
            assert_eq!(
                judge(head.as_bytes()),
                (head.len(), HeadOutcome::Whole),
                "{head:?}"
            );
        }
    }

    #[test]
    fn heads_are_bounded() {
        let refused = |head: String| Framing::default().advance(head.as_bytes()).1;
        let fields = |count: usize| "x: y\r\n".repeat(count);
        let head = |fields: String| format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
        assert_eq!(refused(head(fields(99))), HeadOutcome::Whole);
        assert_eq!(
            refused(head(fields(100))),
            HeadOutcome::Refused(HeadError::TooManyFields)
        );
        let large = head(format!("x: {}\r\n", "y".repeat(MAX_HEAD_BYTES)));
        assert_eq!(refused(large), HeadOutcome::Refused(HeadError::TooLarge));
        let unended = format!("GET / HTTP/1.1\r\nhost: {}", "y".repeat(MAX_HEAD_BYTES));
        assert_eq!(refused(unended), HeadOutcome::Refused(HeadError::TooLarge));
        let long = format!("GET /{}", "y".repeat(MAX_HEAD_BYTES));
        assert_eq!(
            refused(long.clone()),
            HeadOutcome::Refused(HeadError::TargetTooLong)
        );
        let whole = format!("{long} HTTP/1.1\r\nhost: a\r\n\r\n");
        assert_eq!(
            refused(whole),
            HeadOutcome::Refused(HeadError::TargetTooLong)
        );
    }
}
