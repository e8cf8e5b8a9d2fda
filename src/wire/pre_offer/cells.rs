//! The values of a line, from JSON or CSV, read as the types of their fields.

use std::borrow::Cow;
use std::fmt::Display;

use super::{BadLine, FIELDS, PreOfferLine};
use crate::domain::fields::{BadValue, FieldError};
use crate::domain::reward::{CountryCode, CurrencyCode};
use crate::domain::{Instant, parse_instant};

const MAX_EXTERNAL_ID_CHARS: usize = 200;
const MAX_SEGMENT_CHARS: usize = 64;
const MAX_PROMOTION_KEY_CHARS: usize = 200;
const MAX_RATE_CHARS: usize = 64;

/// One value of a line.
#[derive(Clone, Copy)]
pub(super) enum Cell<'a> {
    /// A cell of CSV.
    Text(&'a str),
    /// The source text of a JSON value.
    Json(&'a str),
}

#[derive(Default)]
pub(super) struct Cells<'a>(pub(super) [Option<Cell<'a>>; FIELDS.len()]);

/// Reads cells one after another, and collects the errors.
pub(super) struct CellReader<'c, 'a> {
    cells: &'c Cells<'a>,
    next: usize,
    errors: Vec<FieldError>,
}

impl<'c, 'a> CellReader<'c, 'a> {
    pub(super) fn read(cells: &'c Cells<'a>) -> Result<PreOfferLine, BadLine> {
        let mut reader = CellReader {
            cells,
            next: 0,
            errors: Vec::new(),
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
        // An empty key names no promotion, like an absent one.
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
            ) if reader.errors.is_empty() => Ok(PreOfferLine {
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
            _ => Err(reader.errors.into()),
        }
    }

    fn required<T>(&mut self, read: impl FnOnce(Cell<'a>) -> Result<T, BadValue>) -> Option<T> {
        if self.cells.0[self.next].is_none() {
            self.errors
                .push(FieldError::invalid(FIELDS[self.next], "is required"));
        }
        self.optional(read)
    }

    fn optional<T>(&mut self, read: impl FnOnce(Cell<'a>) -> Result<T, BadValue>) -> Option<T> {
        let index = self.next;
        self.next += 1;
        let cell = self.cells.0[index]?;
        match read(cell) {
            Ok(value) => Some(value),
            Err(refusal) => {
                self.errors.push(refusal.of(FIELDS[index], &cell.shown()));
                None
            }
        }
    }
}

impl<'a> Cell<'a> {
    /// A text: a cell of CSV or a JSON string.
    fn text(self) -> Result<Cow<'a, str>, BadValue> {
        match self {
            Cell::Text(text) => Ok(Cow::Borrowed(text)),
            Cell::Json(raw) if raw.starts_with('"') => {
                // Without an escape, the text is what stands between the quotes.
                if raw.contains('\\') {
                    serde_json::from_str(raw)
                        .map(Cow::Owned)
                        .map_err(|error| BadValue::Invalid(error.to_string()))
                } else {
                    Ok(Cow::Borrowed(&raw[1..raw.len() - 1]))
                }
            }
            Cell::Json(_) => Err(BadValue::WrongType("must be a string".to_owned())),
        }
    }

    /// The digits of a number: a cell of CSV, or a JSON number or string.
    fn digits(self) -> Result<Cow<'a, str>, BadValue> {
        match self {
            Cell::Json(raw) if raw.starts_with(|c: char| c == '-' || c.is_ascii_digit()) => {
                Ok(Cow::Borrowed(raw))
            }
            Cell::Json(raw) if !raw.starts_with('"') => {
                Err(BadValue::WrongType("must be a number".to_owned()))
            }
            cell => cell.text(),
        }
    }

    /// The value as an error shows it.
    fn shown(self) -> String {
        match self {
            Cell::Text(text) => format!("{text:?}"),
            Cell::Json(raw) => raw.to_owned(),
        }
    }
}

fn invalid(expected: impl Display) -> BadValue {
    BadValue::Invalid(expected.to_string())
}

fn printable(cell: Cell<'_>, most: usize) -> Result<String, BadValue> {
    let text = cell.text()?;
    let length = text.chars().count();
    if length == 0 || length > most || text.chars().any(char::is_control) {
        return Err(invalid(format_args!(
            "must be 1 to {most} printable characters"
        )));
    }
    Ok(text.into_owned())
}

/// An integer of 64 bits, at least 1.
fn integer(cell: Cell<'_>) -> Result<i64, BadValue> {
    let text = cell.digits()?;
    let digits = text.strip_prefix('-').unwrap_or(&text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid("must be an integer"));
    }
    let number: i64 = text.parse().map_err(|_| invalid("must fit 64 bits"))?;
    if number < 1 {
        return Err(invalid("must be at least 1"));
    }
    Ok(number)
}

/// A decimal number of at least 0, kept as it is written except for the sign of `-0`.
fn decimal(cell: Cell<'_>) -> Result<String, BadValue> {
    let digits = cell.digits()?;
    let text = match digits.strip_prefix('-') {
        Some(positive) if is_zero(positive) => Cow::Borrowed(positive),
        _ => Cow::Borrowed(&*digits),
    };
    // JSON's grammar of a number, without the sign.
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
        Err(invalid("must be a decimal number of at least 0"))
    }
}

/// Whether every digit before the exponent is 0.
fn is_zero(number: &str) -> bool {
    let mantissa = number.split(['e', 'E']).next().unwrap_or_default();
    mantissa.bytes().all(|byte| matches!(byte, b'0' | b'.'))
}

fn parsed<T: std::str::FromStr<Err: Display>>(cell: Cell<'_>) -> Result<T, BadValue> {
    cell.text()?.parse().map_err(invalid)
}

/// An instant in RFC 3339, or as databases write it: BigQuery's `2026-11-22 18:04:05.123456 UTC`,
/// PostgreSQL's `2026-11-22 18:04:05+00`, others' `2026-11-22 18:04:05 +0000`. RFC 3339 also allows a space
/// before the time.
fn instant(cell: Cell<'_>) -> Result<Instant, BadValue> {
    /// The length of `2026-11-22 18:04:05`.
    const SECONDS: usize = 19;
    let text = cell.text()?;
    let with_offset = match text.strip_suffix(" UTC") {
        Some(start) => Cow::Owned(format!("{start}Z")),
        None => match text.rfind(['+', '-']) {
            Some(sign) if sign >= SECONDS && text.is_ascii() => {
                let (start, offset) = (text[..sign].trim_end_matches(' '), &text[sign..]);
                match offset.len() {
                    3 => Cow::Owned(format!("{start}{offset}:00")),
                    5 => Cow::Owned(format!("{start}{}:{}", &offset[..3], &offset[3..])),
                    _ => Cow::Owned(format!("{start}{offset}")),
                }
            }
            _ => text,
        },
    };
    parse_instant(&with_offset)
        .ok_or_else(|| invalid("must be an instant with its offset, like 2026-11-22T18:04:05Z"))
}
