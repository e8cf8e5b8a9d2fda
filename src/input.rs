//! Line-based files of any size, read in bounded memory. Gzip files are decompressed. Lines are
//! numbered, and lines that are too long are skipped.

use std::io;
use std::mem;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use async_compression::tokio::bufread::GzipDecoder;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, ReadBuf};

/// The longest line that is read, in bytes without its line end.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// How much is read from a file at once.
const BUFFER_BYTES: usize = 64 * 1024;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// The byte order mark of UTF-8, which some programs write before a text.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// The byte order marks of UTF-16.
const UTF_16_MARKS: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];

/// Text from any source.
pub type Input<'a> = Box<dyn AsyncBufRead + Send + Unpin + 'a>;

/// A file that is being read.
pub struct OpenedInput {
    /// Its text.
    pub text: Input<'static>,
    /// Its stored size in bytes; `None` if unknown (a pipe).
    pub bytes_total: Option<u64>,
    /// How many of those bytes have been read.
    pub bytes_read: Arc<AtomicU64>,
}

/// Opens a file, or standard input for `-`. A gzip file is decompressed.
pub async fn open(path: &Path) -> io::Result<OpenedInput> {
    if path == Path::new("-") {
        return opened(tokio::io::stdin(), None).await;
    }
    let file = tokio::fs::File::open(path).await?;
    let metadata = file.metadata().await?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    opened(file, metadata.is_file().then_some(metadata.len())).await
}

async fn opened<R>(reader: R, bytes_total: Option<u64>) -> io::Result<OpenedInput>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let bytes_read = Arc::new(AtomicU64::new(0));
    let counted = CountingReader {
        reader,
        bytes_read: Arc::clone(&bytes_read),
    };
    Ok(OpenedInput {
        text: gunzipped(counted).await?,
        bytes_total,
        bytes_read,
    })
}

/// The text of a reader, decompressed if its first bytes are those of gzip. No text begins with
/// these bytes, so an HTTP body may be passed with any `Content-Encoding`.
pub async fn gunzipped<'a, R>(mut reader: R) -> io::Result<Input<'a>>
where
    R: AsyncRead + Send + Unpin + 'a,
{
    let mut start = [0; GZIP_MAGIC.len()];
    let mut length = 0;
    while length < start.len() {
        match reader.read(&mut start[length..]).await? {
            0 => break,
            read => length += read,
        }
    }
    let is_gzip = start == GZIP_MAGIC;
    let whole = io::Cursor::new(start).take(length as u64).chain(reader);
    let whole = BufReader::with_capacity(BUFFER_BYTES, whole);
    if !is_gzip {
        return Ok(Box::new(whole));
    }
    let members = Members::Text(GzipDecoder::new(whole));
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, members)))
}

/// Bytes after the end of a gzip file that are neither another gzip file nor padding. The text
/// before them is complete.
#[derive(Debug, thiserror::Error)]
#[error("the gzip file has ended, and other bytes follow that are not gzip")]
struct TrailingBytes;

/// The text of several gzip files in a row, as large exports write them. Zeros after the last one
/// are padding, as on tapes and block devices.
enum Members<R> {
    /// In a member.
    Text(GzipDecoder<R>),
    /// After a member.
    Behind { reader: R, padded: bool },
    /// At the end, or after an error.
    Ended,
}

impl<R: AsyncBufRead + Unpin> AsyncRead for Members<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            match &mut *self {
                Self::Text(decoder) => {
                    let before = buffer.filled().len();
                    ready!(Pin::new(decoder).poll_read(context, buffer)).map_err(torn)?;
                    if buffer.filled().len() > before || buffer.remaining() == 0 {
                        return Poll::Ready(Ok(()));
                    }
                    if let Self::Text(decoder) = mem::replace(&mut *self, Self::Ended) {
                        *self = Self::Behind {
                            reader: decoder.into_inner(),
                            padded: false,
                        };
                    }
                }
                Self::Behind { reader, padded } => {
                    let available = ready!(Pin::new(&mut *reader).poll_fill_buf(context))?;
                    let zeros = available.iter().take_while(|byte| **byte == 0).count();
                    if zeros > 0 {
                        *padded = true;
                        Pin::new(reader).consume(zeros);
                        continue;
                    }
                    match available.first() {
                        None => *self = Self::Ended,
                        Some(first) if *first == GZIP_MAGIC[0] && !*padded => {
                            if let Self::Behind { reader, .. } =
                                mem::replace(&mut *self, Self::Ended)
                            {
                                *self = Self::Text(GzipDecoder::new(reader));
                            }
                        }
                        Some(_) => {
                            *self = Self::Ended;
                            let error = io::Error::new(io::ErrorKind::InvalidData, TrailingBytes);
                            return Poll::Ready(Err(error));
                        }
                    }
                }
                Self::Ended => return Poll::Ready(Ok(())),
            }
        }
    }
}

/// Turns the decoder's error into one that names the cause.
fn torn(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => io::Error::new(error.kind(), "the gzip file is cut off"),
        _ => error,
    }
}

struct CountingReader<R> {
    reader: R,
    bytes_read: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> AsyncRead for CountingReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = Pin::new(&mut self.reader).poll_read(context, buffer);
        let read = buffer.filled().len() - before;
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
        result
    }
}

/// A line without its line end, or the information that it is longer than [`MAX_LINE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The whole line, without a byte order mark before the first line.
    Whole(&'a [u8]),
    /// The line was skipped.
    TooLong,
}

/// The lines of a text, counted from 1. A line ends with `\n`, `\r\n` or `\r`, in any mixture, or
/// with the text.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
    /// The line before ended with `\r`: a `\n` that follows belongs to that line end.
    after_return: bool,
    /// What [`Lines::next`] returns after the last line.
    failed: Option<io::Error>,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// The lines of this text.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            line: Vec::new(),
            number: 0,
            after_return: false,
            failed: None,
        }
    }

    /// The number of the line that [`Lines::next`] returned last.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line; `None` at the end. If an error cuts a line off, the line is not returned,
    /// because its end may be missing.
    pub async fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.line.clear();
        let mut begun = false;
        let mut too_long = false;
        loop {
            let mut available = match self.reader.fill_buf().await {
                Ok(available) => available,
                // The text before the error is complete.
                Err(error)
                    if begun && error.get_ref().is_some_and(|why| why.is::<TrailingBytes>()) =>
                {
                    self.failed = Some(error);
                    break;
                }
                Err(error) => return Err(error),
            };
            if mem::take(&mut self.after_return) && available.first() == Some(&b'\n') {
                self.reader.consume(1);
                continue;
            }
            if available.is_empty() {
                if !begun {
                    return Ok(None);
                }
                break;
            }
            begun = true;
            let end = available
                .iter()
                .position(|byte| matches!(byte, b'\n' | b'\r'));
            if let Some(end) = end {
                self.after_return = available[end] == b'\r';
                available = &available[..end];
            }
            // Leaves space for the byte order mark, which is removed below.
            too_long |= self.line.len() + available.len() > MAX_LINE_BYTES + MARK.len();
            if !too_long {
                self.line.extend_from_slice(available);
            }
            let consumed = available.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            if end.is_some() {
                break;
            }
        }
        let mut line = self.line.as_slice();
        if self.number == 0 {
            if UTF_16_MARKS.iter().any(|mark| line.starts_with(mark)) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "the text is UTF-16, by its byte order mark: convert it to UTF-8",
                ));
            }
            line = line.strip_prefix(MARK).unwrap_or(line);
        }
        self.number += 1;
        Ok(Some(if too_long || line.len() > MAX_LINE_BYTES {
            Line::TooLong
        } else {
            Line::Whole(line)
        }))
    }

    /// The first byte of the text that is neither white space nor a byte order mark, without
    /// consuming it; `None` if the beginning has no other.
    pub async fn peek(&mut self) -> io::Result<Option<u8>> {
        let available = self.reader.fill_buf().await?;
        let text = available.strip_prefix(MARK).unwrap_or(available);
        Ok(text
            .iter()
            .copied()
            .find(|byte| !byte.is_ascii_whitespace()))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    async fn lines_of(text: &[u8], buffer: usize) -> Vec<Option<String>> {
        let mut lines = Lines::new(BufReader::with_capacity(buffer, text));
        let mut read = Vec::new();
        while let Some(line) = lines.next().await.expect("memory") {
            read.push(match line {
                Line::Whole(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
                Line::TooLong => None,
            });
            assert_eq!(lines.number(), read.len() as u64);
        }
        read
    }

    fn some(lines: &[&str]) -> Vec<Option<String>> {
        lines.iter().map(|line| Some((*line).to_owned())).collect()
    }

    #[tokio::test]
    async fn lines_end_in_every_way_and_at_the_end() {
        for buffer in [1, 2, 3, 64] {
            assert_eq!(
                lines_of(b"\xef\xbb\xbfa\r\n\nb\r\r\nc", buffer).await,
                some(&["a", "", "b", "", "c"])
            );
            assert_eq!(
                lines_of(b"a\rb\r\rc\nd\r", buffer).await,
                some(&["a", "b", "", "c", "d"])
            );
            assert_eq!(lines_of(b"\r", buffer).await, some(&[""]));
            assert_eq!(lines_of(b"a\n", buffer).await, some(&["a"]));
            assert_eq!(lines_of(b"\n", buffer).await, some(&[""]));
            assert_eq!(lines_of(b"", buffer).await, some(&[]));
        }
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_passed_over_and_not_kept() {
        let longest = vec![b'x'; MAX_LINE_BYTES];
        let mut text = longest.clone();
        text.extend_from_slice(b"\r\nx");
        text.extend_from_slice(&longest);
        text.extend_from_slice(b"\r\n");
        text.extend(std::iter::repeat_n(b'y', 10 * MAX_LINE_BYTES));
        text.extend_from_slice(b"\nlast");
        for buffer in [7, BUFFER_BYTES] {
            let mut lines = Lines::new(BufReader::with_capacity(buffer, text.as_slice()));
            assert_eq!(
                lines.next().await.expect("memory"),
                Some(Line::Whole(&longest))
            );
            assert_eq!(lines.next().await.expect("memory"), Some(Line::TooLong));
            assert_eq!(lines.next().await.expect("memory"), Some(Line::TooLong));
            assert_eq!(
                lines.next().await.expect("memory"),
                Some(Line::Whole(b"last"))
            );
            assert_eq!(lines.next().await.expect("memory"), None);
            assert!(lines.line.capacity() <= 2 * (MAX_LINE_BYTES + 4));
        }
    }

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text).expect("memory");
        encoder.finish().expect("memory")
    }

    async fn text_of(stored: Vec<u8>) -> io::Result<String> {
        let mut text = String::new();
        gunzipped(io::Cursor::new(stored))
            .await?
            .read_to_string(&mut text)
            .await?;
        Ok(text)
    }

    #[tokio::test]
    async fn gzip_is_told_by_its_first_bytes_and_may_be_several_files() {
        for plain in ["", "\u{1f}", "a", "some text"] {
            assert_eq!(text_of(plain.into()).await.expect("plain"), plain);
        }
        let two = [gzip(b"one\n"), gzip(b"two\n")].concat();
        assert_eq!(text_of(two).await.expect("gzip"), "one\ntwo\n");
        let mut torn = gzip(b"some text that is long enough");
        torn.truncate(torn.len() - 9);
        let error = text_of(torn).await.expect_err("cut off");
        assert_eq!(error.to_string(), "the gzip file is cut off");
    }

    #[tokio::test]
    async fn zeros_after_gzip_are_padding_and_other_bytes_an_error_after_the_text() {
        for padding in [1, 512, 3 * BUFFER_BYTES] {
            let padded = [gzip(b"one\n"), gzip(b"two"), vec![0; padding]].concat();
            assert_eq!(text_of(padded).await.expect("padded"), "one\ntwo");
        }
        for after in [&b"x"[..], b"\0\0x", b"{\"a\": 1}\n"] {
            for text in [&b"one\ntwo"[..], b"one\ntwo\n"] {
                let stored = [&gzip(text), after].concat();
                let mut lines = Lines::new(gunzipped(stored.as_slice()).await.expect("gzip"));
                for line in [&b"one"[..], b"two"] {
                    assert_eq!(lines.next().await.expect("gzip"), Some(Line::Whole(line)));
                }
                let error = lines.next().await.expect_err("other bytes");
                assert!(error.to_string().contains("other bytes follow"), "{error}");
                assert_eq!(lines.number(), 2);
            }
        }
        // Of what looks like another file nothing is known: the line may go on there.
        let broken = [gzip(b"one\ntw"), GZIP_MAGIC.to_vec(), b"broken".to_vec()].concat();
        let mut lines = Lines::new(gunzipped(broken.as_slice()).await.expect("gzip"));
        assert_eq!(lines.next().await.expect("gzip"), Some(Line::Whole(b"one")));
        assert!(lines.next().await.is_err());
    }

    #[tokio::test]
    async fn utf_16_is_named() {
        for text in [&b"\xff\xfea\0\n\0"[..], b"\xfe\xff\0a\0\n"] {
            let error = Lines::new(text)
                .next()
                .await
                .expect_err("UTF-16")
                .to_string();
            assert!(error.contains("UTF-16"), "{error}");
        }
    }

    #[tokio::test]
    async fn a_file_says_how_far_it_was_read() {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(&gzip(b"some text")).expect("a file");
        let mut opened = open(file.path()).await.expect("a file");
        let mut text = String::new();
        opened.text.read_to_string(&mut text).await.expect("gzip");
        assert_eq!(text, "some text");
        assert_eq!(
            opened.bytes_total,
            Some(opened.bytes_read.load(Ordering::Relaxed))
        );
        assert!(open(Path::new("/")).await.is_err());
    }
}
