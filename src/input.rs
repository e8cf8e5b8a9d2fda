//! Files of lines, of any size, in bounded memory: gunzipped where they are gzip, split into
//! numbered lines, one that is too long passed over.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use async_compression::tokio::bufread::GzipDecoder;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader, ReadBuf};

/// The longest line that is looked into, in bytes and without its line end.
pub const MAX_LINE_BYTES: usize = 64 * 1024;

/// How much is read from a file at once.
const BUFFER_BYTES: usize = 64 * 1024;

const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Text to read, whatever it comes from.
pub type Input<'a> = Box<dyn AsyncBufRead + Send + Unpin + 'a>;

/// A file that is being read.
pub struct Opened {
    /// Its text.
    pub text: Input<'static>,
    /// Its size in bytes as stored; `None` where nobody knows (a pipe).
    pub bytes_total: Option<u64>,
    /// How many of those bytes have been read.
    pub bytes_read: Arc<AtomicU64>,
}

/// Opens a file, or standard input for `-`; gunzips it where it is gzip.
pub async fn open(path: &Path) -> io::Result<Opened> {
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

async fn opened<R>(reader: R, bytes_total: Option<u64>) -> io::Result<Opened>
where
    R: AsyncRead + Send + Unpin + 'static,
{
    let bytes_read = Arc::new(AtomicU64::new(0));
    let counted = Counted {
        reader,
        bytes_read: Arc::clone(&bytes_read),
    };
    Ok(Opened {
        text: gunzipped(counted).await?,
        bytes_total,
        bytes_read,
    })
}

/// The text of a reader, gunzipped where its first bytes say that it is gzip. No text begins with
/// those bytes, so an HTTP body may be handed in whatever its `Content-Encoding` says.
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
    let mut decoder = GzipDecoder::new(whole);
    // Big exports are several gzip files one after the other.
    decoder.multiple_members(true);
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, decoder)))
}

struct Counted<R> {
    reader: R,
    bytes_read: Arc<AtomicU64>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Counted<R> {
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

/// A line without its end, or that it is longer than [`MAX_LINE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// All of it; a carriage return at its end is cut off, as is a byte order mark before the
    /// first line.
    Whole(&'a [u8]),
    /// Passed over.
    TooLong,
}

/// The lines of a text, counted from 1. Ends with `\n` or `\r\n`, and at the end of the text.
#[derive(Debug)]
pub struct Lines<R> {
    reader: R,
    line: Vec<u8>,
    number: u64,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Of this text.
    pub fn new(reader: R) -> Self {
        Self {
            reader,
            line: Vec::new(),
            number: 0,
        }
    }

    /// The number of the line that [`Lines::next`] has just handed out.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next line; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        self.line.clear();
        let mut begun = false;
        let mut too_long = false;
        loop {
            let available = self.reader.fill_buf().await?;
            if available.is_empty() {
                if !begun {
                    return Ok(None);
                }
                break;
            }
            begun = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let part = &available[..end.unwrap_or(available.len())];
            // Room for what is cut off again: the mark and the carriage return.
            too_long |= self.line.len() + part.len() > MAX_LINE_BYTES + 4;
            if !too_long {
                self.line.extend_from_slice(part);
            }
            let consumed = part.len() + usize::from(end.is_some());
            self.reader.consume(consumed);
            if end.is_some() {
                break;
            }
        }
        self.number += 1;
        let mut line = self.line.as_slice();
        if self.number == 1 {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok(Some(if too_long || line.len() > MAX_LINE_BYTES {
            Line::TooLong
        } else {
            Line::Whole(line)
        }))
    }

    /// The first byte of the text that is no white space and no byte order mark, looked at without
    /// taking it; `None` where the beginning holds no other.
    pub async fn peek(&mut self) -> io::Result<Option<u8>> {
        let available = self.reader.fill_buf().await?;
        let text = available.strip_prefix(b"\xef\xbb\xbf").unwrap_or(available);
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
    async fn lines_end_in_either_way_and_at_the_end() {
        for buffer in [1, 2, 3, 64] {
            assert_eq!(
                lines_of(b"\xef\xbb\xbfa\r\n\nb\r\r\nc", buffer).await,
                some(&["a", "", "b\r", "c"])
            );
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
        assert!(text_of(torn).await.is_err());
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
