//! What handlers take from requests, each with the contract's answer to what cannot be taken; and
//! the page every list answers.

use std::convert::Infallible;
use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;
use serde::de::{DeserializeOwned, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::problem::{Problem, Result};
use crate::domain::fields::shown;

/// How large a body may be and how long it may take. The server puts it into every request; a
/// handler of larger bodies reads the request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRules {
    /// Most bytes.
    pub limit_bytes: usize,
    /// Longest time from the head to the body's end.
    pub timeout: Duration,
}

impl Default for BodyRules {
    fn default() -> Self {
        Self {
            limit_bytes: 64 * 1024,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Reads a whole body within the rules.
async fn body(request: Request) -> Result<Vec<u8>> {
    let rules: BodyRules = request.extensions().get().copied().unwrap_or_default();
    let too_large = || Problem::too_large(rules.limit_bytes);
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced: Option<u64> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length| length > rules.limit_bytes as u64) {
        return Err(too_large());
    }
    let mut chunks = request.into_body().into_data_stream();
    let read = async {
        let mut body = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::malformed_request("The body broke off."))?;
            if body.len() + chunk.len() > rules.limit_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    tokio::time::timeout(rules.timeout, read)
        .await
        .unwrap_or_else(|_| Err(Problem::request_timeout()))
}

/// A body that is a JSON object; its fields are the handler's to check, so that each can be named.
/// The content type is not looked at: there is nothing else it could be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonObject(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for JsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        object(&body(request).await?)
    }
}

/// As [`JsonObject`], of a call whose body may be left out: nothing is an object without fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptionalJsonObject(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for OptionalJsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let bytes = body(request).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        object(&bytes).map(|JsonObject(fields)| Self(fields))
    }
}

fn object(bytes: &[u8]) -> Result<JsonObject> {
    match serde_json::from_slice(bytes) {
        Ok(Unambiguous(Value::Object(fields))) => Ok(JsonObject(fields)),
        Ok(_) => Err(Problem::malformed_request(
            "The body must be a JSON object.",
        )),
        Err(error) => {
            // Its text is JSON, but it says a thing twice.
            let what = if error.is_data() {
                "ambiguous"
            } else {
                "not JSON"
            };
            Err(Problem::malformed_request(format!(
                "The body is {what}: {error}."
            )))
        }
    }
}

/// Any JSON in which no object has a name twice: serde_json keeps the last of such values, and the
/// others would be silently ignored.
struct Unambiguous(Value);

impl<'de> Deserialize<'de> for Unambiguous {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        deserializer.deserialize_any(UnambiguousVisitor).map(Self)
    }
}

struct UnambiguousVisitor;

impl<'de> Visitor<'de> for UnambiguousVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> std::result::Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> std::result::Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, number: i64) -> std::result::Result<Value, E> {
        Ok(number.into())
    }

    fn visit_u64<E>(self, number: u64) -> std::result::Result<Value, E> {
        Ok(number.into())
    }

    fn visit_f64<E>(self, number: f64) -> std::result::Result<Value, E> {
        Ok(number.into())
    }

    fn visit_str<E>(self, text: &str) -> std::result::Result<Value, E> {
        Ok(text.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> std::result::Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unambiguous(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> std::result::Result<Value, A::Error> {
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

/// The one parameter of a path, such as `{promotion_id}`. What cannot be one names nothing, so it
/// is not found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathParam<T>(pub T);

impl<S, T> FromRequestParts<S> for PathParam<T>
where
    S: Send + Sync,
    T: FromStr + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Problem::not_found());
        };
        // Rust's integers may be written with a plus, ids may not.
        if text.starts_with('+') {
            return Err(Problem::not_found());
        }
        text.parse().map(Self).map_err(|_| Problem::not_found())
    }
}

/// The query's parameters, to be asked for one by one; those nobody asks for are ignored.
#[derive(Clone, Debug, Default)]
pub struct Params(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Params {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> std::result::Result<Self, Infallible> {
        // Any text is a list of pairs.
        let pairs = Query::<Vec<(String, String)>>::try_from_uri(&parts.uri);
        Ok(Self(pairs.map(|Query(pairs)| pairs).unwrap_or_default()))
    }
}

impl Params {
    /// A parameter as it is written; an empty one counts as left out.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, value)| found == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    }

    /// An integer within a range; anything else, nothing too, is an invalid request that names it.
    pub fn integer(&self, name: &str, range: RangeInclusive<i64>) -> Result<Option<i64>> {
        let Some((_, text)) = self.0.iter().find(|(found, _)| found == name) else {
            return Ok(None);
        };
        match text.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(Problem::invalid_field(
                name,
                format!(
                    "must be an integer from {} to {}",
                    range.start(),
                    range.end()
                ),
            )),
        }
    }

    /// `limit` and `cursor`; `C` is what the list's cursors hold.
    pub fn paging<C: DeserializeOwned>(&self) -> Result<Paging<C>> {
        let limit = self.integer("limit", 1..=MAX_LIMIT)?;
        let after = match self.text("cursor") {
            None => None,
            Some(cursor) => match decode_cursor(cursor) {
                Some(after) => Some(after),
                None => {
                    return Err(Problem::invalid_field(
                        "cursor",
                        "must be the next_cursor of a page",
                    ));
                }
            },
        };
        Ok(Paging {
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            after,
        })
    }
}

/// Items of a page where nothing is asked.
pub const DEFAULT_LIMIT: i64 = 50;

/// Most items of a page.
pub const MAX_LIMIT: i64 = 200;

/// Which page of a list is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct Paging<C> {
    /// Most items.
    pub limit: i64,
    /// The place after which it begins; `None` is the first page.
    pub after: Option<C>,
}

impl<C> Paging<C> {
    /// How many rows to read: one more than the page holds shows whether there is another.
    pub fn fetch(&self) -> i64 {
        self.limit + 1
    }

    /// The page, from [`Paging::fetch`] rows.
    pub fn page<R, T, P: Serialize>(
        &self,
        mut rows: Vec<R>,
        place: impl FnOnce(&R) -> P,
        item: impl FnMut(R) -> T,
    ) -> Page<T> {
        let limit = usize::try_from(self.limit).unwrap_or_default();
        let more = rows.len() > limit;
        rows.truncate(limit);
        Page::of(rows, more, place, item)
    }
}

/// What every list answers.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Page<T> {
    /// This page's items.
    pub items: Vec<T>,
    /// To be given as `cursor` for the next page; `null` on the last.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// These rows, after which there are `more`.
    pub fn of<R, P: Serialize>(
        rows: Vec<R>,
        more: bool,
        place: impl FnOnce(&R) -> P,
        item: impl FnMut(R) -> T,
    ) -> Self {
        let next_cursor = rows
            .last()
            .filter(|_| more)
            .map(|last| encode_cursor(&place(last)));
        Self {
            items: rows.into_iter().map(item).collect(),
            next_cursor,
        }
    }
}

/// A place in a list as an opaque text.
pub fn encode_cursor(place: &impl Serialize) -> String {
    // Places are tuples of numbers and texts, which always have a JSON form.
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(place).unwrap_or_default())
}

/// The place that [`encode_cursor`] wrote; `None` for what it did not write.
pub fn decode_cursor<C: DeserializeOwned>(cursor: &str) -> Option<C> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn params(query: &str) -> Params {
        let uri = format!("/list?{query}").parse().expect("a URI");
        let Query(pairs) = Query::try_from_uri(&uri).expect("pairs");
        Params(pairs)
    }

    #[test]
    fn reads_limits_and_cursors_and_names_what_is_wrong() {
        let paging: Paging<(i64, String)> = params("other=1").paging().expect("first page");
        assert_eq!((paging.limit, paging.after), (50, None));
        let paging: Paging<(i64, String)> = params("cursor=").paging().expect("first page");
        assert_eq!((paging.limit, paging.after), (50, None));
        let cursor = encode_cursor(&(7, "a/b"));
        let paging: Paging<(i64, String)> = params(&format!("limit=200&cursor={cursor}"))
            .paging()
            .expect("a page");
        assert_eq!(paging.after, Some((7, "a/b".to_owned())));
        for query in [
            "limit=0",
            "limit=201",
            "limit=x",
            "limit=",
            "limit=1.5",
            "cursor=x",
            "cursor=%25",
        ] {
            let refused = params(query).paging::<(i64, String)>();
            assert_eq!(refused.expect_err(query).status(), 422, "{query}");
        }
    }

    #[test]
    fn only_a_full_page_has_a_next() {
        let paging = Paging::<i64> {
            limit: 2,
            after: None,
        };
        assert_eq!(
            paging.page(vec![1, 2], |row| *row, |row| row).next_cursor,
            None
        );
        let page = paging.page(vec![1, 2, 3], |row| *row, |row| row * 10);
        assert_eq!(page.items, [10, 20]);
        assert_eq!(decode_cursor(&page.next_cursor.expect("a next")), Some(2));
    }

    #[tokio::test]
    async fn bodies_are_objects_of_bounded_size() {
        let request = |text: &str| {
            let mut request = Request::new(Body::from(text.to_owned()));
            request.extensions_mut().insert(BodyRules {
                limit_bytes: 16,
                timeout: Duration::from_secs(1),
            });
            request
        };
        let read = async |text| JsonObject::from_request(request(text), &()).await;
        assert!(read("{\"a\":1}").await.is_ok());
        for text in ["", "[]", "1", "{", "\u{1}"] {
            assert_eq!(read(text).await.expect_err(text).status(), 400, "{text}");
        }
        let large = read("{\"a\":\"0123456789abcdef\"}").await;
        assert_eq!(large.expect_err("too large").status(), 413);
        let optional = OptionalJsonObject::from_request(request(" "), &()).await;
        assert_eq!(optional.expect("nothing"), OptionalJsonObject::default());
    }
}
