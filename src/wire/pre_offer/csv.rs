//! CSV (RFC 4180). The crate `csv-core` is not used, because it accepts every text: a quote that is never
//! closed would swallow the rows after it without an error.

use super::cells::{Cell, CellReader, Cells};
use super::{BadLine, FIELDS, PreOfferLine, REQUIRED};
use crate::domain::fields::shown;

/// Which column holds which field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvColumns {
    /// For each column its index in [`FIELDS`]; `None` for a column that is not used.
    fields: Vec<Option<usize>>,
    /// The name of each column.
    names: Vec<String>,
}

/// A column's name without the quotes that it keeps if the file has another separator.
fn unquoted(name: &str) -> &str {
    name.trim().trim_matches('"')
}

impl CsvColumns {
    /// Reads the header.
    pub fn from_header<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
        let fields: Vec<Option<usize>> = names
            .iter()
            .map(|name| FIELDS.iter().position(|field| field == name))
            .collect();
        let mut missing = Vec::new();
        for (index, field) in FIELDS.iter().enumerate() {
            match fields.iter().filter(|found| **found == Some(index)).count() {
                0 if index < REQUIRED => missing.push(*field),
                0 | 1 => {}
                _ => return Err(format!("the header has the column {field} more than once")),
            }
        }
        if missing.is_empty() {
            return Ok(Self { fields, names });
        }
        let mut reason = format!("the header lacks {}", missing.join(", "));
        let separators = [(';', "semicolons"), ('\t', "tabs"), ('|', "bars")];
        for (separator, separated_by) in separators {
            let split = names.iter().flat_map(|name| name.split(separator));
            let found = split
                .filter(|name| FIELDS.contains(&unquoted(name)))
                .count();
            if found > fields.iter().flatten().count() + 1 {
                reason.push_str(&format!(
                    "; it is separated by {separated_by}: separate the columns by commas"
                ));
            }
        }
        Err(reason)
    }

    /// The first column whose name is a number: a sign that rows were joined to the header.
    pub fn value_as_name(&self) -> Option<&str> {
        let is_number = |name: &&String| name.starts_with(|first: char| first.is_ascii_digit());
        self.names.iter().find(is_number).map(String::as_str)
    }

    /// Reads the cells of a record. An empty cell is null.
    pub fn read(&self, record: &CsvRecord) -> Result<PreOfferLine, BadLine> {
        let mut cells = Cells::default();
        let mut count = 0;
        for cell in record.cells() {
            if let Some(Some(field)) = self.fields.get(count)
                && !cell.is_empty()
            {
                cells.0[*field] = Some(Cell::Text(cell));
            }
            count += 1;
        }
        if count != self.fields.len() {
            return Err(BadLine::whole(format!(
                "must have {} cells as the header has, has {count}",
                self.fields.len()
            )));
        }
        CellReader::read(&cells)
    }
}

/// Splits lines into the cells of a CSV record (RFC 4180). A record may have several lines, because a quoted
/// cell may contain line breaks.
#[derive(Debug, Default)]
pub struct CsvRecord {
    text: String,
    /// Where each cell ends in `text`; the last end is known only when the record is complete.
    ends: Vec<usize>,
    in_quotes: bool,
}

impl CsvRecord {
    /// Resets it for the next record.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.in_quotes = false;
    }

    /// Takes the next line. `Ok(false)` means that a quote is open and the record continues on the next line.
    pub fn push_line(&mut self, line: &str) -> Result<bool, BadLine> {
        let mut rest = line;
        if self.in_quotes {
            self.text.push('\n');
        } else {
            match self.begin_cell(rest) {
                None => return Ok(true),
                Some(quoted) => rest = quoted,
            }
        }
        loop {
            let Some(quote) = rest.find('"') else {
                self.text.push_str(rest);
                self.in_quotes = true;
                return Ok(false);
            };
            self.text.push_str(&rest[..quote]);
            rest = &rest[quote + 1..];
            if let Some(after) = rest.strip_prefix('"') {
                self.text.push('"');
                rest = after;
                continue;
            }
            self.in_quotes = false;
            self.ends.push(self.text.len());
            if rest.is_empty() {
                return Ok(true);
            }
            let Some(after) = rest.strip_prefix(',') else {
                return Err(BadLine::whole(format!(
                    "a quoted cell must end at its closing quote, goes on with {}",
                    shown(rest)
                )));
            };
            match self.begin_cell(after) {
                None => return Ok(true),
                Some(quoted) => rest = quoted,
            }
        }
    }

    /// Takes unquoted cells: all that are left, then it returns `None`; or all before a quoted one, then it
    /// returns what follows the opening quote.
    fn begin_cell<'a>(&mut self, mut rest: &'a str) -> Option<&'a str> {
        loop {
            if let Some(quoted) = rest.strip_prefix('"') {
                return Some(quoted);
            }
            let (cell, after) = match rest.split_once(',') {
                Some((cell, after)) => (cell, Some(after)),
                None => (rest, None),
            };
            self.text.push_str(cell);
            self.ends.push(self.text.len());
            rest = after?;
        }
    }

    /// The cells of a complete record.
    pub fn cells(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(self.ends.iter())
            .map(|(start, end)| &self.text[start..*end])
    }
}
