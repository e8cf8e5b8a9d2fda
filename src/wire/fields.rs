//! Reads the fields of a JSON object one by one, so that everything that is wrong with a body is
//! named at once.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use chrono::DateTime;
use serde_json::{Map, Value};

use crate::domain::promotion::{FieldError, is_integer};
use crate::domain::{Instant, to_millis};

/// Why a value is not what a field takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another JSON type.
    WrongType(String),
    /// Out of form or range.
    Invalid(String),
}

/// A JSON object that is being read. Absent and `null` are the same; a field nobody asked for is
/// an error in the end, so that nothing is silently ignored.
#[derive(Debug)]
pub struct Fields<'a> {
    object: &'a Map<String, Value>,
    asked: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// Begins to read.
    pub fn of(object: &'a Map<String, Value>) -> Self {
        Self {
            object,
            asked: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// A field that must be there.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Refusal>,
    ) -> Option<T> {
        let value = self.value(name);
        if value.is_none() {
            self.refuse(name, "is required");
        }
        self.read(name, value?, read)
    }

    /// A field that may be left out.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Refusal>,
    ) -> Option<T> {
        let value = self.value(name)?;
        self.read(name, value, read)
    }

    /// A field of a merge patch: left out keeps what there is. `null` would remove it (RFC 7396),
    /// which no field here allows.
    pub fn patched<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Refusal>,
    ) -> Option<T> {
        if self.object.get(name).is_some_and(Value::is_null) {
            self.refuse(name, "cannot be removed");
        }
        self.optional(name, read)
    }

    /// A field whose reader finds errors of its own, as the conditions' does.
    pub fn nested<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Vec<FieldError>>,
    ) -> Option<T> {
        match read(self.value(name)?) {
            Ok(value) => Some(value),
            Err(errors) => {
                self.errors.extend(errors);
                None
            }
        }
    }

    /// Whether the field is there and not `null`.
    pub fn has(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(|value| !value.is_null())
    }

    /// Whether the field is named at all.
    pub fn names(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// Adds an error about a field.
    pub fn refuse(&mut self, name: &'static str, reason: impl Into<String>) {
        self.asked.push(name);
        self.errors.push(FieldError::invalid(name, reason));
    }

    /// What was read, if all of it is right.
    pub fn finish<T>(mut self, read: Option<T>) -> Result<T, Vec<FieldError>> {
        for name in self.object.keys() {
            if !self.asked.contains(&name.as_str()) {
                self.errors
                    .push(FieldError::invalid(name, "is not a known field"));
            }
        }
        match read {
            Some(read) if self.errors.is_empty() => Ok(read),
            _ => Err(self.errors),
        }
    }

    fn value(&mut self, name: &'static str) -> Option<&'a Value> {
        self.asked.push(name);
        self.object.get(name).filter(|value| !value.is_null())
    }

    fn read<T>(
        &mut self,
        name: &'static str,
        value: &'a Value,
        read: impl FnOnce(&'a Value) -> Result<T, Refusal>,
    ) -> Option<T> {
        match read(value) {
            Ok(value) => return Some(value),
            Err(Refusal::WrongType(reason)) => {
                self.errors.push(FieldError::wrong_type(name, reason));
            }
            Err(Refusal::Invalid(reason)) => self.errors.push(FieldError::invalid(name, reason)),
        }
        None
    }
}

/// `true` or `false`.
pub fn boolean(value: &Value) -> Result<bool, Refusal> {
    value
        .as_bool()
        .ok_or_else(|| Refusal::WrongType("must be true or false".to_owned()))
}

/// A JSON integer within a range; `1.0` is none, and one beyond 64 bits is out of every range.
pub fn integer(range: RangeInclusive<i64>) -> impl FnOnce(&Value) -> Result<i64, Refusal> {
    move |value| match value {
        Value::Number(number) if is_integer(number) => number
            .as_i64()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                Refusal::Invalid(format!("must be from {least} to {most}"))
            }),
        _ => Err(Refusal::WrongType("must be an integer".to_owned())),
    }
}

/// Any string.
pub fn string(value: &Value) -> Result<&str, Refusal> {
    value
        .as_str()
        .ok_or_else(|| Refusal::WrongType("must be a string".to_owned()))
}

/// A text for people of 1 to `most` characters, none of them a control character (which Postgres
/// or a terminal may refuse), not only of blanks.
pub fn text(most: usize) -> impl FnOnce(&Value) -> Result<String, Refusal> {
    move |value| {
        let text = string(value)?;
        let fits = !text.trim().is_empty() && text.chars().count() <= most;
        if fits && !text.chars().any(char::is_control) {
            Ok(text.to_owned())
        } else {
            Err(Refusal::Invalid(format!(
                "must be 1 to {most} characters, without control characters"
            )))
        }
    }
}

/// A string of a form that its type knows.
pub fn parsed<T: FromStr<Err: Display>>(value: &Value) -> Result<T, Refusal> {
    string(value)?
        .parse()
        .map_err(|error: T::Err| Refusal::Invalid(error.to_string()))
}

/// RFC 3339 with any offset, finer digits cut off.
pub fn instant(value: &Value) -> Result<Instant, Refusal> {
    DateTime::parse_from_rfc3339(string(value)?)
        .map(|instant| to_millis(instant.to_utc()))
        .map_err(|_| Refusal::Invalid("must be an RFC 3339 instant".to_owned()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn errors(body: &Value) -> Vec<(String, bool)> {
        let mut fields = Fields::of(body.as_object().expect("an object"));
        let name = fields.required("name", text(3));
        let days = fields.optional("days", integer(1..=9));
        let on = fields.patched("on", boolean);
        fields
            .finish(name.map(|name| (name, days, on)))
            .err()
            .unwrap_or_default()
            .into_iter()
            .map(|error| (error.field, error.wrong_type))
            .collect()
    }

    #[test]
    fn everything_that_is_wrong_is_named_once() {
        let wrong = |body| errors(&body);
        assert_eq!(wrong(json!({ "name": "añb" })), []);
        assert_eq!(wrong(json!({ "name": "a", "days": null })), []);
        assert_eq!(
            wrong(json!({ "days": 10, "on": null, "more": 1 })),
            [
                ("name".to_owned(), false),
                ("days".to_owned(), false),
                ("on".to_owned(), false),
                ("more".to_owned(), false),
            ]
        );
        assert_eq!(
            wrong(json!({ "name": 1, "days": 1.0, "on": "true" })),
            [
                ("name".to_owned(), true),
                ("days".to_owned(), true),
                ("on".to_owned(), true),
            ]
        );
        for name in ["", "  ", "abcd", "a\0"] {
            assert_eq!(
                wrong(json!({ "name": name })),
                [("name".to_owned(), false)],
                "{name:?}"
            );
        }
    }
}
