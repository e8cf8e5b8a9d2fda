//! Quarantined records: the JSON of the admin API (contract 6).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::receipt::Receipt;
use super::ride_completed::QuarantineReason;
use super::ride_completed::RideCompleted;
use crate::domain::fields::{BadValue, FieldError, Fields, instant, parsed, text};
use crate::domain::words::words;

/// The longest reason or note, in characters.
const MAX_REASON_CHARS: usize = 1_000;

words! {
    /// The status of a quarantined record.
    pub enum QuarantineStatus {
        /// It waits for an operator, and delays its client's expiry.
        Open = "OPEN",
        /// It was judged later, with any outcome.
        Replayed = "REPLAYED",
        /// An operator dismissed it.
        Dismissed = "DISMISSED",
    }
}

words! {
    /// The result of replaying a record.
    pub enum ReplayOutcome {
        /// It was judged, and its receipt recorded.
        Applied = "APPLIED",
        /// It was recorded before.
        Duplicate = "DUPLICATE",
        /// The client has no challenge in progress.
        NoParticipation = "NO_PARTICIPATION",
    }
}

/// A quarantined record as the admin API shows it.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct QuarantinedView {
    /// Its id in this service.
    pub quarantine_id: Uuid,
    /// The topic it was read from.
    pub topic: String,
    /// The partition it was read from.
    #[schema(minimum = 0)]
    pub partition: i32,
    /// Its offset in that partition.
    #[schema(minimum = 0)]
    pub offset: i64,
    /// Its key as text, if it had one; bytes that are not UTF-8 are replaced.
    #[schema(required)]
    pub key: Option<String>,
    /// Its client, if one can be read from it.
    #[schema(required)]
    pub user_id: Option<i64>,
    /// The first fault.
    pub reason: QuarantineReason,
    /// All faults.
    pub detail: String,
    /// Its bytes.
    #[schema(content_encoding = "base64")]
    pub value_base64: String,
    /// When it was recorded.
    #[serde(with = "crate::wire::instant")]
    pub received_at: DateTime<Utc>,
    /// Its status.
    pub status: QuarantineStatus,
    /// When it was resolved; `null` while it is open.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub resolved_at: Option<DateTime<Utc>>,
    /// Who resolved it and how; `null` while it is open.
    #[schema(required, value_type = Option<Object>)]
    pub resolution: Option<Value>,
}

/// The corrected ride of a record that is not a valid ride.
#[derive(Debug, ToSchema)]
pub struct Correction {
    /// A whole ride-completed event for the same client, or for any client if the record's cannot be
    /// read.
    #[schema(value_type = Option<RideCompleted>)]
    pub ride: Option<Value>,
}

impl Correction {
    /// Reads the body of a request. Each error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let ride = fields.optional("ride", |value| {
            if value.is_object() {
                Ok(value.clone())
            } else {
                Err(BadValue::WrongType("must be an object".to_owned()))
            }
        });
        fields.finish(Some(Self { ride }))
    }
}

/// The result of a replay.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// What the replay did.
    pub outcome: ReplayOutcome,
    /// The receipt; for a duplicate, the earlier one; `null` for a client without a challenge.
    #[schema(required)]
    pub receipt: Option<Receipt>,
}

/// Why a record is dismissed.
#[derive(Debug, ToSchema)]
pub struct DismissalReason {
    /// 1 to 1,000 characters.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "a test of the platform"
    )]
    pub reason: String,
}

impl DismissalReason {
    /// Reads the body of a request. Each error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let reason = fields.required("reason", text(MAX_REASON_CHARS));
        fields.finish(reason.map(|reason| Self { reason }))
    }
}

/// The open records that a bulk call selects, and its reason.
#[derive(Debug, ToSchema)]
pub struct BulkRequest {
    /// Only records with this reason.
    pub reason: Option<QuarantineReason>,
    /// Only records received at or after this instant.
    pub from: Option<DateTime<Utc>>,
    /// Only records received before this instant.
    pub to: Option<DateTime<Utc>>,
    /// The operator's note, for the audit: 1 to 1,000 characters.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "the platform published cents as decimals that day"
    )]
    pub note: String,
}

impl BulkRequest {
    /// Reads the body of a request. Each error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let reason = fields.optional("reason", parsed);
        let from = fields.optional("from", instant);
        let to = fields.optional("to", instant);
        let note = fields.required("note", text(MAX_REASON_CHARS));
        fields.finish(note.map(|note| Self {
            reason,
            from,
            to,
            note,
        }))
    }
}
