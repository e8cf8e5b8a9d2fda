//! Entity tags and the conditions `If-None-Match` and `If-Match` (RFC 9110, 8.8.3 and 13.1): all are
//! written and read here.

use std::fmt;

use axum::Json;
use axum::http::header::{ETAG, IF_MATCH, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::TimeDelta;
use serde::Serialize;

use crate::store::participations::StoredParticipation;
use crate::wire::revision::{Precondition, Revision};

/// The suffixes that compressing proxies add to a tag, after `-`, `--` or `;`.
const CODINGS: [&str; 5] = ["gzip", "br", "zstd", "deflate", "df"];

/// Whether the condition matches the tag `"{opaque}"`: the client has that version already.
pub fn is_known(headers: &HeaderMap, opaque: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        let mut known = is_any(text);
        each_tag(text, |tag| known |= tag == opaque);
        known
    })
}

/// The `If-Match` condition of a change. Tags are compared strongly: a weak tag never matches.
pub fn precondition(headers: &HeaderMap) -> Precondition {
    let mut values = headers.get_all(IF_MATCH).iter().peekable();
    if values.peek().is_none() {
        return Precondition::None;
    }
    let mut strong = Vec::new();
    for value in values {
        let text = value.to_str().unwrap_or_default();
        if is_any(text) {
            return Precondition::Exists;
        }
        each_strong_tag(text, |tag| strong.push(tag.to_owned()));
    }
    Precondition::OneOf(strong)
}

/// A document that operators change, with its revision as a strong tag.
pub struct WithRevision<T>(pub T);

impl<T: Serialize> WithRevision<T> {
    /// The response to a read; without a body if the caller has this revision.
    pub fn unless_known(self, headers: &HeaderMap) -> Response {
        let revision = Revision::of(&self.0).to_string();
        if is_known(headers, &revision) {
            return (
                StatusCode::NOT_MODIFIED,
                [(ETAG, format!("\"{revision}\""))],
            )
                .into_response();
        }
        self.into_response()
    }
}

impl<T: Serialize> IntoResponse for WithRevision<T> {
    fn into_response(self) -> Response {
        let tag = format!("\"{}\"", Revision::of(&self.0));
        ([(ETAG, tag)], Json(self.0)).into_response()
    }
}

/// Whether the condition is `*`, which matches any tag.
fn is_any(text: &str) -> bool {
    text.trim() == "*"
}

/// The tags of a list, weak or not, without quotes, and without a proxy's suffix.
fn each_tag<'a>(text: &'a str, mut take: impl FnMut(&'a str)) {
    let mut rest = text;
    // A tag may contain a comma, so the quotes delimit.
    while let Some((_, after)) = rest.split_once('"') {
        let Some((opaque, after)) = after.split_once('"') else {
            return;
        };
        take(without_coding(opaque));
        rest = after;
    }
}

/// The strong tags of a list, in the form of [`each_tag`].
fn each_strong_tag<'a>(text: &'a str, mut take: impl FnMut(&'a str)) {
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('"') {
        let Some((opaque, after)) = after.split_once('"') else {
            return;
        };
        if !before.ends_with("W/") {
            take(without_coding(opaque));
        }
        rest = after;
    }
}

fn without_coding(opaque: &str) -> &str {
    for coding in CODINGS {
        if let Some(rest) = opaque.strip_suffix(coding) {
            let tag = rest
                .strip_suffix("--")
                .or_else(|| rest.strip_suffix(['-', ';']));
            return tag.unwrap_or(opaque);
        }
    }
    opaque
}

/// A participation's tag: `W/"7"`, or `W/"7s"` while settling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The version.
    pub version: i32,
    /// The deadline has passed, and the participation has not expired.
    pub settling: bool,
}

/// How far two estimates of the database's clock may differ.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::seconds(2);

/// Settling must not end because another process, or the next estimate, has a slightly earlier
/// clock. If the client was told that it is settling, the deadline stays passed.
pub fn keep_settling(stored: StoredParticipation, was_settling: bool) -> StoredParticipation {
    let deadline = stored.state.challenge_deadline;
    if was_settling && stored.now < deadline && deadline - stored.now <= CLOCKS_DIFFER {
        return StoredParticipation {
            now: deadline,
            ..stored
        };
    }
    stored
}

impl Tag {
    /// The tag of a participation that was just read.
    pub fn of(stored: &StoredParticipation) -> Self {
        Self {
            version: stored.state.version,
            settling: stored.state.is_settling(stored.now),
        }
    }

    /// Parses an opaque tag (without quotes); `None` if it does not have this form.
    fn parse(opaque: &str) -> Option<Self> {
        let (version, settling) = match opaque.strip_suffix('s') {
            Some(version) => (version, true),
            None => (opaque, false),
        };
        let written = version.bytes().all(|byte| byte.is_ascii_digit());
        let version = version.parse().ok().filter(|_| written)?;
        Some(Self { version, settling })
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settling = if self.settling { "s" } else { "" };
        write!(f, "W/\"{}{settling}\"", self.version)
    }
}

/// The `If-None-Match` condition of a request: the tags that its client has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    any: bool,
    tags: Vec<Tag>,
    present: bool,
}

impl Condition {
    /// Parses `If-None-Match`: `*` or a list of tags, weak or not, which are compared weakly.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut condition = Self::default();
        for value in headers.get_all(IF_NONE_MATCH) {
            condition.present = true;
            let Ok(text) = value.to_str() else { continue };
            condition.read(text);
        }
        condition
    }

    fn read(&mut self, text: &str) {
        self.any |= is_any(text);
        each_tag(text, |opaque| self.tags.extend(Tag::parse(opaque)));
    }

    /// The condition of a long poll. `*` means the tag that was found first; the poll waits for a
    /// change of it.
    pub fn pinned(self, found: Tag) -> Self {
        if !self.any {
            return self;
        }
        Self {
            any: false,
            tags: vec![found],
            present: true,
        }
    }

    /// Whether there is a condition.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// Whether the client has this version already.
    pub fn matches(&self, tag: Tag) -> bool {
        self.any || self.tags.contains(&tag)
    }

    /// The newest version the client has seen.
    pub fn newest(&self) -> Option<i32> {
        self.tags.iter().map(|tag| tag.version).max()
    }

    /// Whether the client has been told that the participation is settling.
    pub fn knows_settling(&self) -> bool {
        self.tags.iter().any(|tag| tag.settling)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(values: &[&str]) -> Condition {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(IF_NONE_MATCH, value.parse().expect("a value"));
        }
        Condition::of(&headers)
    }

    const SEVEN: Tag = Tag {
        version: 7,
        settling: false,
    };
    const SEVEN_SETTLING: Tag = Tag {
        version: 7,
        settling: true,
    };

    #[test]
    fn a_precondition_is_a_list_of_strong_tags_or_whatever_there_is() {
        let of = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(IF_MATCH, value.parse().expect("a value"));
            }
            precondition(&headers)
        };
        let one_of =
            |tags: &[&str]| Precondition::OneOf(tags.iter().map(|tag| (*tag).to_owned()).collect());
        assert_eq!(of(&[]), Precondition::None);
        assert_eq!(of(&[" * "]), Precondition::Exists);
        assert_eq!(
            of(&["\"a\", W/\"b\",\"c-gzip\"", "\"d\""]),
            one_of(&["a", "c", "d"])
        );
        // A malformed condition never matches.
        for value in ["", "a", "\"a", "W/\"a\""] {
            assert_eq!(of(&[value]), one_of(&[]), "{value}");
        }
    }

    #[test]
    fn compares_weakly_and_reads_lists() {
        for value in [
            "W/\"7\"",
            "\"7\"",
            "\"6\", W/\"7\"",
            " \"a,b\" ,W/\"7\"",
            "W/\"7-gzip\"",
            "\"7--gzip\"",
            "\"7;br\"",
        ] {
            let condition = condition(&[value]);
            assert!(condition.matches(SEVEN), "{value}");
            assert!(!condition.matches(SEVEN_SETTLING), "{value}");
            assert_eq!(condition.newest(), Some(7), "{value}");
        }
        assert!(condition(&["W/\"7s\""]).matches(SEVEN_SETTLING));
        assert!(condition(&["W/\"7s-gzip\""]).matches(SEVEN_SETTLING));
        assert_eq!(SEVEN.to_string(), "W/\"7\"");
        assert_eq!(SEVEN_SETTLING.to_string(), "W/\"7s\"");
        assert!(condition(&["W/\"7s\""]).knows_settling());
        assert!(condition(&["\"1\"", "\"7\""]).matches(SEVEN));
        let any = condition(&["*"]);
        assert!(any.matches(SEVEN) && any.newest().is_none());
    }

    #[test]
    fn what_is_no_tag_of_ours_matches_nothing() {
        for value in [
            "7",
            "\"7",
            "\"x\"",
            "\"\"",
            "\"s\"",
            "\"+7\"",
            "W/\"7S\"",
            "",
            "\"99999999999\"",
            "\"7-\"",
            "\"7gzip\"",
            "\"-gzip\"",
            "\"7-gzip-gzip\"",
        ] {
            let condition = condition(&[value]);
            assert!(
                condition.is_present() && !condition.matches(SEVEN),
                "{value}"
            );
            assert_eq!(condition.newest(), None, "{value}");
        }
        assert!(!condition(&[]).is_present());
    }
}
