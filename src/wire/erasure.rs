//! The erasure ledger: whose data was erased, so that a restored backup does not bring it back. Rows
//! of a table and records of a compacted topic; clients are told by a hash of their id only.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::words::words;

words! {
    /// What became of the loan of a client who was rewarded.
    pub enum ErasedLoan {
        /// The participation and the origination stay.
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
    /// Which secret it was.
    pub key_id: String,
    /// When it was ordered, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub erased_at: DateTime<Utc>,
    /// Whether the client was ever rewarded, at this erasure or an earlier one.
    pub rewarded: bool,
    /// What became of the loan; `null` for a client who had none.
    pub loan: Option<ErasedLoan>,
}
