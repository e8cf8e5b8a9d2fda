//! A line of a pre-offer import (contract 7), as BigQuery exports it in JSON or CSV.

use std::borrow::Cow;
use std::fmt::{self, Display};

use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::domain::fields::shown;
use crate::domain::reward::{CountryCode, CurrencyCode};
use crate::domain::{Instant, UserId, parse_instant};

/// The most rejections that a report lists.
pub const MAX_REJECTIONS: usize = 1_000;

/// The reason listed for a line that was imported without a promotion, because its
/// `promotion_key` names none.
pub const UNKNOWN_PROMOTION_KEY: &str = "UNKNOWN_PROMOTION_KEY";

/// A pre-approved loan as scoring wrote it, every field checked but for whether the product and the
/// promotion exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreOfferLine {
    /// Scoring's own name of it, by which a line is recognised when it comes again.
    pub external_id: String,
    /// The client.
    pub user_id: UserId,
    /// `newbie` or another.
    pub segment: String,
    /// The loan product.
    pub product_id: i64,
    /// The loan's amount in cents, at least 1.
    pub amount_cents: i64,
    /// The amount's currency.
    pub currency_code: CurrencyCode,
    /// A decimal number, exactly as it was written.
    pub repayment_rate: String,
    /// The client's country.
    pub country_code: CountryCode,
    /// It is valid before this; may be in the past.
    pub valid_until: Instant,
    /// The promotion it is meant for.
    pub promotion_key: Option<String>,
}

/// How many lines went which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ImportCounts {
    /// All lines, but for a header and empty ones.
    pub read: u64,
    /// New ones.
    pub imported: u64,
    /// Known ones that say something else now, or whose promotion has come to be.
    pub updated: u64,
    /// Known ones that say the same.
    pub unchanged: u64,
    /// Of the three above, those that have no promotion.
    pub without_promotion: u64,
    /// Bad ones, which changed nothing.
    pub rejected: u64,
}

/// What an import came to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ImportReport {
    /// How many lines went which way.
    #[serde(flatten)]
    pub counts: ImportCounts,
    /// The first 1,000 lines that were rejected or name an unknown promotion.
    pub rejections: Vec<Rejection>,
}

/// A line and what is wrong with it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Rejection {
    /// Counted from 1, a CSV's header included; where a record has several lines, its first.
    #[schema(example = 17)]
    pub line: u64,
    /// The field; `null` for the line as a whole.
    #[schema(required, value_type = Option<String>, example = "amount_cents")]
    pub field: Option<&'static str>,
    /// What it should have been and what it was, or `UNKNOWN_PROMOTION_KEY`.
    #[schema(example = "must be at least 1, got 0")]
    pub reason: String,
}

/// What is wrong with a line: the first bad field, and in words all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The field; `None` for the line as a whole.
    pub field: Option<&'static str>,
    /// What it should have been, and what it was.
    pub reason: String,
}

impl BadLine {
    /// Something about the line as a whole.
    pub fn whole(reason: impl Into<String>) -> Self {
        Self {
            field: None,
            reason: reason.into(),
        }
    }

    /// As the report lists it.
    pub fn at(self, line: u64) -> Rejection {
        Rejection {
            line,
            field: self.field,
            reason: self.reason,
        }
    }
}

/// The columns, in the contract's order; [`REQUIRED`] of them must be there.
const FIELDS: [&str; 10] = [
    "external_id",
    "user_id",
    "segment",
    "product_id",
    "amount_cents",
    "currency_code",
    "repayment_rate",
    "country_code",
    "valid_until",
    PROMOTION_KEY,
];
const PROMOTION_KEY: &str = "promotion_key";
const REQUIRED: usize = 9;

const MAX_EXTERNAL_ID_CHARS: usize = 200;
const MAX_SEGMENT_CHARS: usize = 64;
const MAX_PROMOTION_KEY_CHARS: usize = 200;
const MAX_RATE_CHARS: usize = 64;

/// Reads a line of NDJSON; `None` where it is blank.
pub fn from_json(line: &[u8]) -> Option<Result<PreOfferLine, BadLine>> {
    let text = match text_of(line) {
        Ok(text) => text,
        Err(bad) => return Some(Err(bad)),
    };
    if text.trim().is_empty() {
        return None;
    }
    Some(match serde_json::from_str::<JsonCells<'_>>(text) {
        Ok(cells) => cells.read(),
        Err(error) => Err(BadLine::whole(format!(
            "must be a JSON object, got {}: {error}",
            shown(text)
        ))),
    })
}

/// A line as text: everything after this can be shown and stored.
pub fn text_of(line: &[u8]) -> Result<&str, BadLine> {
    let text = std::str::from_utf8(line)
        .map_err(|error| BadLine::whole(format!("must be UTF-8: {error}")))?;
    match text.find('\0') {
        None => Ok(text),
        Some(at) => Err(BadLine::whole(format!(
            "must not have NUL characters, has one at byte {at}"
        ))),
    }
}

/// Where a CSV's cells belong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CsvColumns {
    /// For each column its index in [`FIELDS`], where it is one of ours.
    fields: Vec<Option<usize>>,
}

impl CsvColumns {
    /// Reads the header; the error says what is wrong with it.
    pub fn from_header<'a>(names: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let fields: Vec<Option<usize>> = names
            .map(|name| FIELDS.iter().position(|field| *field == name.trim()))
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
            Ok(Self { fields })
        } else {
            Err(format!("the header lacks {}", missing.join(", ")))
        }
    }

    /// Reads the cells of a record; an empty one is null.
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
        Reader::read(&cells)
    }
}

/// Splits lines into the cells of a CSV record (RFC 4180), which in quotes may go over several
/// lines.
#[derive(Debug, Default)]
pub struct CsvRecord {
    text: String,
    /// Where each cell ends in `text`; the last one not before the record is complete.
    ends: Vec<usize>,
    in_quotes: bool,
}

impl CsvRecord {
    /// Forgets everything for the next record.
    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
        self.in_quotes = false;
    }

    /// Takes the next line. `Ok(false)`: a quote is open, the record goes on in the line after.
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

    /// Takes cells without quotes: all that are left (`None`), or all before one that is quoted,
    /// what comes after its opening quote.
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

/// One value, before it is read as what its field should be.
#[derive(Clone, Copy)]
enum Cell<'a> {
    /// Of CSV.
    Text(&'a str),
    /// The source text of a JSON value.
    Json(&'a str),
}

#[derive(Default)]
struct Cells<'a>([Option<Cell<'a>>; FIELDS.len()]);

/// The cells of a JSON object, and one that was there twice.
struct JsonCells<'a> {
    cells: Cells<'a>,
    repeated: Option<&'static str>,
}

impl JsonCells<'_> {
    fn read(&self) -> Result<PreOfferLine, BadLine> {
        match self.repeated {
            None => Reader::read(&self.cells),
            field => Err(BadLine {
                field,
                reason: "must not be there more than once".to_owned(),
            }),
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonCells<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = JsonCells<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut collected = JsonCells {
                    cells: Cells::default(),
                    repeated: None,
                };
                let mut seen = [false; FIELDS.len()];
                while let Some(Name(index)) = map.next_key()? {
                    let Some(index) = index else {
                        map.next_value::<IgnoredAny>()?;
                        continue;
                    };
                    let raw = map.next_value::<&'de RawValue>()?.get();
                    if std::mem::replace(&mut seen[index], true) {
                        collected.repeated = collected.repeated.or(Some(FIELDS[index]));
                    }
                    collected.cells.0[index] = (raw != "null").then_some(Cell::Json(raw));
                }
                Ok(collected)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The index of a member's name in [`FIELDS`].
struct Name(Option<usize>);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Find;
        impl Visitor<'_> for Find {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a member's name")
            }

            fn visit_str<E>(self, name: &str) -> Result<Name, E> {
                Ok(Name(FIELDS.iter().position(|field| *field == name)))
            }
        }
        deserializer.deserialize_str(Find)
    }
}

/// Reads cells as what they should be, and keeps what is wrong with them.
struct Reader<'c, 'a> {
    cells: &'c Cells<'a>,
    next: usize,
    faults: Vec<(&'static str, String)>,
}

impl<'c, 'a> Reader<'c, 'a> {
    fn read(cells: &'c Cells<'a>) -> Result<PreOfferLine, BadLine> {
        let mut reader = Reader {
            cells,
            next: 0,
            faults: Vec::new(),
        };
        let long_text = |most| move |cell| printable(cell, most);
        let at_least_1 = |cell| integer(cell);
        // In the order of FIELDS.
        let external_id = reader.required(long_text(MAX_EXTERNAL_ID_CHARS));
        let user_id = reader.required(at_least_1);
        let segment = reader.required(long_text(MAX_SEGMENT_CHARS));
        let product_id = reader.required(at_least_1);
        let amount_cents = reader.required(at_least_1);
        let currency_code = reader.required(parsed::<CurrencyCode>);
        let repayment_rate = reader.required(decimal);
        let country_code = reader.required(parsed::<CountryCode>);
        let valid_until = reader.required(instant);
        // A key that is empty names no promotion, like one that is not there.
        let promotion_key = reader.optional(|cell| match cell {
            Cell::Json("\"\"") => Ok(None),
            cell => printable(cell, MAX_PROMOTION_KEY_CHARS).map(Some),
        });
        match (
            external_id,
            user_id,
            segment,
            product_id,
            amount_cents,
            currency_code,
            repayment_rate,
            country_code,
            valid_until,
        ) {
            (
                Some(external_id),
                Some(user_id),
                Some(segment),
                Some(product_id),
                Some(amount_cents),
                Some(currency_code),
                Some(repayment_rate),
                Some(country_code),
                Some(valid_until),
            ) if reader.faults.is_empty() => Ok(PreOfferLine {
                external_id,
                user_id,
                segment,
                product_id,
                amount_cents,
                currency_code,
                repayment_rate,
                country_code,
                valid_until,
                promotion_key: promotion_key.flatten(),
            }),
            _ => Err(bad_line(reader.faults)),
        }
    }

    fn required<T>(&mut self, read: impl FnOnce(Cell<'a>) -> Result<T, String>) -> Option<T> {
        if self.cells.0[self.next].is_none() {
            self.faults
                .push((FIELDS[self.next], "is required".to_owned()));
        }
        self.optional(read)
    }

    fn optional<T>(&mut self, read: impl FnOnce(Cell<'a>) -> Result<T, String>) -> Option<T> {
        let index = self.next;
        self.next += 1;
        match read(self.cells.0[index]?) {
            Ok(value) => Some(value),
            Err(reason) => {
                self.faults.push((FIELDS[index], reason));
                None
            }
        }
    }
}

fn bad_line(faults: Vec<(&'static str, String)>) -> BadLine {
    let mut faults = faults.into_iter();
    let Some((field, mut reason)) = faults.next() else {
        return BadLine::whole("cannot be read");
    };
    for (field, other) in faults {
        reason.push_str("; ");
        reason.push_str(field);
        reason.push(' ');
        reason.push_str(&other);
    }
    BadLine {
        field: Some(field),
        reason,
    }
}

impl<'a> Cell<'a> {
    /// A text: of JSON, a string.
    fn text(self) -> Result<Cow<'a, str>, String> {
        match self {
            Cell::Text(text) => Ok(Cow::Borrowed(text)),
            Cell::Json(raw) if raw.starts_with('"') => {
                // Without an escape what is between the quotes is the text.
                if raw.contains('\\') {
                    serde_json::from_str(raw)
                        .map(Cow::Owned)
                        .map_err(|error| self.not(error))
                } else {
                    Ok(Cow::Borrowed(&raw[1..raw.len() - 1]))
                }
            }
            Cell::Json(_) => Err(self.not("must be a string")),
        }
    }

    /// The digits of a number: of JSON, a number or a string.
    fn digits(self) -> Result<Cow<'a, str>, String> {
        match self {
            Cell::Json(raw) if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                Ok(Cow::Borrowed(raw))
            }
            Cell::Json(raw) if !raw.starts_with('"') => Err(self.not("must be a number")),
            cell => cell.text(),
        }
    }

    /// What it should have been, and what it is.
    fn not(self, expected: impl Display) -> String {
        match self {
            Cell::Text(text) => format!("{expected}, got {}", shown(&format!("{text:?}"))),
            Cell::Json(raw) => format!("{expected}, got {}", shown(raw)),
        }
    }
}

fn printable(cell: Cell<'_>, most: usize) -> Result<String, String> {
    let text = cell.text()?;
    let length = text.chars().count();
    if length == 0 || length > most || text.chars().any(char::is_control) {
        return Err(cell.not(format_args!("must be 1 to {most} printable characters")));
    }
    Ok(text.into_owned())
}

/// An integer of 64 bits, at least 1.
fn integer(cell: Cell<'_>) -> Result<i64, String> {
    let text = cell.digits()?;
    let digits = text.strip_prefix('-').unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(cell.not("must be an integer"));
    }
    let number: i64 = text.parse().map_err(|_| cell.not("must fit 64 bits"))?;
    if number < 1 {
        return Err(cell.not("must be at least 1"));
    }
    Ok(number)
}

/// A decimal number of at least 0, kept as it is written.
fn decimal(cell: Cell<'_>) -> Result<String, String> {
    let text = cell.digits()?;
    // JSON's grammar of a number, but for the sign.
    let (number, exponent) = text.split_once(['e', 'E']).unwrap_or((&text, "0"));
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    let is_decimal = text.len() <= MAX_RATE_CHARS
        && [whole, fraction, exponent]
            .iter()
            .all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()));
    if is_decimal {
        Ok(text.into_owned())
    } else {
        Err(cell.not("must be a decimal number of at least 0"))
    }
}

fn parsed<T: std::str::FromStr<Err: Display>>(cell: Cell<'_>) -> Result<T, String> {
    cell.text()?.parse().map_err(|error| cell.not(error))
}

/// RFC 3339, or BigQuery's `2026-11-22 18:04:05.123456 UTC`.
fn instant(cell: Cell<'_>) -> Result<Instant, String> {
    let text = cell.text()?;
    // The rest of BigQuery's form is RFC 3339 too, which allows a space before the time.
    let with_offset = match text.strip_suffix(" UTC") {
        Some(start) => Cow::Owned(format!("{start}Z")),
        None => text,
    };
    parse_instant(&with_offset)
        .ok_or_else(|| cell.not("must be an instant like 2026-11-22T18:04:05Z"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::wire::format_instant;

    fn full() -> Value {
        json!({ "external_id": "s-1", "user_id": 48151, "segment": "newbie", "product_id": 80, "amount_cents": 100_000,
            "currency_code": "MXN", "repayment_rate": "15", "country_code": "MX", "valid_until": "2026-12-31T00:00:00Z",
            "promotion_key": "mx-newbie-20" })
    }

    fn with(name: &str, value: Value) -> Value {
        let mut line = full();
        line[name] = value;
        line
    }

    fn read(line: &Value) -> Result<PreOfferLine, BadLine> {
        from_json(line.to_string().as_bytes()).expect("not blank")
    }

    /// The same line in CSV.
    fn read_csv(line: &Value) -> Result<PreOfferLine, BadLine> {
        let object = line.as_object().expect("an object");
        let columns = CsvColumns::from_header(object.keys().map(String::as_str)).expect("complete");
        let cells: Vec<String> = object
            .values()
            .map(|value| match value {
                Value::Null => String::new(),
                Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
                other => other.to_string(),
            })
            .collect();
        let mut record = CsvRecord::default();
        let mut complete = false;
        for line in cells.join(",").split('\n') {
            complete = record.push_line(line)?;
        }
        assert!(complete);
        columns.read(&record)
    }

    #[test]
    fn reads_bigquerys_shapes_in_either_format() {
        let line = read(&full()).expect("valid");
        assert_eq!(line.repayment_rate, "15");
        assert_eq!(line.promotion_key.as_deref(), Some("mx-newbie-20"));
        for same in [
            with("user_id", json!("48151")),
            with("amount_cents", json!("100000")),
            with("product_id", json!("80")),
            with("repayment_rate", json!(15)),
            with("valid_until", json!("2026-12-31 00:00:00 UTC")),
            with("valid_until", json!("2026-12-31 00:00:00.000999 UTC")),
            with("valid_until", json!("2026-12-30T18:00:00.0-06:00")),
            with("score", json!({ "deep": [1.5, null] })),
        ] {
            assert_eq!(read(&same).as_ref(), Ok(&line), "{same}");
            if same["score"].is_null() {
                assert_eq!(read_csv(&same).as_ref(), Ok(&line), "{same}");
            }
        }
        for (rate, text) in [
            (json!(15), "15"),
            (json!("15.50"), "15.50"),
            (json!(0.1), "0.1"),
            (json!("1E-05"), "1E-05"),
        ] {
            let line = read(&with("repayment_rate", rate.clone())).expect("valid");
            assert_eq!(line.repayment_rate, text);
            assert_eq!(read_csv(&with("repayment_rate", rate)).as_ref(), Ok(&line));
        }
        // As written, where a parsed number would have lost the zero.
        let exact = full().to_string().replace("\"15\"", "15.50");
        let line = from_json(exact.as_bytes())
            .expect("not blank")
            .expect("valid");
        assert_eq!(line.repayment_rate, "15.50");
        let fine = read(&with(
            "valid_until",
            json!("2026-12-31 00:00:00.123456 UTC"),
        ));
        assert_eq!(
            format_instant(fine.expect("valid").valid_until),
            "2026-12-31T00:00:00.123Z"
        );
    }

    #[test]
    fn the_key_of_a_promotion_may_be_missing() {
        for none in [Value::Null, json!("")] {
            let line = with("promotion_key", none);
            assert_eq!(read(&line).expect("valid").promotion_key, None);
            assert_eq!(read_csv(&line).expect("valid").promotion_key, None);
        }
        let mut absent = full();
        absent
            .as_object_mut()
            .expect("an object")
            .remove("promotion_key");
        assert_eq!(read(&absent).expect("valid").promotion_key, None);
        assert_eq!(read_csv(&absent).expect("valid").promotion_key, None);
    }

    #[test]
    fn names_the_bad_field_and_its_value() {
        for (name, value, reason) in [
            ("external_id", json!("x".repeat(201)), "1 to 200 printable"),
            ("external_id", json!("a\0"), "printable"),
            ("external_id", json!("a\nb"), "printable"),
            ("user_id", json!(0), "at least 1, got"),
            ("user_id", json!("-5"), "at least 1, got \"-5\""),
            ("user_id", json!("+5"), "integer"),
            ("user_id", json!(" 5"), "integer"),
            ("user_id", json!("9223372036854775808"), "64 bits"),
            ("segment", json!("x".repeat(65)), "1 to 64 printable"),
            ("product_id", json!("eighty"), "integer"),
            ("amount_cents", json!(0), "at least 1"),
            ("amount_cents", json!(1.5), "integer, got"),
            (
                "currency_code",
                json!("mxn"),
                "3 capital letters, got \"mxn\"",
            ),
            ("repayment_rate", json!("15%"), "decimal"),
            ("repayment_rate", json!("-1"), "decimal"),
            ("repayment_rate", json!("."), "decimal"),
            ("repayment_rate", json!("NaN"), "decimal"),
            ("repayment_rate", json!("1".repeat(65)), "decimal"),
            ("country_code", json!("MEX"), "2 capital letters"),
            ("valid_until", json!("tomorrow"), "instant"),
            ("valid_until", json!("2026-12-31"), "instant"),
            ("valid_until", json!("2026-12-31 00:00:00"), "instant"),
            ("valid_until", json!("2026-02-30 00:00:00 UTC"), "instant"),
            ("promotion_key", json!("x".repeat(201)), "printable"),
        ] {
            for bad in [
                read(&with(name, value.clone())),
                read_csv(&with(name, value)),
            ] {
                let bad = bad.expect_err(name);
                assert_eq!(bad.field, Some(name), "{bad:?}");
                assert!(bad.reason.contains(reason), "{bad:?}");
            }
        }
        for name in &FIELDS[..REQUIRED] {
            for bad in [
                read(&with(name, Value::Null)),
                read_csv(&with(name, Value::Null)),
            ] {
                let bad = bad.expect_err(name);
                assert_eq!(
                    (bad.field, bad.reason.as_str()),
                    (Some(*name), "is required")
                );
            }
        }
        for (name, value, reason) in [
            ("external_id", json!(7), "must be a string, got 7"),
            ("user_id", json!(true), "must be a number, got true"),
            (
                "valid_until",
                json!(1_700_000_000),
                "must be a string, got 1700000000",
            ),
            ("promotion_key", json!({}), "must be a string, got {}"),
        ] {
            let bad = read(&with(name, value)).expect_err(name);
            assert_eq!((bad.field, bad.reason.as_str()), (Some(name), reason));
        }
    }

    #[test]
    fn names_every_fault_of_a_line() {
        let mut line = with("amount_cents", json!(-1));
        line["currency_code"] = Value::Null;
        assert_eq!(
            read(&line),
            Err(BadLine {
                field: Some("amount_cents"),
                reason: "must be at least 1, got -1; currency_code is required".to_owned()
            })
        );
    }

    #[test]
    fn a_line_that_is_no_object_is_bad_and_a_blank_one_nothing() {
        let twice = full().to_string().replace('}', ",\"user_id\":1}");
        let bad = from_json(twice.as_bytes())
            .expect("not blank")
            .expect_err("twice");
        assert_eq!(bad.field, Some("user_id"));
        for line in [
            &b"[1]"[..],
            b"{",
            b"null",
            b"\xff",
            b"{\"external_id\":\"\xff\"}",
            b"\0",
            b"{}x",
        ] {
            let bad = from_json(line).expect("not blank").expect_err("bad");
            assert_eq!(bad.field, None, "{bad:?}");
        }
        let half_a_pair = full().to_string().replace("newbie\"", "\\ud800\"");
        let bad = from_json(half_a_pair.as_bytes())
            .expect("not blank")
            .expect_err("bad");
        assert_eq!(bad.field, Some("segment"));
        assert_eq!(from_json(b""), None);
        assert_eq!(from_json(b" \t"), None);
    }

    fn cells_of(lines: &[&str]) -> Result<Vec<String>, BadLine> {
        let mut record = CsvRecord::default();
        for (index, line) in lines.iter().enumerate() {
            assert_eq!(record.push_line(line)?, index + 1 == lines.len());
        }
        Ok(record.cells().map(str::to_owned).collect())
    }

    #[test]
    fn splits_csv() {
        for (lines, cells) in [
            (&["a,b"][..], &["a", "b"][..]),
            (&["a,"], &["a", ""]),
            (&[""], &[""]),
            (&[","], &["", ""]),
            (&["\"\""], &[""]),
            (&["\"a,\"\"b\"\"\",c"], &["a,\"b\"", "c"]),
            (&["\"a\",\"b\",c,\"d\""], &["a", "b", "c", "d"]),
            (&["a\"b,c"], &["a\"b", "c"]),
            (&["x,\"a", "", "b\",y"], &["x", "a\n\nb", "y"]),
        ] {
            assert_eq!(cells_of(lines).expect("well formed"), cells);
        }
        assert!(cells_of(&["\"a\"b,c"]).is_err());
    }

    #[test]
    fn a_header_must_have_every_column_once() {
        let header = |names: &str| CsvColumns::from_header(names.split(','));
        assert!(header(&FIELDS.join(",")).is_ok());
        assert!(header(&FIELDS[..REQUIRED].join(", ")).is_ok());
        assert_eq!(
            header(&FIELDS[2..].join(",")),
            Err("the header lacks external_id, user_id".to_owned())
        );
        assert!(header(&format!("{},user_id", FIELDS.join(","))).is_err());
        let columns = header(&FIELDS.join(",")).expect("complete");
        let mut record = CsvRecord::default();
        record.push_line("a,b").expect("well formed");
        let bad = columns.read(&record).expect_err("short");
        assert_eq!(bad.reason, "must have 10 cells as the header has, has 2");
    }

    proptest! {
        #[test]
        fn csv_reads_what_was_quoted(cells in prop::collection::vec("[ab,\"\n]{0,6}", 1..5)) {
            let quoted: Vec<String> =
                cells.iter().map(|cell| format!("\"{}\"", cell.replace('"', "\"\""))).collect();
            let text = quoted.join(",");
            let lines: Vec<&str> = text.split('\n').collect();
            prop_assert_eq!(cells_of(&lines).expect("well formed"), cells);
        }

        #[test]
        fn nothing_panics(line in prop::collection::vec(any::<u8>(), 0..80), value in "\\PC{0,20}") {
            let _ = from_json(&line);
            for name in FIELDS {
                let _ = read(&with(name, json!(value)));
                let _ = from_json(full().to_string().replace("48151", &value).as_bytes());
            }
            let mut record = CsvRecord::default();
            let _ = record.push_line(&value);
            let _ = record.cells().count();
        }
    }
}
