//! All data of a client, for operators (contract 6).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::participation::Participation;
use super::promotion_status::{Cause, EventType};
use super::quarantine::QuarantinedView;
use super::receipt::Receipt;
use crate::domain::eligibility::{Check, Screen};
use crate::domain::participation::DeadlineOf;
use crate::domain::split::SplitStatus;

/// A client at one moment.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct User {
    /// The client.
    pub user_id: i64,
    /// Whether the service ever had data of the client; also `true` for a client whose data was erased.
    pub known: bool,
    /// When their data was erased last; `null` if it never was.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub erased_at: Option<DateTime<Utc>>,
    /// Their pre-offers, the most recently imported first.
    pub pre_offers: Vec<PreOffer>,
    /// Their splits, newest first.
    pub splits: Vec<Split>,
    /// Their participations, newest first.
    pub participations: Vec<UserParticipation>,
    /// The offers they accepted.
    pub active_pre_offers: Vec<ActivePreOffer>,
    /// Their loan applications.
    pub applications: Vec<Application>,
    /// The origination sessions.
    pub sessions: Vec<Session>,
    /// Their quarantined records, newest first, at most 200.
    pub quarantine: Vec<QuarantinedView>,
    /// What the landing would show, and why.
    pub eligibility: Eligibility,
    /// The moment, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub server_time: DateTime<Utc>,
}

/// What the landing would show, and why.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Eligibility {
    /// The screen.
    pub screen: Screen,
    /// Every rule of eligibility that could be judged, in order.
    pub checks: Vec<Check>,
    /// The client's latest participation, which decides the screen before eligibility does.
    #[schema(required)]
    pub latest: Option<LatestParticipation>,
    /// A valid pre-offer of another segment than newbie.
    #[schema(required)]
    pub regular_pre_offer_id: Option<Uuid>,
}

/// The parts of the latest participation that decide the screen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct LatestParticipation {
    /// The promotion.
    pub promotion_id: i64,
    /// Whether the client has acknowledged its end.
    pub acknowledged: bool,
    /// Whether the pre-offer it was started from still exists and is valid.
    pub pre_offer_valid: bool,
}

/// A pre-approved loan from scoring.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct PreOffer {
    /// Its id here.
    pub pre_offer_id: Uuid,
    /// Its id at scoring.
    pub external_id: String,
    /// `newbie` or another.
    pub segment: String,
    /// The promotion that scoring named.
    #[schema(required)]
    pub promotion_key: Option<String>,
    /// The promotion, if its key was known at the import.
    #[schema(required)]
    pub promotion_id: Option<i64>,
    /// The loan product.
    pub product_id: i64,
    /// The loan's amount in cents.
    pub amount_cents: i64,
    /// The amount's currency.
    pub currency_code: String,
    /// As scoring wrote it.
    pub repayment_rate: String,
    /// The client's country.
    pub country_code: String,
    /// The end of its validity, exclusive.
    #[serde(with = "crate::wire::instant")]
    pub valid_until: DateTime<Utc>,
    /// When it was first imported.
    #[serde(with = "crate::wire::instant")]
    pub created_at: DateTime<Utc>,
    /// When an import last changed it.
    #[serde(with = "crate::wire::instant")]
    pub updated_at: DateTime<Utc>,
}

/// A decision to show the promotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Split {
    /// Its id.
    pub split_id: Uuid,
    /// The pre-offer it was made from.
    pub pre_offer_id: Uuid,
    /// The promotion shown.
    pub promotion_id: i64,
    /// Its status; also `EXPIRED` once its validity has passed by the clock.
    pub status: SplitStatus,
    /// The client's country.
    pub country_code: String,
    /// The end of its validity, exclusive.
    #[serde(with = "crate::wire::instant")]
    pub valid_until: DateTime<Utc>,
    /// The loan product.
    pub product_id: i64,
    /// The loan's amount in cents.
    pub amount_cents: i64,
    /// The amount's currency.
    pub currency_code: String,
    /// As scoring wrote it.
    pub repayment_rate: String,
    /// When it was created.
    #[serde(with = "crate::wire::instant")]
    pub created_at: DateTime<Utc>,
}

/// A participation with its receipts and the data that only operators see.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct UserParticipation {
    /// The participation as the client sees it.
    #[serde(flatten)]
    pub participation: Participation,
    /// The pre-offer it was started from.
    pub pre_offer_id: Uuid,
    /// The client's country at the start.
    pub country_code: String,
    /// When the client acknowledged that it expired; `null` if they did not.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub acknowledged_at: Option<DateTime<Utc>>,
    /// Its receipts, newest `completed_at` first, at most 200.
    pub receipts: Vec<Receipt>,
    /// The versions, oldest first, without those that only counted rides. Versions before this was recorded
    /// (schema version 13) are missing.
    pub history: Vec<HistoryEntry>,
    /// The reminders that were sent, oldest first. Those before this was recorded (schema version 23) are
    /// missing.
    pub reminders: Vec<SentReminder>,
}

/// A reminder that was sent to the topic of reminders.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct SentReminder {
    /// The deadline it was about.
    pub of: DeadlineOf,
    /// How long before the deadline it was due, as in the conditions.
    #[schema(example = "P1D")]
    pub lead: String,
    /// The deadline as it was then.
    #[serde(with = "crate::wire::instant")]
    pub deadline: DateTime<Utc>,
    /// When it was recorded for sending; its `occurred_at`.
    #[serde(with = "crate::wire::instant")]
    pub sent_at: DateTime<Utc>,
}

/// A version of a participation that does more than count rides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct HistoryEntry {
    /// The version.
    #[schema(minimum = 1, example = 1)]
    pub version: i32,
    /// The type of the change.
    #[serde(rename = "type")]
    pub event_type: EventType,
    /// When it was recorded.
    #[serde(with = "crate::wire::instant")]
    pub occurred_at: DateTime<Utc>,
    /// The cause.
    pub cause: Cause,
}

/// An accepted offer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct ActivePreOffer {
    /// Its id.
    pub active_pre_offer_id: Uuid,
    /// The pre-offer it was made of.
    pub pre_offer_id: Uuid,
    /// The promotion it was earned in.
    pub promotion_id: i64,
    /// The loan product.
    pub product_id: i64,
    /// The product's name at that time.
    pub product_name: String,
    /// How long the loan runs, in days.
    pub term_days: i32,
    /// The URL of its terms.
    #[schema(required)]
    pub terms_url: Option<String>,
    /// The loan's amount in cents.
    pub amount_cents: i64,
    /// The amount's currency.
    pub currency_code: String,
    /// As scoring wrote it.
    pub repayment_rate: String,
    /// When it was accepted.
    #[serde(with = "crate::wire::instant")]
    pub created_at: DateTime<Utc>,
}

/// A loan application.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Application {
    /// Its id.
    pub application_id: Uuid,
    /// The accepted offer it is for.
    pub active_pre_offer_id: Uuid,
    /// Its status.
    #[schema(example = "CREATED")]
    pub status: String,
    /// When it was created.
    #[serde(with = "crate::wire::instant")]
    pub created_at: DateTime<Utc>,
}

/// An origination session.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Session {
    /// Its id.
    pub session_id: Uuid,
    /// The application it is for.
    pub application_id: Uuid,
    /// The split whose parameters it carries.
    pub split_id: Uuid,
    /// The flow; 8 is the standard one.
    #[schema(example = 8)]
    pub sequence_id: i16,
    /// The split's parameters.
    #[schema(value_type = Object)]
    pub parameters: Value,
    /// When it was created.
    #[serde(with = "crate::wire::instant")]
    pub created_at: DateTime<Utc>,
}
