//! The JSON of the admin API: the caller, promotions, products, per-country flags and the audit
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
