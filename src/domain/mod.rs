//! The pure rules: what counts, what may follow what, who is eligible. No async, SQL, Kafka or
//! HTTP in here, so every rule can be tested by itself and read in one place.

pub mod eligibility;
pub mod fields;
pub mod participation;
pub mod period;
pub mod promotion;
pub mod reward;
pub mod ride;
pub mod source;
pub mod split;

use chrono::{DateTime, Utc};

/// An instant; the contract's precision is milliseconds (see [`to_millis`]).
pub type Instant = DateTime<Utc>;

/// The client: a positive 64-bit integer (contract 1).
pub type UserId = i64;

/// A promotion's number (contract 1).
pub type PromotionId = i64;

/// Cuts finer digits off, as the contract says of every instant on input. A leap second becomes
/// the second after it, which is how Postgres keeps it too.
pub fn to_millis(instant: Instant) -> Instant {
    DateTime::from_timestamp_millis(instant.timestamp_millis()).unwrap_or(instant)
}
