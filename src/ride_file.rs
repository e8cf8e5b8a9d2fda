//! Files of rides: NDJSON of ride-completed events, or trips of the DEBS 2015 Grand Challenge,
//! read row by row. Used by every command that takes such a file.

use std::io;

use chrono::DateTime;
use tokio::io::AsyncRead;

use crate::domain::Instant;
use crate::domain::ride::{Ride, RideRecord};
use crate::input::{self, Line, Lines, MAX_LINE_BYTES};
use crate::wire::{debs2015, format_instant, ride_completed};

/// The format of rides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One ride-completed event (contract 4.1) per line.
    Ndjson,
    /// Taxi trips of the DEBS 2015 Grand Challenge.
    Debs2015,
}

/// A row of a file of rides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Counted from 1.
    pub line: u64,
    /// The ride with its original instant, or a reversal; or the fault of the row.
    pub record: Result<RideRecord, String>,
}

impl Row {
    /// The ride, where only a ride is possible.
    pub fn ride(self) -> Result<Ride, String> {
        match self.record? {
            RideRecord::Completed(ride) => Ok(ride),
            RideRecord::Reversed(_) => {
                Err("reversed_ride_id a reversal is not possible here".to_owned())
            }
        }
    }
}

/// The rides of a text, plain or gzip, one after the other, in bounded memory.
pub struct Rides<'a> {
    lines: Lines<input::Input<'a>>,
    format: Format,
    not_after: Instant,
}

/// Opens a text of rides. A ride that was completed more than five minutes after `not_after` is
/// malformed, as it would be on the topic; `None` allows any instant.
pub async fn open<'a, R>(
    reader: R,
    format: Format,
    not_after: Option<Instant>,
) -> io::Result<Rides<'a>>
where
    R: AsyncRead + Send + Unpin + 'a,
{
    Ok(Rides {
        lines: Lines::new(input::gunzipped(reader).await?),
        format,
        not_after: not_after.unwrap_or(DateTime::<chrono::Utc>::MAX_UTC),
    })
}

impl Rides<'_> {
    /// The next row that is not blank; `None` at the end.
    pub async fn next(&mut self) -> io::Result<Option<Row>> {
        loop {
            let line = self.lines.number() + 1;
            let record = match self.lines.next().await? {
                None => return Ok(None),
                Some(Line::TooLong) => Err(format!("must be at most {MAX_LINE_BYTES} bytes long")),
                Some(Line::Whole(bytes)) if bytes.trim_ascii().is_empty() => continue,
                Some(Line::Whole(bytes)) => read_row(bytes, self.format, self.not_after),
            };
            return Ok(Some(Row { line, record }));
        }
    }

    /// The number of lines read.
    pub fn lines_read(&self) -> u64 {
        self.lines.number()
    }
}

fn read_row(bytes: &[u8], format: Format, not_after: Instant) -> Result<RideRecord, String> {
    let record = match format {
        Format::Ndjson => {
            ride_completed::decode(bytes, not_after).map_err(|rejected| rejected.detail)
        }
        Format::Debs2015 => std::str::from_utf8(bytes)
            .map_err(|error| format!("must be UTF-8: {error}"))
            .and_then(debs2015::ride)
            .map(RideRecord::Completed),
    }?;
    if let RideRecord::Completed(ride) = &record
        && ride.completed_at - not_after > ride_completed::MAX_AHEAD
    {
        let completed_at = format_instant(ride.completed_at);
        return Err(format!("must not be in the future, is of {completed_at}"));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_of_trips_is_read_past_its_bad_rows() {
        let text = "a,b\n\n07290D3599E7A0D62097A346EFCC1FB5,E7750A37CAB07D0DFF0AF7E3573AC141,2013-01-01 00:00:00,2013-01-01 00:02:00,120,0.44,-73.956528,40.716976,-73.962440,40.715008,CSH,3.50,0.50,0.50,0.00,0.00,4.50\r\n\u{feff}";
        let mut rides = open(text.as_bytes(), Format::Debs2015, None)
            .await
            .expect("memory");
        let mut read = Vec::new();
        while let Some(row) = rides.next().await.expect("memory") {
            read.push((row.line, row.record.is_ok()));
        }
        assert_eq!(read, [(1, false), (3, true), (4, false)]);
    }
}
