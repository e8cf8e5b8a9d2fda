//! The erasure ledger: which clients were erased, so that a restored backup does not bring their data
//! back. It is a table and a compacted topic; both contain only a hash of the client's id.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::words::words;

words! {
    /// What the erasure did with the loan of a rewarded client.
    pub enum ErasedLoan {
        /// The participation and the origination were kept.
        Kept = "KEPT",
        /// They were erased too.
        Forgotten = "FORGOTTEN",
    }
}

/// An erasure. The record's key is `client`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// HMAC-SHA-256 of the client's id under `erase.secret`, base64url.
    pub client: String,
    /// The same in the table and in the topic.
    pub erasure_id: Uuid,
    /// Identifies the secret.
    pub key_id: String,
    /// When it was ordered, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub erased_at: DateTime<Utc>,
    /// Whether the client was ever rewarded, at this erasure or an earlier one.
    pub rewarded: bool,
    /// What was done with the loan; `null` for a client without one.
    pub loan: Option<ErasedLoan>,
}
