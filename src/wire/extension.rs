//! The JSON of extensions and outages, in the admin API and in events (contract, "Extensions" and
//! "Outages").

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::extension::{ExtensionState, Scope};
use crate::domain::fields::{BadValue, FieldError, Fields, integer, parsed, text};
use crate::domain::participation::DeadlineOf;
use crate::domain::period::Period;
use crate::domain::reward::CountryCode;

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 1_000;

/// How a deadline moved, as part of an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeadlineMove {
    /// Which deadline.
    pub of: DeadlineOf,
    /// The old deadline.
    #[serde(with = "crate::wire::instant")]
    pub from: DateTime<Utc>,
    /// The new deadline.
    #[serde(with = "crate::wire::instant")]
    pub to: DateTime<Utc>,
    /// The operator's reason.
    pub reason: String,
}

/// By how much an extension moves deadlines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestedLength {
    /// By this period.
    By(Period),
    /// By the overlap of each claim window with this outage.
    Outage(Uuid),
}

/// An extension to create; always valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewExtension {
    /// Which participations; at least one of its three fields is set.
    pub scope: Scope,
    /// Which deadline.
    pub of: DeadlineOf,
    /// By how much.
    pub length: RequestedLength,
    /// The reason: 1 to 1,000 characters.
    pub reason: String,
}

/// The body of a request for an extension. At least one of `promotion_id`, `country_code` and
/// `user_id`, all of which must match; either `by` or `outage_id`.
#[derive(ToSchema)]
#[schema(as = NewExtension)]
#[expect(dead_code, reason = "only its schema is used")]
pub struct NewExtensionBody {
    /// Only participations in this promotion.
    #[schema(minimum = 1, example = 1)]
    promotion_id: Option<i64>,
    /// Only participations started with a pre-offer of this country, ISO 3166-1 alpha-2.
    #[schema(pattern = "^[A-Z]{2}$", example = "MX")]
    country_code: Option<String>,
    /// Only this client's participation.
    #[schema(minimum = 1, example = 48_151)]
    user_id: Option<i64>,
    /// Which deadline. Required with `by`; with `outage_id` it is `REWARD` and may be left out.
    of: Option<DeadlineOf>,
    /// By how much, ISO 8601 of weeks, days, hours, minutes and seconds, `PT1S` to `P366D`.
    #[schema(value_type = Option<String>, format = "duration", example = "PT6H")]
    by: Option<Period>,
    /// Instead of `by`: each claim window, from completion to its deadline, is lengthened by its overlap with
    /// this outage, once.
    outage_id: Option<Uuid>,
    /// The reason: 1 to 1,000 characters. It is part of the events.
    #[schema(
        min_length = 1,
        max_length = 1000,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "the app was down on Sunday"
    )]
    reason: String,
}

impl NewExtension {
    /// Reads the body of a request. Each error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let scope = Scope {
            promotion_id: fields.optional("promotion_id", integer(1..=i64::MAX)),
            country_code: fields.optional("country_code", parsed::<CountryCode>),
            user_id: fields.optional("user_id", integer(1..=i64::MAX)),
        };
        let is_scoped = ["promotion_id", "country_code", "user_id"]
            .iter()
            .any(|name| fields.has(name));
        if !is_scoped {
            fields.reject(
                "promotion_id",
                "is required where neither country_code nor user_id is given",
            );
        }
        let of = fields.optional("of", parsed::<DeadlineOf>);
        let by = fields.optional("by", by);
        let outage_id = fields.optional("outage_id", parsed::<Uuid>);
        match (fields.has("by"), fields.has("outage_id")) {
            (true, true) => fields.reject("outage_id", "cannot be given together with by"),
            (false, false) => fields.reject("by", "is required without an outage_id"),
            (true, false) if !fields.has("of") => fields.reject("of", "is required"),
            (false, true) if of == Some(DeadlineOf::Challenge) => {
                fields.reject("of", "must be REWARD with an outage_id, got CHALLENGE");
            }
            _ => {}
        }
        let length = by
            .map(RequestedLength::By)
            .or(outage_id.map(RequestedLength::Outage));
        let reason = fields.required("reason", text(MAX_REASON_CHARS));
        fields.finish(length.zip(reason).map(|(length, reason)| Self {
            scope,
            of: of.unwrap_or(DeadlineOf::Reward),
            length,
            reason,
        }))
    }
}

fn by(value: &Value) -> Result<Period, BadValue> {
    let period: Period = parsed(value)?;
    if period.seconds() >= 1 {
        Ok(period)
    } else {
        Err(BadValue::Invalid("must be at least PT1S".to_owned()))
    }
}

/// An extension.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct ExtensionView {
    /// Its id.
    pub extension_id: Uuid,
    /// It covers participations that were live at this instant.
    #[serde(with = "crate::wire::instant")]
    pub at: DateTime<Utc>,
    /// Only participations in this promotion; `null` for all.
    #[schema(required)]
    pub promotion_id: Option<i64>,
    /// Only participations of this country; `null` for all.
    #[schema(required)]
    pub country_code: Option<String>,
    /// Only this client's participation; `null` for all.
    #[schema(required)]
    pub user_id: Option<i64>,
    /// Which deadline.
    pub of: DeadlineOf,
    /// By how much; `null` if it is the overlap with an outage.
    #[schema(required, value_type = Option<String>, format = "duration")]
    pub by: Option<Period>,
    /// The outage; `null` if the length is fixed.
    #[schema(required)]
    pub outage_id: Option<Uuid>,
    /// The operator's reason.
    pub reason: String,
    /// How many participations it covers. Counting stops after 3 s; then this is the number extended so
    /// far.
    #[schema(minimum = 0)]
    pub matched: i64,
    /// How many were extended so far.
    #[schema(minimum = 0)]
    pub done: i64,
    /// How many of `matched` were not extended, once it is done: they had ended, do not overlap with the
    /// outage, or were extended for it before.
    #[schema(minimum = 0)]
    pub skipped: i64,
    /// Its progress.
    pub state: ExtensionState,
    /// When it was done; `null` while it is running.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub finished_at: Option<DateTime<Utc>>,
}

/// A time in which no process with the role `api` reached Postgres.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct OutageView {
    /// Its id.
    pub outage_id: Uuid,
    /// The last moment before it at which Postgres was reached.
    #[serde(with = "crate::wire::instant")]
    pub from: DateTime<Utc>,
    /// The first moment after it at which Postgres was reached.
    #[serde(with = "crate::wire::instant")]
    pub to: DateTime<Utc>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: Value) -> Result<NewExtension, Vec<String>> {
        NewExtension::from_json(body.as_object().expect("an object"))
            .map_err(|errors| errors.into_iter().map(|error| error.field).collect())
    }

    #[test]
    fn a_body_says_whom_which_deadline_and_by_how_much() {
        let id = Uuid::nil();
        let challenge = json!({ "promotion_id": 1, "of": DeadlineOf::Challenge, "by": "PT1S", "reason": "a reason" });
        let with = |field: &str, value: Value| {
            let mut body = challenge.clone();
            body[field] = value;
            read(body)
        };
        let read_challenge = read(challenge.clone()).expect("valid");
        assert_eq!(read_challenge.of, DeadlineOf::Challenge);
        assert_eq!(
            read_challenge.length,
            RequestedLength::By(Period::from_seconds(1).expect("short"))
        );
        assert!(with("by", json!("P366D")).is_ok());
        assert!(with("user_id", json!(7)).is_ok());
        for (field, value, wrong) in [
            ("by", json!("PT0S"), "by"),
            ("by", json!("P367D"), "by"),
            ("by", json!(60), "by"),
            ("by", Value::Null, "by"),
            ("of", json!("BOTH"), "of"),
            ("of", Value::Null, "of"),
            ("outage_id", json!(id), "outage_id"),
            ("promotion_id", Value::Null, "promotion_id"),
            ("promotion_id", json!(0), "promotion_id"),
            ("country_code", json!("mx"), "country_code"),
            ("user_id", json!(-1), "user_id"),
            ("reason", json!(" "), "reason"),
            ("more", json!(1), "more"),
        ] {
            let shown = format!("{field}: {value}");
            assert_eq!(
                with(field, value).err(),
                Some(vec![wrong.to_owned()]),
                "{shown}"
            );
        }
        let outage = json!({ "country_code": "MX", "outage_id": id, "reason": "a reason" });
        let read_outage = read(outage.clone()).expect("valid");
        assert_eq!(read_outage.of, DeadlineOf::Reward);
        assert_eq!(read_outage.length, RequestedLength::Outage(id));
        let mut wrong = outage;
        wrong["of"] = json!(DeadlineOf::Challenge);
        assert_eq!(read(wrong).err(), Some(vec!["of".to_owned()]));
    }
}
