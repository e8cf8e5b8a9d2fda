//! Reads a JSON document that a person wrote, such as a request's body, strictly.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

use crate::domain::fields::shown;

/// Reads a document. The integer `-0` is 0, as on the topic. A repeated name in an object is a data error;
/// every other error is a syntax error.
pub fn read(mut json: Vec<u8>) -> Result<Value, serde_json::Error> {
    plain_zeros(&mut json);
    serde_json::from_slice(&json).map(|Unambiguous(value)| value)
}

/// Writes the integer `-0` as `0`, as the topic's reader accepts it; serde_json would make it a float. Other
/// bytes do not move.
fn plain_zeros(json: &mut [u8]) {
    let mut in_string = false;
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            // An escaped character never ends the string.
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            b'-' if !in_string && json.get(at + 1) == Some(&b'0') => {
                let next = json.get(at + 2).copied().unwrap_or_default();
                if !matches!(next, b'0'..=b'9' | b'.' | b'e' | b'E') {
                    json[at] = b' ';
                }
            }
            _ => {}
        }
        at += 1;
    }
}

/// Any JSON in which no object has a name twice. serde_json alone would keep the last value and silently
/// ignore the others.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = object.next_key::<String>()? {
            if fields.contains_key(&name) {
                let name = shown(&name);
                return Err(A::Error::custom(format!("{name} is there more than once")));
            }
            let Unambiguous(value) = object.next_value()?;
            fields.insert(name, value);
        }
        Ok(Value::Object(fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_integer_minus_zero_is_zero() {
        for (json, plain) in [
            ("{\"a\":-0}", "{\"a\": 0}"),
            ("[-0,-0 ,-0]", "[ 0, 0 , 0]"),
            ("-0", " 0"),
            ("[-0.0,-0e1,-01,-1,0-0]", "[-0.0,-0e1,-01,-1,0 0]"),
            ("[\"-0\",\"\\\"-0\"]", "[\"-0\",\"\\\"-0\"]"),
        ] {
            let mut bytes = json.as_bytes().to_vec();
            plain_zeros(&mut bytes);
            assert_eq!(String::from_utf8_lossy(&bytes), plain);
        }
    }

    #[test]
    fn a_name_that_stands_twice_is_an_error() {
        let error = read(b"{\"a\":{\"b\":1,\"b\":2}}".to_vec()).expect_err("b twice");
        assert!(error.is_data(), "{error}");
        let value = read(b"{\"a\":[-0,null,true,1.5,-1,\"-0\"]}".to_vec()).expect("a document");
        assert_eq!(
            value,
            serde_json::json!({ "a": [0, null, true, 1.5, -1, "-0"] })
        );
    }
}
