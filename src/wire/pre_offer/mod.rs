//! A line of a pre-offer import (contract 7), as BigQuery exports it, in JSON or CSV.

mod cells;
mod csv;
mod json;
mod report;
#[cfg(test)]
mod tests;

use crate::domain::fields::{FieldError, shown};
use crate::domain::reward::{CountryCode, CurrencyCode};
use crate::domain::{Instant, UserId};

pub use csv::{CsvColumns, CsvRecord};
use json::JsonCells;
pub use report::{ImportCounts, ImportReport, MAX_REJECTIONS, Rejection, UNKNOWN_PROMOTION_KEY};

/// A hint for a text whose line ends are missing.
pub(crate) const LOST_LINE_ENDS: &str =
    "; the line ends are missing: curl's -d removes them, use --data-binary @FILE";

/// A pre-approved loan as scoring wrote it. Every field is checked, but not whether the product and the
/// promotion exist.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PreOfferLine {
    /// Scoring's own id of it; a repeated line is recognised by it.
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
    /// The end of its validity, exclusive; may be in the past.
    pub valid_until: Instant,
    /// The promotion it is meant for.
    pub promotion_key: Option<String>,
}

/// What is wrong with a line: the first invalid field, and a description of all errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadLine {
    /// The field; `None` for the line as a whole.
    pub field: Option<String>,
    /// What was expected, and what it was.
    pub reason: String,
}

impl BadLine {
    /// An error of the line as a whole.
    pub fn whole(reason: impl Into<String>) -> Self {
        Self {
            field: None,
            reason: reason.into(),
        }
    }

    /// An error of one field.
    pub fn of(field: &str, reason: impl Into<String>) -> Self {
        Self {
            field: Some(field.to_owned()),
            reason: reason.into(),
        }
    }

    /// The entry in the report.
    pub fn at(self, line: u64) -> Rejection {
        Rejection {
            line,
            field: self.field,
            reason: self.reason,
            imported: false,
        }
    }
}

impl From<Vec<FieldError>> for BadLine {
    fn from(errors: Vec<FieldError>) -> Self {
        let mut errors = errors.into_iter();
        let Some(FieldError {
            field, mut reason, ..
        }) = errors.next()
        else {
            return Self::whole("cannot be read");
        };
        for FieldError {
            field,
            reason: other,
            ..
        } in errors
        {
            reason.push_str("; ");
            reason.push_str(&field);
            reason.push(' ');
            reason.push_str(&other);
        }
        Self {
            field: Some(field),
            reason,
        }
    }
}

/// The columns, in the contract's order. The [`REQUIRED`] ones must be present.
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

/// Reads a line of NDJSON; `None` if it is blank.
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
            "must be a JSON object, got {}: {error}{}",
            shown(text),
            if json::is_followed_by_another(text) {
                LOST_LINE_ENDS
            } else {
                ""
            }
        ))),
    })
}

/// A line as text. Every part of it can then be shown and stored.
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
