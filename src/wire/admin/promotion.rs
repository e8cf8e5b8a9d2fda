//! Promotions, as operators write and read them.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use super::MAX_NAME_CHARS;
use crate::domain::budget::Budget;
use crate::domain::fields::{BadValue, FieldError, Fields, boolean, instant, parsed, string, text};
use crate::domain::promotion::Conditions;
use crate::domain::schedule::Schedule;
use crate::domain::split::MissingSplit;

/// The longest `promotion_key`, in characters.
const MAX_KEY_CHARS: usize = 100;

/// The error of a schedule that is never open.
const AFTER_OPENS_AT: &str = "closes_at must be after opens_at";

/// A promotion.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Promotion {
    /// Its number.
    #[schema(minimum = 1, example = 1)]
    pub promotion_id: i64,
    /// Its key in words, unique, never changed.
    #[schema(example = "mx-newbie-20")]
    pub promotion_key: String,
    /// Shown to clients.
    #[schema(example = "A loan for 20 rides")]
    pub title: String,
    /// The rules. Participations keep the rules they started under.
    #[schema(value_type = Conditions)]
    pub conditions: Value,
    /// What accepting does if the client's split does not exist any more.
    pub missing_split: MissingSplit,
    /// Whether it can be started.
    pub active: bool,
    /// Starts are possible from this instant; `null`: without a beginning.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub opens_at: Option<DateTime<Utc>>,
    /// Starts are possible until this instant, exclusive; `null`: without an end. It ends no started
    /// challenge.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub closes_at: Option<DateTime<Utc>>,
    /// The most it may cost; `null`: without a maximum.
    #[schema(required)]
    pub budget: Option<Budget>,
    /// When it was created.
    #[serde(with = "crate::wire::instant")]
    pub created_at: DateTime<Utc>,
    /// When it was last changed.
    #[serde(with = "crate::wire::instant")]
    pub updated_at: DateTime<Utc>,
}

/// A promotion to create; always valid.
#[derive(Clone, Debug, PartialEq, utoipa::ToSchema)]
pub struct NewPromotion {
    /// Its key in words: 1 to 100 printable characters without spaces.
    #[schema(
        min_length = 1,
        max_length = 100,
        pattern = "^[^\\s\\u0000-\\u001f\\u007f-\\u009f]+$",
        example = "mx-newbie-20"
    )]
    pub promotion_key: String,
    /// Shown to clients: 1 to 200 characters.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "A loan for 20 rides"
    )]
    pub title: String,
    /// The rules.
    #[schema(value_type = Conditions)]
    pub conditions: Value,
    /// Default: `create`.
    #[schema(value_type = Option<MissingSplit>)]
    pub missing_split: MissingSplit,
    /// Default: `true`.
    #[schema(value_type = Option<bool>)]
    pub active: bool,
    /// Starts are possible from this instant; default: without a beginning.
    pub opens_at: Option<DateTime<Utc>>,
    /// Starts are possible until this instant, exclusive, which is after `opens_at`; default: without an end.
    pub closes_at: Option<DateTime<Utc>>,
    /// The most it may cost; default: without a maximum.
    pub budget: Option<Budget>,
}

/// Whether a process of the release before would misjudge participations under these conditions, which
/// have been checked.
fn need_finished_upgrade(conditions: &Value) -> bool {
    Conditions::from_frozen(conditions)
        .is_ok_and(|(conditions, _)| conditions.need_finished_upgrade())
}

impl NewPromotion {
    /// Whether a process of the release before would misjudge a part of it.
    pub fn needs_finished_upgrade(&self) -> bool {
        need_finished_upgrade(&self.conditions)
            || self.opens_at.is_some()
            || self.closes_at.is_some()
            || self.budget.is_some()
    }

    /// Reads and checks the body. Each error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let promotion_key = fields.required("promotion_key", promotion_key);
        let title = fields.required("title", text(MAX_NAME_CHARS));
        if !fields.has("conditions") {
            fields.reject("conditions", "is required");
        }
        let conditions = fields.nested("conditions", conditions);
        let missing_split = fields.optional("missing_split", parsed);
        let active = fields.optional("active", boolean);
        let opens_at = fields.optional("opens_at", instant);
        let closes_at = fields.optional("closes_at", instant);
        let schedule = Schedule {
            opens_at,
            closes_at,
        };
        if !schedule.is_possible() {
            fields.reject("closes_at", AFTER_OPENS_AT);
        }
        let budget = fields.nested("budget", Budget::from_json);
        let new = promotion_key.zip(title).zip(conditions);
        fields.finish(new.map(|((promotion_key, title), conditions)| Self {
            promotion_key,
            title,
            conditions,
            missing_split: missing_split.unwrap_or(MissingSplit::DEFAULT),
            active: active.unwrap_or(true),
            opens_at,
            closes_at,
            budget,
        }))
    }
}

/// A merge patch of a promotion's top level: fields that are left out stay, and conditions are replaced as
/// a whole.
#[derive(Clone, Debug, Default, PartialEq, utoipa::ToSchema)]
pub struct PromotionPatch {
    /// Shown to clients: 1 to 200 characters.
    #[schema(
        nullable = false,
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "A loan for 20 rides"
    )]
    pub title: Option<String>,
    /// The rules, replaced as a whole.
    #[schema(value_type = Option<Conditions>, nullable = false)]
    pub conditions: Option<Value>,
    /// What accepting does if the client's split does not exist any more.
    #[schema(nullable = false)]
    pub missing_split: Option<MissingSplit>,
    /// Whether it can be started.
    #[schema(nullable = false)]
    pub active: Option<bool>,
    /// Starts are possible from this instant; `null` for without a beginning.
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub opens_at: Option<Option<DateTime<Utc>>>,
    /// Starts are possible until this instant, exclusive, which is after `opens_at`; `null` for without an end.
    #[schema(value_type = Option<DateTime<Utc>>)]
    pub closes_at: Option<Option<DateTime<Utc>>>,
    /// The most it may cost, replaced as a whole; `null` for without a maximum. Its use is still counted.
    #[schema(value_type = Option<Budget>)]
    pub budget: Option<Option<Budget>>,
}

impl PromotionPatch {
    /// Reads and checks the body. Each error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        if fields.names("promotion_key") {
            fields.reject("promotion_key", "never changes");
        }
        let title = fields.patched("title", text(MAX_NAME_CHARS));
        if fields.names("conditions") && !fields.has("conditions") {
            fields.reject("conditions", "cannot be removed");
        }
        let conditions = fields.nested("conditions", conditions);
        let missing_split = fields.patched("missing_split", parsed);
        let active = fields.patched("active", boolean);
        let opens_at = fields.patched_or_removed("opens_at", instant);
        let closes_at = fields.patched_or_removed("closes_at", instant);
        let budget = fields
            .names("budget")
            .then(|| fields.nested("budget", Budget::from_json));
        fields.finish(Some(Self {
            title,
            conditions,
            missing_split,
            active,
            opens_at,
            closes_at,
            budget,
        }))
    }

    /// Whether a process of the release before would misjudge a part of it.
    pub fn needs_finished_upgrade(&self) -> bool {
        let instants = [self.opens_at, self.closes_at].into_iter().flatten();
        self.conditions.as_ref().is_some_and(need_finished_upgrade)
            || instants.flatten().next().is_some()
            || self.budget.flatten().is_some()
    }

    /// The schedule after the patch, for a promotion whose schedule is `present`. An error if it would never
    /// be open.
    pub fn schedule(&self, present: Schedule) -> Result<Schedule, FieldError> {
        let schedule = Schedule {
            opens_at: self.opens_at.unwrap_or(present.opens_at),
            closes_at: self.closes_at.unwrap_or(present.closes_at),
        };
        if schedule.is_possible() {
            return Ok(schedule);
        }
        // The error names the field that this request sets.
        let field = match self.closes_at {
            Some(_) => "closes_at",
            None => "opens_at",
        };
        Err(FieldError::invalid(field, AFTER_OPENS_AT))
    }

    /// Whether the patch changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn promotion_key(value: &Value) -> Result<String, BadValue> {
    let key = string(value)?;
    let printable = |letter: char| !letter.is_control() && !letter.is_whitespace();
    if key.is_empty() || key.chars().count() > MAX_KEY_CHARS || !key.chars().all(printable) {
        return Err(BadValue::Invalid(format!(
            "must be 1 to {MAX_KEY_CHARS} printable characters without spaces"
        )));
    }
    Ok(key.to_owned())
}

/// Conditions as they are stored: as sent, without the fields that are `null`.
fn conditions(value: &Value) -> Result<Value, Vec<FieldError>> {
    Conditions::from_json(value)?;
    let mut value = value.clone();
    if let Value::Object(object) = &mut value {
        object.retain(|_, value| !value.is_null());
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
