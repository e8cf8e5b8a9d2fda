//! The import of pre-offers (contract 7). It reads lines of any length and writes them in batches,
//! each in a transaction of its own. After an interruption the committed batches stay, and a repeat
//! finds them.

use std::io;
use std::path::Path;

use tokio::io::{AsyncBufRead, AsyncRead};

use crate::domain::fields::shown;
use crate::input::{self, Line, Lines, MAX_LINE_BYTES};
use crate::store::audit::Author;
use crate::store::audit::IMPORT_CALL;
use crate::store::pre_offers::{DryRunImport, ImportAudit, NumberedLine};
use crate::store::{Store, StoreError};
use crate::wire::pre_offer::{
    self, BadLine, CsvColumns, CsvRecord, ImportReport, LOST_LINE_ENDS, MAX_REJECTIONS,
    PreOfferLine, Rejection, UNKNOWN_PROMOTION_KEY,
};

/// Valid lines per transaction.
const BATCH_LINES: usize = 1_000;

/// Lines, valid or not, between two reports of progress.
const REPORT_EVERY_LINES: u64 = 1_000;

/// The format of the lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// A JSON object per line.
    Ndjson,
    /// CSV with a header.
    Csv,
    /// Detected by the first character: NDJSON begins with a brace, anything else is CSV.
    Detect,
}

impl Format {
    /// The format of a `Content-Type`, parameters ignored; `None` if it names another format.
    pub fn of_content_type(content_type: &str) -> Option<Self> {
        let essence = content_type.split(';').next().unwrap_or_default().trim();
        match essence.to_ascii_lowercase().as_str() {
            "text/csv" | "application/csv" => Some(Self::Csv),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json" => Some(Self::Ndjson),
            _ => None,
        }
    }

    /// The format of a file's name, `.gz` ignored; [`Format::Detect`] if the name says nothing.
    pub fn of_file(path: &Path) -> Self {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.').map(|(_, extension)| extension) {
            Some("csv") => Self::Csv,
            Some("ndjson" | "jsonl" | "json") => Self::Ndjson,
            _ => Self::Detect,
        }
    }
}

/// Why an import stopped. The lines imported before stay.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The text cannot be read: a broken connection, a file that vanished, a truncated gzip file.
    #[error("cannot read on after line {line}: {source}")]
    Unreadable {
        /// The last line that was read.
        line: u64,
        /// Why.
        source: io::Error,
        /// The report of the lines up to there, which were imported.
        report: Box<ImportReport>,
    },
    /// The first line of a CSV is not a header with the required columns; nothing was imported.
    #[error("{0}")]
    BadHeader(String),
    /// The database did not accept a batch.
    #[error("cannot import the batch up to line {line}: {source}")]
    Store {
        /// The last line that was read.
        line: u64,
        /// Why.
        source: StoreError,
    },
}

/// Imports every line of a text, plain or gzip, in bounded memory. `actor` is the importer and `file`
/// the name of the text, for the audit. With `dry_run` nothing is changed, and the report says what an
/// import would come to. `progress` is called from time to time with the number of lines read.
pub async fn import_pre_offers<R>(
    store: &Store,
    reader: R,
    format: Format,
    actor: &str,
    file: Option<&str>,
    dry_run: bool,
    progress: impl FnMut(u64) + Send,
) -> Result<ImportReport, ImportError>
where
    R: AsyncRead + Unpin + Send,
{
    let at_start = |source| unreadable(1, source);
    let mut lines = Lines::new(input::gunzipped(reader).await.map_err(at_start)?);
    let format = match format {
        Format::Detect => match lines.peek().await.map_err(at_start)? {
            Some(b'{') => Format::Ndjson,
            _ => Format::Csv,
        },
        named => named,
    };
    let tried = if dry_run {
        let begun = store.try_import().await;
        Some(begun.map_err(|source| ImportError::Store { line: 0, source })?)
    } else {
        None
    };
    let mut import = Import {
        store,
        tried,
        journal: ImportAudit {
            file: file.map(str::to_owned),
            author: Author {
                actor: actor.to_owned(),
                call: IMPORT_CALL.to_owned(),
            },
            audit_id: None,
            before: ImportReport::default().counts,
        },
        batch: Vec::new(),
        rejections: Vec::new(),
        listed: Vec::new(),
        progress,
    };
    let mut read = match format {
        Format::Csv => import.read_csv(lines).await,
        Format::Ndjson | Format::Detect => import.read_ndjson(lines).await,
    };
    // The lines read before the error are imported too.
    if let Err(ImportError::Unreadable { line, report, .. }) = &mut read {
        import.flush(*line).await?;
        **report = import.report();
        return read.map(|()| ImportReport::default());
    }
    read?;
    Ok(import.report())
}

struct Import<'s, P> {
    store: &'s Store,
    /// Set where the import is only tried.
    tried: Option<DryRunImport>,
    /// The report so far. Its counts leave out the valid lines that wait in `batch`, except for
    /// `read`.
    journal: ImportAudit,
    batch: Vec<NumberedLine>,
    /// Rejections since the last batch, not sorted: the batch may add some of earlier lines.
    rejections: Vec<Rejection>,
    listed: Vec<Rejection>,
    progress: P,
}

impl<P: FnMut(u64) + Send> Import<'_, P> {
    /// The final report, after the last batch was imported.
    fn report(&mut self) -> ImportReport {
        ImportReport {
            counts: self.journal.before,
            rejections: std::mem::take(&mut self.listed),
            dry_run: self.tried.is_some(),
        }
    }

    async fn read_ndjson<R>(&mut self, mut lines: Lines<R>) -> Result<(), ImportError>
    where
        R: AsyncBufRead + Unpin + Send,
    {
        loop {
            let number = lines.number() + 1;
            let read = lines.next().await;
            let Some(line) = read.map_err(|source| unreadable(number, source))? else {
                break;
            };
            let read = match line {
                Line::TooLong => Some(Err(too_long())),
                Line::Whole(line) => pre_offer::from_json(line),
            };
            if let Some(read) = read {
                self.take(number, read).await?;
            }
        }
        self.flush(lines.number()).await
    }

    async fn read_csv<R>(&mut self, lines: Lines<R>) -> Result<(), ImportError>
    where
        R: AsyncBufRead + Unpin + Send,
    {
        let mut records = CsvRecords::new(lines);
        let Some((number, header)) = records.next().await? else {
            return Ok(());
        };
        let columns = header
            .map_err(|bad| bad.reason)
            .and_then(|()| CsvColumns::from_header(records.record.cells()))
            .map_err(|reason| ImportError::BadHeader(format!("line {number}: {reason}")))?;
        let mut last = number;
        while let Some((number, record)) = records.next().await? {
            let read = record.and_then(|()| columns.read(&records.record));
            self.take(number, read).await?;
            last = number;
        }
        // A file without rows is valid; a header whose line end is missing is an error.
        if self.journal.before.read == 0
            && let Some(value) = columns.value_as_name()
        {
            return Err(ImportError::BadHeader(format!(
                "line {number}: the header has the value {} and no row follows{LOST_LINE_ENDS}",
                shown(&format!("{value:?}"))
            )));
        }
        self.flush(last).await
    }

    async fn take(
        &mut self,
        number: u64,
        read: Result<PreOfferLine, BadLine>,
    ) -> Result<(), ImportError> {
        self.journal.before.read += 1;
        match read {
            Ok(line) => self.batch.push(NumberedLine { number, line }),
            Err(bad) => {
                self.journal.before.rejected += 1;
                if self.listed.len() + self.rejections.len() < MAX_REJECTIONS {
                    self.rejections.push(bad.at(number));
                }
            }
        }
        if self.batch.len() >= BATCH_LINES {
            self.flush(number).await?;
        }
        let read = self.journal.before.read;
        if read.is_multiple_of(REPORT_EVERY_LINES) {
            (self.progress)(read);
        }
        Ok(())
    }

    async fn flush(&mut self, line: u64) -> Result<(), ImportError> {
        // Also without a valid line, if the audit has an entry, because bad lines may have
        // followed.
        if !self.batch.is_empty() || self.journal.audit_id.is_some() {
            let batch = std::mem::take(&mut self.batch);
            let imported = match &mut self.tried {
                Some(tried) => tried.import(&batch, &self.journal).await,
                None => {
                    let journal = self.journal.clone();
                    self.store.import_pre_offers(batch, journal).await
                }
            };
            let imported = imported.map_err(|source| ImportError::Store { line, source })?;
            self.journal.before = imported.counts;
            self.journal.audit_id = imported.audit_id;
            for (line, product_id) in imported.unknown_products {
                self.rejections.push(Rejection {
                    line,
                    field: Some("product_id".to_owned()),
                    reason: format!("must be a known product, got {product_id}"),
                    imported: false,
                });
            }
            for line in imported.unknown_promotion_keys {
                self.rejections.push(Rejection {
                    line,
                    field: Some("promotion_key".to_owned()),
                    reason: UNKNOWN_PROMOTION_KEY.to_owned(),
                    imported: true,
                });
            }
            self.rejections.sort_by_key(|rejection| rejection.line);
        }
        let room = MAX_REJECTIONS - self.listed.len();
        self.rejections.truncate(room);
        self.listed.append(&mut self.rejections);
        Ok(())
    }
}

fn unreadable(number: u64, source: io::Error) -> ImportError {
    ImportError::Unreadable {
        line: number.saturating_sub(1),
        source,
        report: Box::default(),
    }
}

fn too_long() -> BadLine {
    BadLine::whole(format!("must be at most {MAX_LINE_BYTES} bytes long"))
}

/// The records of a CSV. If a quote never closes, or closes wrongly, only the record's first line
/// is rejected. The lines after it are read again as records of their own.
struct CsvRecords<R> {
    lines: Lines<R>,
    /// Lines to read before those of `lines`, last first.
    again: Vec<NumberedText>,
    /// The record that [`CsvRecords::next`] read last.
    record: CsvRecord,
}

/// A line with its number.
type NumberedText = (u64, Result<String, BadLine>);

impl<R: AsyncBufRead + Unpin> CsvRecords<R> {
    fn new(lines: Lines<R>) -> Self {
        Self {
            lines,
            again: Vec::new(),
            record: CsvRecord::default(),
        }
    }

    /// Reads the next record that is not blank. Returns the number of its first line, and whether
    /// it is well formed.
    async fn next(&mut self) -> Result<Option<(u64, Result<(), BadLine>)>, ImportError> {
        self.record.clear();
        let (first, line) = loop {
            match self.next_line().await? {
                None => return Ok(None),
                Some((_, Ok(line))) if line.trim().is_empty() => {}
                Some((number, Ok(line))) => break (number, line),
                Some((number, Err(bad))) => return Ok(Some((number, Err(bad)))),
            }
        };
        let mut bytes = line.len();
        let mut complete = self.record.push_line(&line);
        let mut more = Vec::new();
        while complete == Ok(false) {
            let Some((number, line)) = self.next_line().await? else {
                complete = Err(BadLine::whole("a quote is opened and never closed"));
                break;
            };
            complete = match &line {
                Ok(line) => {
                    bytes += 1 + line.len();
                    if bytes > MAX_LINE_BYTES {
                        Err(BadLine::whole(format!(
                            "a quote is open for more than {MAX_LINE_BYTES} bytes"
                        )))
                    } else {
                        self.record.push_line(line)
                    }
                }
                Err(bad) => Err(BadLine::whole(format!(
                    "a quote is open at line {number}, which {}",
                    bad.reason
                ))),
            };
            more.push((number, line));
        }
        if complete.is_err() {
            self.again.extend(more.into_iter().rev());
        }
        Ok(Some((first, complete.map(|_| ()))))
    }

    async fn next_line(&mut self) -> Result<Option<NumberedText>, ImportError> {
        if let Some(line) = self.again.pop() {
            return Ok(Some(line));
        }
        let number = self.lines.number() + 1;
        let read = self.lines.next().await;
        let line = match read.map_err(|source| unreadable(number, source))? {
            None => return Ok(None),
            Some(Line::TooLong) => Err(too_long()),
            Some(Line::Whole(line)) => pre_offer::text_of(line).map(str::to_owned),
        };
        Ok(Some((number, line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn records_of(text: &str) -> Vec<(u64, Result<Vec<String>, String>)> {
        let mut records = CsvRecords::new(Lines::new(text.as_bytes()));
        let mut read = Vec::new();
        while let Some((number, record)) = records.next().await.expect("memory") {
            let cells = records.record.cells().map(str::to_owned).collect();
            read.push((number, record.map(|()| cells).map_err(|bad| bad.reason)));
        }
        read
    }

    fn good(number: u64, cells: &[&str]) -> (u64, Result<Vec<String>, String>) {
        let cells = cells.iter().map(|cell| (*cell).to_owned()).collect();
        (number, Ok(cells))
    }

    #[tokio::test]
    async fn a_record_has_the_number_of_its_first_line() {
        assert_eq!(
            records_of("\u{feff}a,b\r\n\r\n1,\"x\r\n\r\ny\"\r\n2,z").await,
            [
                good(1, &["a", "b"]),
                good(3, &["1", "x\n\ny"]),
                good(6, &["2", "z"])
            ]
        );
    }

    #[tokio::test]
    async fn a_broken_quote_costs_its_own_line_only() {
        let never_closed = records_of("1,\"x\n2,y\n3,z").await;
        assert!(never_closed[0].1.is_err() && never_closed[0].0 == 1);
        assert_eq!(
            never_closed[1..],
            [good(2, &["2", "y"]), good(3, &["3", "z"])]
        );

        let closed_wrongly = records_of("1,\"x\n2,\"y\"\n3,\"z\"\n").await;
        assert!(closed_wrongly[0].1.is_err());
        assert_eq!(
            closed_wrongly[1..],
            [good(2, &["2", "y"]), good(3, &["3", "z"])]
        );

        let rows = 20_000_u64;
        let mut long = "0,\"x\n".to_owned();
        for row in 0..rows {
            long.push_str(&format!("{row},y\n"));
        }
        let read = records_of(&long).await;
        assert_eq!(read.len() as u64, rows + 1);
        assert!(
            read[0]
                .1
                .as_ref()
                .expect_err("open")
                .contains("for more than")
        );
        assert!(read[1..].iter().all(|(_, record)| record.is_ok()));

        let nul = records_of("1,\"x\n\0\n3,\"z\"\n").await;
        assert!(nul[0].1.as_ref().expect_err("open").contains("line 2"));
        assert!(nul[1].1.as_ref().expect_err("NUL").contains("NUL"));
        assert_eq!(nul[2], good(3, &["3", "z"]));
    }

    #[test]
    fn a_format_is_told_by_type_or_name() {
        for (content_type, format) in [
            ("text/csv; charset=utf-8", Some(Format::Csv)),
            ("Application/X-NDJSON", Some(Format::Ndjson)),
            ("application/json", Some(Format::Ndjson)),
            ("application/octet-stream", None),
            ("", None),
        ] {
            assert_eq!(Format::of_content_type(content_type), format);
        }
        for (name, format) in [
            ("a/b.csv", Format::Csv),
            ("b.CSV.gz", Format::Csv),
            ("b.jsonl.gz", Format::Ndjson),
            ("b.json", Format::Ndjson),
            ("export-000000000000", Format::Detect),
            ("b.gz", Format::Detect),
            ("-", Format::Detect),
        ] {
            assert_eq!(Format::of_file(Path::new(name)), format, "{name}");
        }
    }
}
