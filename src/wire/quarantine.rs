//! Records that are no rides, as operators see them (contract 6).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use super::receipt::Receipt;
use super::ride_completed::QuarantineReason;
use super::ride_completed::RideCompleted;
use crate::domain::fields::{FieldError, Fields, Refusal, instant, parsed, text};
use crate::domain::words::words;

/// The longest reason or note, in characters.
const MAX_REASON_CHARS: usize = 1_000;

words! {
    /// Where a quarantined record stands.
    pub enum QuarantineStatus {
        /// It waits for an operator, and holds its client's expiry.
        Open = "OPEN",
        /// It was judged after all, with any outcome.
        Replayed = "REPLAYED",
        /// It was given up.
        Dismissed = "DISMISSED",
    }
}

words! {
    /// What became of a record that was replayed.
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
    /// Names it here.
    pub quarantine_id: Uuid,
    /// The topic it was read from.
    pub topic: String,
    /// The partition it was read from.
    #[schema(minimum = 0)]
    pub partition: i32,
    /// Its offset in that partition.
    #[schema(minimum = 0)]
    pub offset: i64,
    /// Its key as text, if it had one; what is not UTF-8 is replaced.
    #[schema(required)]
    pub key: Option<String>,
    /// Its client, as far as one can be told.
    #[schema(required)]
    pub user_id: Option<i64>,
    /// The word for what is wrong with it.
    pub reason: QuarantineReason,
    /// All that is wrong with it.
    pub detail: String,
    /// Its bytes.
    #[schema(content_encoding = "base64")]
    pub value_base64: String,
    /// When it was recorded.
    #[serde(with = "crate::wire::instant")]
    pub received_at: DateTime<Utc>,
    /// Where it stands.
    pub status: QuarantineStatus,
    /// When it was resolved; `null` while it is open.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub resolved_at: Option<DateTime<Utc>>,
    /// By whom and how it was resolved; `null` while it is open.
    #[schema(required, value_type = Option<Object>)]
    pub resolution: Option<Value>,
}

/// The corrected ride, where the record as it came is no ride.
#[derive(Debug, ToSchema)]
pub struct Correction {
    /// A whole ride-completed event, for the same client; for any client where the record's cannot
    /// be told.
    #[schema(value_type = Option<RideCompleted>)]
    pub ride: Option<Value>,
}

impl Correction {
    /// Reads the body of a request; every error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let ride = fields.optional("ride", |value| {
            if value.is_object() {
                Ok(value.clone())
            } else {
                Err(Refusal::WrongType("must be an object".to_owned()))
            }
        });
        fields.finish(Some(Self { ride }))
    }
}

/// What came of a replay.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Replayed {
    /// Which way it went.
    pub outcome: ReplayOutcome,
    /// The receipt, the earlier one of a duplicate; `null` where the client takes part in nothing.
    #[schema(required)]
    pub receipt: Option<Receipt>,
}

/// Why a record is given up.
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
    /// Reads the body of a request; every error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let reason = fields.required("reason", text(MAX_REASON_CHARS));
        fields.finish(reason.map(|reason| Self { reason }))
    }
}

/// Which open records a bulk call is about, and why it is made.
#[derive(Debug, ToSchema)]
pub struct BulkRequest {
    /// Only of this reason.
    pub reason: Option<QuarantineReason>,
    /// Only those received at or after this.
    pub from: Option<DateTime<Utc>>,
    /// Only those received before this.
    pub to: Option<DateTime<Utc>>,
    /// Why, for the audit: 1 to 1,000 characters.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "the platform published cents as decimals that day"
    )]
    pub note: String,
}

impl BulkRequest {
    /// Reads the body of a request; every error names its field.
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
