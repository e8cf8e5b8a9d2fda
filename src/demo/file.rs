//! Rides of a file, in place of simulated ones.

use std::path::Path;

use anyhow::Context as _;

use crate::domain::ride::Ride;
use crate::ride_file::{self, Format};

/// The most rides that are taken; more might not fit into memory or into a run.
const MAX_RIDES: usize = 100_000;

/// The content of a file.
pub(super) struct Rides {
    pub(super) rides: Vec<Ride>,
    /// Rows that are not valid rides.
    pub(super) malformed: u64,
    /// There were more rides.
    pub(super) cut: bool,
}

/// Reads a file of rides: NDJSON of contract 4.1 if it begins with a brace, otherwise trips of the
/// DEBS 2015 Grand Challenge; plain or gzip.
pub(super) async fn read(path: &Path) -> anyhow::Result<Rides> {
    let open = async || {
        tokio::fs::File::open(path)
            .await
            .with_context(|| format!("opening {}", path.display()))
    };
    let reading = || format!("reading {}", path.display());
    let format = format_of(open().await?).await.with_context(reading)?;
    let mut rows = ride_file::open(open().await?, format, None)
        .await
        .with_context(reading)?;
    let mut read = Rides {
        rides: Vec::new(),
        malformed: 0,
        cut: false,
    };
    while let Some(row) = rows.next().await.with_context(reading)? {
        let line = row.line;
        match row.ride() {
            Ok(_) if read.rides.len() == MAX_RIDES => {
                read.cut = true;
                break;
            }
            Ok(ride) => read.rides.push(ride),
            Err(reason) => {
                read.malformed += 1;
                tracing::warn!(line, reason, "not a ride, skipped");
            }
        }
    }
    Ok(read)
}

async fn format_of(file: tokio::fs::File) -> std::io::Result<Format> {
    use tokio::io::AsyncBufReadExt as _;

    let mut text = crate::input::gunzipped(file).await?;
    loop {
        let bytes = text.fill_buf().await?;
        // Blank lines and a byte order mark may come first.
        let skipped = b" \t\r\n\xef\xbb\xbf";
        match bytes.iter().find(|byte| !skipped.contains(byte)) {
            Some(b'{') => return Ok(Format::Ndjson),
            Some(_) => return Ok(Format::Debs2015),
            None if bytes.is_empty() => return Ok(Format::Ndjson),
            None => {
                let length = bytes.len();
                text.consume(length);
            }
        }
    }
}
