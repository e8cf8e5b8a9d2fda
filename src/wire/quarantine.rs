//! Records that are no rides, as operators see them (contract 6).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// A record of the ride topic that breaks its contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct QuarantinedRide {
    /// Its id here.
    pub quarantine_id: Uuid,
    /// Where it was read.
    pub topic: String,
    /// Where it was read.
    pub partition: i32,
    /// Where it was read.
    pub offset: i64,
    /// The record's key as a text; what is not UTF-8 in it is replaced.
    #[serde(serialize_with = "optional_text")]
    #[schema(required, value_type = Option<String>)]
    pub key: Option<Vec<u8>>,
    /// Its client, where one can be told.
    #[schema(required)]
    pub user_id: Option<i64>,
    /// Why it is no ride.
    #[schema(example = "WRONG_TYPE")]
    pub reason: String,
    /// The same in words.
    pub detail: String,
    /// The record's value, byte by byte.
    #[serde(rename = "value_base64", serialize_with = "base64")]
    #[schema(value_type = String)]
    pub value: Vec<u8>,
    /// When it was recorded.
    #[serde(with = "crate::wire::instant")]
    pub received_at: DateTime<Utc>,
    /// `OPEN`, `REPLAYED` or `DISMISSED`.
    #[schema(example = "OPEN")]
    pub status: String,
}

fn optional_text<S: Serializer>(key: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
    match key {
        Some(key) => serializer.serialize_str(&String::from_utf8_lossy(key)),
        None => serializer.serialize_none(),
    }
}

fn base64<S: Serializer>(value: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(value))
}
