//! The JSON of topics, files and the API. It matches `schemas/`.

pub mod admin;
pub mod budget_use;
pub mod credit;
pub mod debs2015;
pub mod document;
pub mod erasure;
pub mod extension;
pub mod landing;
pub mod listing;
pub mod outcomes;
pub mod participation;
pub mod pre_offer;
pub mod promotion_status;
pub mod quarantine;
pub mod receipt;
pub mod reminder;
pub mod revision;
pub mod reward;
pub mod ride_completed;
pub mod ride_search;
pub mod schemas;
pub mod stats;
pub mod system;
pub mod traceparent;
pub mod user;

use chrono::SecondsFormat;
use serde::Serializer;

use crate::domain::{Instant, parse_instant};

/// RFC 3339 in UTC with exactly three fraction digits, for `#[serde(with = "wire::instant")]`.
pub mod instant {
    use super::{Instant, Serializer, format_instant, parse_instant};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    /// Writes an instant as the contract does.
    pub fn serialize<S: Serializer>(instant: &Instant, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format_instant(*instant))
    }

    /// Reads RFC 3339 with any offset, cut to milliseconds.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Instant, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse_instant(&text).ok_or_else(|| Error::custom("must be an RFC 3339 instant"))
    }
}

/// The same for an instant that may be `null`.
pub mod optional_instant {
    use super::{Instant, Serializer, format_instant, parse_instant};
    use serde::de::Error;
    use serde::{Deserialize, Deserializer};

    /// Writes an instant as the contract does, or `null`.
    pub fn serialize<S: Serializer>(
        instant: &Option<Instant>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match instant {
            Some(instant) => serializer.serialize_str(&format_instant(*instant)),
            None => serializer.serialize_none(),
        }
    }

    /// Reads RFC 3339 with any offset, or `null`.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Instant>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let instant = parse_instant(&text);
        let instant = instant.ok_or_else(|| Error::custom("must be an RFC 3339 instant"))?;
        Ok(Some(instant))
    }
}

/// An instant as the contract writes it: `2026-11-22T18:04:05.123Z`.
pub fn format_instant(instant: Instant) -> String {
    instant.to_rfc3339_opts(SecondsFormat::Millis, true)
}
