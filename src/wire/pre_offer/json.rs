//! A line of NDJSON.

use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::cells::{Cell, CellReader, Cells};
use super::{BadLine, FIELDS, PreOfferLine};

/// Whether a text begins with one JSON value, and another object follows it.
pub(super) fn is_followed_by_another(text: &str) -> bool {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    let is_one = matches!(values.next(), Some(Ok(_)));
    is_one && text[values.byte_offset()..].trim_start().starts_with('{')
}

/// The cells of a JSON object, and a field that occurred twice.
pub(super) struct JsonCells<'a> {
    cells: Cells<'a>,
    repeated: Option<&'static str>,
}

impl JsonCells<'_> {
    pub(super) fn read(&self) -> Result<PreOfferLine, BadLine> {
        match self.repeated {
            None => CellReader::read(&self.cells),
            Some(field) => Err(BadLine::of(field, "must not be there more than once")),
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
