//! Reads the fields of a JSON object one by one, so that all errors of a body are reported at once.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::{Instant, parse_instant};

/// An error of one field of an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's path, such as `conditions.target_rides`.
    pub field: String,
    /// What was expected, and what it was.
    pub reason: String,
    /// The value has the wrong JSON type (so the whole request is malformed), not only a bad value.
    #[serde(skip)]
    pub wrong_type: bool,
}

impl FieldError {
    /// A value with a bad form or out of range.
    pub fn invalid(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
            wrong_type: false,
        }
    }

    /// A value of the wrong JSON type.
    pub fn wrong_type(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
            wrong_type: true,
        }
    }
}

/// Why a field cannot have a value: what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadValue {
    /// The value has another JSON type.
    WrongType(String),
    /// The value has a bad form or is out of range.
    Invalid(String),
}

impl BadValue {
    /// The error of a field with this value.
    pub fn of(self, field: impl Into<String>, value: &str) -> FieldError {
        let got = |reason: String| format!("{reason}, got {}", shown(value));
        match self {
            Self::WrongType(reason) => FieldError::wrong_type(field, got(reason)),
            Self::Invalid(reason) => FieldError::invalid(field, got(reason)),
        }
    }
}

/// A JSON object that is being read. An absent field and `null` are the same. Fields that were not read
/// are errors in the end, so that nothing is silently ignored.
#[derive(Debug)]
pub struct Fields<'a> {
    /// The prefix of the fields' paths, including its dot.
    path: &'static str,
    object: &'a Map<String, Value>,
    asked: Vec<&'static str>,
    /// The paths of unread fields of objects within this one.
    unknown_within: Vec<String>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// Begins to read.
    pub fn of(object: &'a Map<String, Value>) -> Self {
        Self::under("", object)
    }

    /// Begins to read an object within another. `path` is the prefix of its fields, such as `conditions.`.
    pub fn under(path: &'static str, object: &'a Map<String, Value>) -> Self {
        Self {
            path,
            object,
            asked: Vec::new(),
            unknown_within: Vec::new(),
            errors: Vec::new(),
        }
    }

    /// A required field.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, BadValue>,
    ) -> Option<T> {
        let value = self.value(name);
        if value.is_none() {
            self.reject(name, "is required");
        }
        self.read(name, value?, read)
    }

    /// An optional field.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, BadValue>,
    ) -> Option<T> {
        let value = self.value(name)?;
        self.read(name, value, read)
    }

    /// A field of a merge patch. Leaving it out keeps the value. `null` would remove it (RFC 7396), which
    /// this field does not allow.
    pub fn patched<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, BadValue>,
    ) -> Option<T> {
        if self.object.get(name).is_some_and(Value::is_null) {
            self.reject(name, "cannot be removed");
        }
        self.optional(name, read)
    }

    /// As [`Fields::patched`], for a field that may be removed: `None` if it is left out, `Some(None)` if
    /// it is `null`.
    pub fn patched_or_removed<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, BadValue>,
    ) -> Option<Option<T>> {
        let is_named = self.names(name);
        let read = self.optional(name, read);
        is_named.then_some(read)
    }

    /// A field whose reader returns a list of errors with their paths, such as the conditions.
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

    /// An object within this one, whose fields have the prefix `path`. Its errors and its unknown fields
    /// are reported with this object's.
    pub fn within<T>(
        &mut self,
        name: &'static str,
        path: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        let object = self.optional(name, |value| {
            value
                .as_object()
                .ok_or_else(|| BadValue::WrongType("must be an object".to_owned()))
        })?;
        let mut inner = Fields::under(path, object);
        let read = read(&mut inner);
        self.unknown_within.extend(inner.unknown());
        self.errors.extend(inner.errors);
        Some(read)
    }

    /// Whether the field is present and not `null`.
    pub fn has(&self, name: &str) -> bool {
        self.object.get(name).is_some_and(|value| !value.is_null())
    }

    /// Whether the field is present, even as `null`.
    pub fn names(&self, name: &str) -> bool {
        self.object.contains_key(name)
    }

    /// Adds an error of a field.
    pub fn reject(&mut self, name: &'static str, reason: impl Into<String>) {
        self.asked.push(name);
        self.errors
            .push(FieldError::invalid(self.path_of(name), reason));
    }

    /// Returns what was read, if there are no errors and no unknown fields.
    pub fn finish<T>(mut self, read: Option<T>) -> Result<T, Vec<FieldError>> {
        for name in self.unknown() {
            self.errors
                .push(FieldError::invalid(name, "is not a known field"));
        }
        self.finish_known(read)
    }

    /// The paths of the fields that were not read.
    pub fn unknown(&self) -> Vec<String> {
        let names = self.object.keys();
        names
            .filter(|name| !self.asked.contains(&name.as_str()))
            .map(|name| self.path_of(name))
            .chain(self.unknown_within.iter().cloned())
            .collect()
    }

    /// As [`Fields::finish`], but ignores unknown fields.
    pub fn finish_known<T>(self, read: Option<T>) -> Result<T, Vec<FieldError>> {
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
        read: impl FnOnce(&'a Value) -> Result<T, BadValue>,
    ) -> Option<T> {
        let refusal = match read(value) {
            Ok(value) => return Some(value),
            Err(refusal) => refusal,
        };
        let error = refusal.of(self.path_of(name), &value.to_string());
        self.errors.push(error);
        None
    }

    fn path_of(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }
}

/// A value as an error shows it, cut to a readable length.
pub fn shown(value: &str) -> Cow<'_, str> {
    const MOST: usize = 100;
    match value.char_indices().nth(MOST) {
        None => Cow::Borrowed(value),
        Some((end, _)) => Cow::Owned(format!("{}…", &value[..end])),
    }
}

/// Whether a JSON number is an integer. An integer beyond 64 bits is parsed as a float, but counts as an
/// integer out of range, not as a wrong type. `1.0` is not an integer.
fn is_integer(number: &Number) -> bool {
    !number.is_f64()
        || number
            .as_f64()
            .is_some_and(|number| number.abs() >= 2_f64.powi(63))
}

/// `true` or `false`.
pub fn boolean(value: &Value) -> Result<bool, BadValue> {
    value
        .as_bool()
        .ok_or_else(|| BadValue::WrongType("must be true or false".to_owned()))
}

/// A JSON integer within a range. `1.0` is not an integer; one beyond 64 bits is out of every range.
pub fn integer(range: RangeInclusive<i64>) -> impl Fn(&Value) -> Result<i64, BadValue> {
    move |value| match value {
        Value::Number(number) if is_integer(number) => number
            .as_i64()
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (least, most) = (range.start(), range.end());
                BadValue::Invalid(format!("must be from {least} to {most}"))
            }),
        _ => Err(BadValue::WrongType("must be an integer".to_owned())),
    }
}

/// Any string.
pub fn string(value: &Value) -> Result<&str, BadValue> {
    value
        .as_str()
        .ok_or_else(|| BadValue::WrongType("must be a string".to_owned()))
}

/// A text of 1 to `max` characters, not only blanks, without control characters, which Postgres or a
/// terminal may not accept.
pub fn text(most: usize) -> impl FnOnce(&Value) -> Result<String, BadValue> {
    move |value| {
        let text = string(value)?;
        let fits = !text.trim().is_empty() && text.chars().count() <= most;
        if fits && !text.chars().any(char::is_control) {
            Ok(text.to_owned())
        } else {
            Err(BadValue::Invalid(format!(
                "must be 1 to {most} characters, without control characters"
            )))
        }
    }
}

/// A string that its type can parse.
pub fn parsed<T: FromStr<Err: Display>>(value: &Value) -> Result<T, BadValue> {
    string(value)?
        .parse()
        .map_err(|error: T::Err| BadValue::Invalid(error.to_string()))
}

/// An RFC 3339 instant with any offset, cut to milliseconds.
pub fn instant(value: &Value) -> Result<Instant, BadValue> {
    parse_instant(string(value)?)
        .ok_or_else(|| BadValue::Invalid("must be an RFC 3339 instant".to_owned()))
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
