//! The JSON of the admin API: the caller, promotions, products, per-country flags, budgets and the audit
//! (contract 6).

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::domain::budget::Budget;
use crate::domain::fields::{
    BadValue, FieldError, Fields, boolean, instant, integer, parsed, string, text,
};
use crate::domain::promotion::Conditions;
use crate::domain::reward::CurrencyCode;
use crate::domain::schedule::Schedule;
use crate::domain::split::MissingSplit;

/// The longest `promotion_key`, in characters.
const MAX_KEY_CHARS: usize = 100;

/// The longest `title` and `name`, in characters.
const MAX_NAME_CHARS: usize = 200;

/// The longest `term_days`.
const MAX_TERM_DAYS: i64 = 3_650;

/// The error of a schedule that is never open.
const AFTER_OPENS_AT: &str = "closes_at must be after opens_at";

/// The longest `terms_url`, in characters.
const MAX_URL_CHARS: usize = 2_000;

/// The caller of the admin API.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct Me {
    /// The token's `sub`, which the audit records as `actor`.
    #[schema(example = "ana@example.com")]
    pub subject: String,
    /// The token's scopes; `ride-promo:admin` is shown as the scopes that it contains.
    #[schema(value_type = Vec<String>, example = json!(["ride-promo:view", "ride-promo:support"]))]
    pub scopes: Vec<&'static str>,
    /// When the token expires.
    #[serde(with = "crate::wire::instant")]
    pub expires_at: DateTime<Utc>,
}

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

/// A loan product.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Product {
    /// Its number.
    #[schema(example = 80)]
    pub product_id: i64,
    /// Shown to clients.
    #[schema(example = "First loan")]
    pub name: String,
    /// The currency of the loan.
    #[schema(pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: String,
    /// How long the loan runs, in days.
    #[schema(example = 30)]
    pub term_days: i32,
    /// The URL of its terms.
    #[schema(required, format = "iri", example = "https://example.com/terms")]
    pub terms_url: Option<String>,
}

/// The body that writes a product; its number is in the path. Always valid.
#[derive(Clone, Debug, PartialEq, Eq, utoipa::ToSchema)]
pub struct NewProduct {
    /// Shown to clients: 1 to 200 characters.
    #[schema(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$",
        example = "First loan"
    )]
    pub name: String,
    /// The currency of the loan.
    #[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: CurrencyCode,
    /// 1 to 3,650.
    #[schema(minimum = 1, maximum = 3_650, example = 30)]
    pub term_days: i32,
    /// An https URL of at most 2,000 characters, or `null`.
    #[schema(
        format = "iri",
        max_length = 2_000,
        pattern = "^https://[^\\s\\u0000-\\u001f\\u007f-\\u009f]+$",
        example = "https://example.com/terms"
    )]
    pub terms_url: Option<String>,
}

impl NewProduct {
    /// Reads and checks the body. Each error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let name = fields.required("name", text(MAX_NAME_CHARS));
        let currency_code = fields.required("currency_code", parsed);
        let term_days = fields.required("term_days", integer(1..=MAX_TERM_DAYS));
        let terms_url = fields.optional("terms_url", https_url);
        let term_days = term_days.and_then(|days| i32::try_from(days).ok());
        let new = name.zip(currency_code).zip(term_days);
        fields.finish(new.map(|((name, currency_code), term_days)| Self {
            name,
            currency_code,
            term_days,
            terms_url,
        }))
    }
}

/// The flag of a country.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct GeoConfig {
    /// The country.
    #[schema(pattern = "^[A-Z]{2}$", example = "MX")]
    pub country_code: String,
    /// Whether new splits and starts are allowed.
    pub promotions_enabled: bool,
    /// When it was last written.
    #[serde(with = "crate::wire::instant")]
    pub updated_at: DateTime<Utc>,
}

/// The body that sets a country's flag; the country is in the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, utoipa::ToSchema)]
pub struct NewGeoConfig {
    /// Whether new splits and starts are allowed.
    pub promotions_enabled: bool,
}

impl NewGeoConfig {
    /// Reads and checks the body. Each error names its field.
    pub fn from_json(object: &Map<String, Value>) -> Result<Self, Vec<FieldError>> {
        let mut fields = Fields::of(object);
        let enabled = fields.required("promotions_enabled", boolean);
        fields.finish(enabled.map(|promotions_enabled| Self { promotions_enabled }))
    }
}

/// How much of a promotion's budget is in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct BudgetUse {
    /// Participations.
    pub participations: Used,
    /// Their rewards, in cents.
    pub reward_cents: Used,
    /// The currency of the cents: that of the first budget with a currency, or of the first reward; `null`
    /// before either. Rewards in another currency are not included.
    #[schema(required, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: Option<String>,
}

/// How much of a maximum is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Used {
    /// By participations that are live.
    #[schema(minimum = 0, example = 480)]
    pub reserved: i64,
    /// By participations that were rewarded.
    #[schema(minimum = 0, example = 120)]
    pub spent: i64,
    /// The maximum; `null` without one. A maximum that was lowered may be below the present use.
    #[schema(required, minimum = 1, example = 10_000)]
    pub max: Option<i64>,
}

/// A change that an operator made.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct AuditEntry {
    /// Its number; later entries have higher numbers.
    pub audit_id: i64,
    /// The operator: the token's `sub`.
    pub actor: String,
    /// The time of the change.
    #[serde(with = "crate::wire::instant")]
    pub at: DateTime<Utc>,
    /// The call or command.
    #[schema(example = "PATCH /promotions/1")]
    pub call: String,
    /// The resource before; `null` if it did not exist.
    #[schema(required, value_type = Value)]
    pub before: Option<Value>,
    /// The resource after; `null` if there is nothing to show.
    #[schema(required, value_type = Value)]
    pub after: Option<Value>,
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

fn https_url(value: &Value) -> Result<String, BadValue> {
    let text = string(value)?;
    let is_https =
        || reqwest::Url::parse(text).is_ok_and(|url| url.scheme() == "https" && url.has_host());
    // The URL parser accepts surrounding blanks and line breaks; clients may not.
    let plain = !text
        .chars()
        .any(|letter| letter.is_control() || letter.is_whitespace());
    if plain && text.chars().count() <= MAX_URL_CHARS && is_https() {
        Ok(text.to_owned())
    } else {
        Err(BadValue::Invalid(format!(
            "must be an https URL of at most {MAX_URL_CHARS} characters, or null"
        )))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn valid() -> Value {
        json!({
            "promotion_key": "mx-newbie-20", "title": "A loan", "conditions": {
                "target_rides": 20, "min_amount_cents": 5000, "currency_code": "MXN",
                "challenge_period": "P2W", "claim_period": "P7D", "city_ids": null,
            },
        })
    }

    fn with(field: &str, value: Value) -> Map<String, Value> {
        let mut body = valid();
        body[field] = value;
        object(body)
    }

    fn object(body: Value) -> Map<String, Value> {
        body.as_object().cloned().expect("an object")
    }

    fn named<T: std::fmt::Debug>(result: Result<T, Vec<FieldError>>) -> Vec<String> {
        let errors = result.expect_err("something is wrong");
        errors.into_iter().map(|error| error.field).collect()
    }

    #[test]
    fn a_promotion_is_kept_as_written_with_its_defaults() {
        let new = NewPromotion::from_json(&object(valid())).expect("valid");
        assert_eq!(new.missing_split, MissingSplit::Create);
        assert!(new.active);
        assert_eq!(new.conditions["challenge_period"], "P2W");
        assert!(new.conditions.get("city_ids").is_none());
        assert_eq!(
            (new.opens_at, new.closes_at, new.budget),
            (None, None, None)
        );
        let body = with("missing_split", json!(MissingSplit::Reject));
        let new = NewPromotion::from_json(&body).expect("valid");
        assert_eq!(new.missing_split, MissingSplit::Reject);
    }

    #[test]
    fn each_field_of_a_promotion_is_named_when_it_is_wrong() {
        let bad = [
            ("promotion_key", json!("")),
            ("promotion_key", json!("a b")),
            ("promotion_key", json!("a\u{a0}b")),
            ("promotion_key", json!("a\0")),
            ("promotion_key", json!("k".repeat(101))),
            ("promotion_key", json!(1)),
            ("title", json!(null)),
            ("title", json!("t".repeat(201))),
            ("conditions", json!(null)),
            ("conditions", json!([])),
            ("missing_split", json!("maybe")),
            ("active", json!("yes")),
            ("opens_at", json!("2026-11-22")),
            ("closes_at", json!(1)),
            ("budget", json!(1)),
            ("promotion_id", json!(1)),
        ];
        for (field, value) in bad {
            let body = with(field, value.clone());
            assert_eq!(named(NewPromotion::from_json(&body)), [field], "{value}");
        }
        let mut body = valid();
        body["conditions"]["target_rides"] = json!(0);
        body["conditions"]["colour"] = json!("red");
        body["title"] = json!("");
        assert_eq!(
            named(NewPromotion::from_json(&object(body))),
            ["title", "conditions.target_rides", "conditions.colour"]
        );
    }

    #[test]
    fn a_schedule_ends_after_it_begins_also_when_half_of_it_is_patched() {
        let (early, late) = ("2026-11-22T18:00:00Z", "2026-11-22T19:00:00Z");
        let mut body = with("opens_at", json!(late));
        body.insert("closes_at".to_owned(), json!(late));
        assert_eq!(named(NewPromotion::from_json(&body)), ["closes_at"]);
        let patched = |body: Value, opens_at: Option<&str>, closes_at: Option<&str>| {
            let at = |text: Option<&str>| text.map(|text| text.parse().expect("an instant"));
            let patch = PromotionPatch::from_json(&object(body)).expect("valid");
            let present = Schedule {
                opens_at: at(opens_at),
                closes_at: at(closes_at),
            };
            patch.schedule(present).map_err(|error| error.field)
        };
        let refused = |field: &str| Err(field.to_owned());
        let close = json!({ "closes_at": early });
        assert_eq!(
            patched(close.clone(), Some(late), None),
            refused("closes_at")
        );
        let open = json!({ "opens_at": late });
        assert_eq!(patched(open, None, Some(early)), refused("opens_at"));
        let moved = patched(close, None, Some(late)).expect("possible");
        assert_eq!(moved.closes_at, early.parse().ok());
        let removed = patched(json!({ "opens_at": null }), Some(late), Some(early));
        assert_eq!(removed.expect("possible").opens_at, None);
    }

    #[test]
    fn a_budget_is_replaced_whole_or_removed() {
        let patch = |body| PromotionPatch::from_json(&object(body)).expect("valid");
        assert_eq!(patch(json!({})).budget, None);
        let removed = patch(json!({ "budget": null }));
        assert_eq!(removed.budget, Some(None));
        assert!(!removed.is_empty());
        let replaced = patch(json!({ "budget": { "max_participations": 7 } }));
        let budget = replaced.budget.flatten().expect("a budget");
        assert_eq!(budget.max_participations, Some(7));
    }

    #[test]
    fn a_patch_names_what_it_may_not_touch() {
        let patch = |body| PromotionPatch::from_json(&object(body));
        assert!(patch(json!({})).expect("nothing").is_empty());
        let title = patch(json!({ "title": "New" })).expect("valid");
        assert_eq!(title.title.as_deref(), Some("New"));
        assert!(!title.is_empty());
        for field in ["title", "conditions", "missing_split", "active"] {
            assert_eq!(named(patch(json!({ (field): null }))), [field]);
        }
        for key in [json!("other"), json!(null)] {
            assert_eq!(
                named(patch(json!({ "promotion_key": key }))),
                ["promotion_key"]
            );
        }
        assert_eq!(
            named(patch(json!({ "conditions": { "target_rides": 3 } }))),
            [
                "conditions.min_amount_cents",
                "conditions.currency_code",
                "conditions.challenge_period",
                "conditions.claim_period"
            ],
            "conditions are replaced whole"
        );
    }

    #[test]
    fn each_field_of_a_product_is_named_when_it_is_wrong() {
        let product = |field: &str, value: Value| {
            let mut body = json!({ "name": "First loan", "currency_code": "MXN", "term_days": 30,
                "terms_url": "https://example.com/terms" });
            body[field] = value;
            NewProduct::from_json(&object(body))
        };
        assert!(product("terms_url", json!(null)).is_ok());
        let bad = [
            ("name", json!("")),
            ("currency_code", json!("mxn")),
            ("term_days", json!(0)),
            ("term_days", json!(3_651)),
            ("term_days", json!(30.5)),
            ("terms_url", json!("http://example.com")),
            ("terms_url", json!("https://")),
            ("terms_url", json!("https://example.com/a b")),
            ("product_id", json!(80)),
        ];
        for (field, value) in bad {
            assert_eq!(named(product(field, value.clone())), [field], "{value}");
        }
    }
}
