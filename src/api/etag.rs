//! Entity tags and the condition `If-None-Match` (RFC 9110, 8.8.3 and 13.1.2): both are written and
//! read here.

use std::fmt;

use axum::http::HeaderMap;
use axum::http::header::IF_NONE_MATCH;
use chrono::TimeDelta;

use crate::store::participations::Stored;

/// What proxies that compress a response put after its tag, behind `-`, `--` or `;`.
const CODINGS: [&str; 5] = ["gzip", "br", "zstd", "deflate", "df"];

/// Whether the condition is met by something whose tag is `"{opaque}"`: the client has it already.
pub fn is_known(headers: &HeaderMap, opaque: &str) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|value| {
        let text = value.to_str().unwrap_or_default();
        let mut known = is_any(text);
        each_tag(text, |tag| known |= tag == opaque);
        known
    })
}

/// Whether the condition is `*`: whatever there is.
fn is_any(text: &str) -> bool {
    text.trim() == "*"
}

/// The tags of a list, weak or not, without quotes, and without what a proxy put after them.
fn each_tag<'a>(text: &'a str, mut take: impl FnMut(&'a str)) {
    let mut rest = text;
    // A tag may hold a comma, so the quotes lead.
    while let Some((_, after)) = rest.split_once('"') {
        let Some((opaque, after)) = after.split_once('"') else {
            return;
        };
        take(without_coding(opaque));
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
    /// Past the deadline, and not expired.
    pub settling: bool,
}

/// How far two estimates of the database's clock may differ.
const CLOCKS_DIFFER: TimeDelta = TimeDelta::seconds(2);

/// Settling does not end because another process, or the next estimate, has the clock a little
/// earlier: where the client was told so, the deadline stays passed.
pub fn keep_settling(stored: Stored, was_settling: bool) -> Stored {
    let deadline = stored.state.challenge_deadline;
    if was_settling && stored.now < deadline && deadline - stored.now <= CLOCKS_DIFFER {
        return Stored {
            now: deadline,
            ..stored
        };
    }
    stored
}

impl Tag {
    /// Of what was just read.
    pub fn of(stored: &Stored) -> Self {
        Self {
            version: stored.state.version,
            settling: stored.state.is_settling(stored.now),
        }
    }

    /// Reads an opaque tag (without quotes); `None` for one that is not of this form.
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

/// What a request says about the tags its client has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    any: bool,
    tags: Vec<Tag>,
    present: bool,
}

impl Condition {
    /// Reads `If-None-Match`: `*` or a list of tags, weak or not, which are compared weakly.
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

    /// The condition of one who waits: `*` says "whatever you have", which is what was found first;
    /// a change from it is what they wait for.
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

    /// Whether there is one at all.
    pub fn is_present(&self) -> bool {
        self.present
    }

    /// Whether the client has this already.
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
