//! The path parameters of the calls, as the OpenAPI documents describe them.

#![expect(dead_code, reason = "only the descriptions are used")]

use utoipa::IntoParams;
use uuid::Uuid;

/// Parameters of a call about one promotion.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PromotionPath {
    /// The promotion
    #[param(minimum = 1, example = 1)]
    promotion_id: i64,
}

/// Parameters of a call about one client.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UserPath {
    /// The client
    #[param(minimum = 1, example = 48_151)]
    user_id: i64,
}

/// Parameters of a call about one client's participation in one promotion.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ParticipationPath {
    /// The client
    #[param(minimum = 1, example = 48_151)]
    user_id: i64,
    /// The promotion
    #[param(minimum = 1, example = 1)]
    promotion_id: i64,
}

/// Parameters of a call about one product.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ProductPath {
    /// The product
    #[param(minimum = 1, example = 80)]
    product_id: i64,
}

/// Parameters of a call about one country.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct CountryPath {
    /// ISO 3166-1 alpha-2, two capital letters
    #[param(pattern = "^[A-Z]{2}$", example = "MX")]
    country_code: String,
}

/// Parameters of a call about one quarantined record.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct QuarantinePath {
    /// The record
    quarantine_id: Uuid,
}

/// Parameters of a call about one extension.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ExtensionPath {
    /// The extension
    extension_id: Uuid,
}
