//! Reads the fields of a JSON object one by one, so that everything that is wrong with a body is
//! named at once.

use std::borrow::Cow;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::Serialize;
use serde_json::{Map, Number, Value};

use super::{Instant, parse_instant};

/// What is wrong with one field of an input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field's path, such as `conditions.target_rides`.
    pub field: String,
    /// What it should have been, and what it was.
    pub reason: String,
    /// It is of another JSON type (the whole request is malformed), not just a bad value.
    #[serde(skip)]
    pub wrong_type: bool,
}

impl FieldError {
    /// A value out of form or range.
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

/// Why a value is not what a field takes: what it should have been.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Another JSON type.
    WrongType(String),
    /// Out of form or range.
    Invalid(String),
}

impl Refusal {
    /// The error of a field that has this value.
    pub fn of(self, field: impl Into<String>, value: &str) -> FieldError {
        let got = |reason: String| format!("{reason}, got {}", shown(value));
        match self {
            Self::WrongType(reason) => FieldError::wrong_type(field, got(reason)),
            Self::Invalid(reason) => FieldError::invalid(field, got(reason)),
        }
    }
}

/// A JSON object that is being read. Absent and `null` are the same; a field nobody asked for is
/// an error in the end, so that nothing is silently ignored.
#[derive(Debug)]
pub struct Fields<'a> {
    /// What the object's own path is, up to its dot.
    path: &'static str,
    object: &'a Map<String, Value>,
    asked: Vec<&'static str>,
    /// Paths of fields of objects within this one that were not asked for.
    unknown_within: Vec<String>,
    errors: Vec<FieldError>,
}

impl<'a> Fields<'a> {
    /// Begins to read.
    pub fn of(object: &'a Map<String, Value>) -> Self {
        Self::under("", object)
    }

    /// Begins to read an object within another; `path` leads to its fields, as in `conditions.`.
    pub fn under(path: &'static str, object: &'a Map<String, Value>) -> Self {
        Self {
            path,
            object,
            asked: Vec::new(),
            unknown_within: Vec::new(),
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

    /// As [`Fields::patched`], of a field that may be removed: `None` where it is left out, `Some(None)`
    /// where it is `null`.
    pub fn patched_or_removed<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&'a Value) -> Result<T, Refusal>,
    ) -> Option<Option<T>> {
        let is_named = self.names(name);
        let read = self.optional(name, read);
        is_named.then_some(read)
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

    /// An object within this one, whose fields have the path `path`. What is wrong with them, and
    /// which of them are not known, is told with this one's.
    pub fn within<T>(
        &mut self,
        name: &'static str,
        path: &'static str,
        read: impl FnOnce(&mut Fields<'a>) -> T,
    ) -> Option<T> {
        let object = self.optional(name, |value| {
            value
                .as_object()
                .ok_or_else(|| Refusal::WrongType("must be an object".to_owned()))
        })?;
        let mut inner = Fields::under(path, object);
        let read = read(&mut inner);
        self.unknown_within.extend(inner.unknown());
        self.errors.extend(inner.errors);
        Some(read)
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
        self.errors
            .push(FieldError::invalid(self.path_of(name), reason));
    }

    /// What was read, if all of it is right.
    pub fn finish<T>(mut self, read: Option<T>) -> Result<T, Vec<FieldError>> {
        for name in self.unknown() {
            self.errors
                .push(FieldError::invalid(name, "is not a known field"));
        }
        self.finish_known(read)
    }

    /// The paths of the fields that were not asked for.
    pub fn unknown(&self) -> Vec<String> {
        let names = self.object.keys();
        names
            .filter(|name| !self.asked.contains(&name.as_str()))
            .map(|name| self.path_of(name))
            .chain(self.unknown_within.iter().cloned())
            .collect()
    }

    /// As [`Fields::finish`], whatever other fields there are.
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
        read: impl FnOnce(&'a Value) -> Result<T, Refusal>,
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

/// A value as an error shows it: not more than somebody can read.
pub fn shown(value: &str) -> Cow<'_, str> {
    const MOST: usize = 100;
    match value.char_indices().nth(MOST) {
        None => Cow::Borrowed(value),
        Some((end, _)) => Cow::Owned(format!("{}…", &value[..end])),
    }
}

/// Whether a JSON number is an integer, one beyond 64 bits too: that arrives as a float, and is out
/// of range rather than of the wrong type. `1.0` is none.
fn is_integer(number: &Number) -> bool {
    !number.is_f64()
        || number
            .as_f64()
            .is_some_and(|number| number.abs() >= 2_f64.powi(63))
}

/// `true` or `false`.
pub fn boolean(value: &Value) -> Result<bool, Refusal> {
    value
        .as_bool()
        .ok_or_else(|| Refusal::WrongType("must be true or false".to_owned()))
}

/// A JSON integer within a range; `1.0` is none, and one beyond 64 bits is out of every range.
pub fn integer(range: RangeInclusive<i64>) -> impl Fn(&Value) -> Result<i64, Refusal> {
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
    parse_instant(string(value)?)
        .ok_or_else(|| Refusal::Invalid("must be an RFC 3339 instant".to_owned()))
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
