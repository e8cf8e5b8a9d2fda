//! The JSON of the admin API: the caller, promotions, products, per-country flags, budgets and the audit
//! (contract 6).

mod product;
mod promotion;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Map, Value};

pub use self::product::{NewProduct, Product};
pub use self::promotion::{NewPromotion, Promotion, PromotionPatch};
use crate::domain::fields::{FieldError, Fields, boolean};

/// The longest `title` and `name`, in characters.
const MAX_NAME_CHARS: usize = 200;

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
