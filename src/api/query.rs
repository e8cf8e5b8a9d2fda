//! Query parameters. Each call declares its parameters, and others are refused, as unknown fields
//! of a body are. This file also has the pages of lists.

use std::ops::RangeInclusive;
use std::str::FromStr;

use axum::extract::Query;
use axum::http::Uri;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, ToSchema};

use super::problem::{Problem, Result};
use crate::domain::fields::{FieldError, shown};
use crate::domain::words::UnknownWord;
use crate::domain::{Instant, parse_instant};

/// The query parameters of a call.
pub trait FromQuery: Sized {
    /// Takes every parameter of the call.
    fn from_query(params: &mut Params) -> Result<Self>;

    /// Parses the query of a URI. A parameter that the call does not have, or that is there twice,
    /// is an invalid request that names it.
    fn of(uri: &Uri) -> Result<Self> {
        let mut params = Params::of(uri);
        let read = Self::from_query(&mut params)?;
        params.finish()?;
        Ok(read)
    }
}

/// A call without query parameters.
impl FromQuery for () {
    fn from_query(_: &mut Params) -> Result<Self> {
        Ok(())
    }
}

/// The parameters of a query, to be taken one by one.
#[derive(Clone, Debug, Default)]
pub struct Params {
    pairs: Vec<(String, String)>,
    asked: Vec<&'static str>,
}

impl Params {
    /// Of a URI.
    pub fn of(uri: &Uri) -> Self {
        let pairs = match uri.query() {
            None => Vec::new(),
            // Any text parses as a list of pairs.
            Some(_) => Query::<Vec<(String, String)>>::try_from_uri(uri)
                .map(|Query(pairs)| pairs)
                .unwrap_or_default(),
        };
        Self {
            pairs,
            asked: Vec::new(),
        }
    }

    fn value(&mut self, name: &'static str) -> Option<&str> {
        if self.pairs.is_empty() {
            return None;
        }
        self.asked.push(name);
        self.pairs
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// The raw value of a parameter; an empty one counts as missing.
    pub fn text(&mut self, name: &'static str) -> Option<&str> {
        self.value(name).filter(|value| !value.is_empty())
    }

    /// An integer within a range. Any other value, an empty one too, is an invalid request that
    /// names the parameter.
    pub fn integer(
        &mut self,
        name: &'static str,
        range: RangeInclusive<i64>,
    ) -> Result<Option<i64>> {
        let Some(text) = self.value(name) else {
            return Ok(None);
        };
        // Rust's parser accepts a plus sign; JSON's integers have none.
        let number = text.parse().ok().filter(|_| !text.starts_with('+'));
        match number {
            Some(number) if range.contains(&number) => Ok(Some(number)),
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

    /// A word of a closed list; any other is an invalid request that names it. An empty one counts as
    /// missing.
    pub fn word<T: FromStr<Err = UnknownWord>>(&mut self, name: &'static str) -> Result<Option<T>> {
        if self.text(name).is_none() {
            return Ok(None);
        }
        self.parsed(name, |text| {
            text.parse().map_err(|error: UnknownWord| error.to_string())
        })
    }

    /// `true` or `false`; anything else, nothing too, is an invalid request that names it.
    pub fn flag(&mut self, name: &'static str) -> Result<Option<bool>> {
        match self.value(name) {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Problem::invalid_field(name, "must be true or false")),
        }
    }

    /// An instant, RFC 3339.
    pub fn instant(&mut self, name: &'static str) -> Result<Option<Instant>> {
        self.parsed(name, |text| {
            parse_instant(text).ok_or_else(|| {
                "must be an RFC 3339 instant such as 2026-11-01T00:00:00Z, with a plus written %2B".to_owned()
            })
        })
    }

    /// A parameter read by `read`, an empty one too; its error says what it must be.
    pub fn parsed<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> std::result::Result<T, String>,
    ) -> Result<Option<T>> {
        let Some(text) = self.value(name) else {
            return Ok(None);
        };
        read(text).map(Some).map_err(|reason| {
            Problem::invalid_field(name, format!("{reason}, got {}", shown(text)))
        })
    }

    /// Refuses parameters that were not taken, and repeated ones.
    fn finish(self) -> Result<()> {
        let mut errors = Vec::new();
        for (at, (name, _)) in self.pairs.iter().enumerate() {
            let reason = if !self.asked.contains(&name.as_str()) {
                "is not a known parameter"
            } else if self.pairs[..at].iter().any(|(other, _)| other == name) {
                "is there more than once"
            } else {
                continue;
            };
            errors.push(FieldError::invalid(shown(name), reason));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(Problem::invalid_request(errors))
        }
    }
}

/// The default page size.
pub const DEFAULT_LIMIT: i64 = 50;

/// The largest page size.
pub const MAX_LIMIT: i64 = 200;

/// The parameters of every list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub struct PageParams {
    /// Most items of the page; 50 where not given
    #[param(minimum = 1, maximum = 200)]
    limit: Option<i64>,
    /// The `next_cursor` of the page before
    #[param(pattern = "^[A-Za-z0-9_-]*$")]
    cursor: Option<String>,
}

/// The requested page of a list; `C` is the content of the list's cursors.
#[derive(Clone, Debug, PartialEq)]
pub struct Paging<C> {
    /// The page size.
    pub limit: i64,
    /// The place after which it begins; `None` for the first page.
    pub after: Option<C>,
}

impl<C: DeserializeOwned> FromQuery for Paging<C> {
    fn from_query(params: &mut Params) -> Result<Self> {
        let limit = params.integer("limit", 1..=MAX_LIMIT)?;
        let after = match params.text("cursor") {
            None => None,
            Some(cursor) => Some(decode_cursor(cursor).ok_or_else(bad_cursor)?),
        };
        Ok(Self {
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            after,
        })
    }
}

/// The error for a cursor that no page has returned.
pub fn bad_cursor() -> Problem {
    Problem::invalid_field("cursor", "must be the next_cursor of a page")
}

impl<C> Paging<C> {
    /// How many rows to read: one more than the page holds, to see whether there is a next page.
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

/// The response of every list.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Page<T> {
    /// This page's items.
    pub items: Vec<T>,
    /// The `cursor` of the next page; `null` on the last page.
    #[schema(required)]
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// These rows, and whether there are `more` after them.
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

/// The place of a text from [`encode_cursor`]; `None` for any other text.
pub fn decode_cursor<C: DeserializeOwned>(cursor: &str) -> Option<C> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(cursor).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of<Q: FromQuery>(query: &str) -> Result<Q> {
        Q::of(&format!("/list?{query}").parse().expect("an address"))
    }

    #[test]
    fn reads_limits_and_cursors_and_names_what_is_wrong() {
        for query in ["", "cursor="] {
            let paging: Paging<(i64, String)> = of(query).expect("first page");
            assert_eq!((paging.limit, paging.after), (50, None));
        }
        let cursor = encode_cursor(&(7, "a/b"));
        let paging: Paging<(i64, String)> =
            of(&format!("limit=200&cursor={cursor}")).expect("a page");
        assert_eq!(paging.after, Some((7, "a/b".to_owned())));
        for query in [
            "limit=0",
            "limit=-0",
            "limit=201",
            "limit=x",
            "limit=",
            "limit=1.5",
            "limit=%2B1",
            "cursor=x",
            "cursor=%25",
        ] {
            let refused = of::<Paging<(i64, String)>>(query);
            assert_eq!(refused.expect_err(query).status(), 422, "{query}");
        }
    }

    #[test]
    fn what_a_call_does_not_have_is_refused_and_named() {
        assert!(of::<()>("").is_ok());
        for (query, field) in [
            ("colour=red", "colour"),
            ("colour", "colour"),
            ("limit=1&Limit=2", "Limit"),
            ("limit=1&limit=2", "limit"),
            ("=1", ""),
        ] {
            let refused = of::<Paging<i64>>(query).expect_err(query);
            assert_eq!(refused.status(), 422);
            assert_eq!(refused.members()["errors"][0]["field"], field, "{query}");
        }
        assert_eq!(of::<()>("limit=1").expect_err("refused").status(), 422);
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
}
