//! Money, and the loan terms that a participation freezes at its start.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A fixed number of capital ASCII letters, as in ISO codes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Code<const N: usize>([u8; N]);

/// ISO 4217, three capital letters.
pub type CurrencyCode = Code<3>;

/// ISO 3166-1 alpha-2, two capital letters.
pub type CountryCode = Code<2>;

/// The text is not `N` capital ASCII letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be {0} capital letters")]
pub struct CodeError(usize);

impl<const N: usize> Code<N> {
    /// The letters.
    pub fn as_str(&self) -> &str {
        // Only ASCII capitals are stored, see `from_str`.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl<const N: usize> utoipa::PartialSchema for Code<N> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .pattern(Some(format!("^[A-Z]{{{N}}}$")))
            .into()
    }
}

impl<const N: usize> utoipa::ToSchema for Code<N> {}

impl<const N: usize> FromStr for Code<N> {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let letters: [u8; N] = text.as_bytes().try_into().map_err(|_| CodeError(N))?;
        if letters.iter().all(u8::is_ascii_uppercase) {
            Ok(Self(letters))
        } else {
            Err(CodeError(N))
        }
    }
}

impl<const N: usize> fmt::Display for Code<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> fmt::Debug for Code<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<const N: usize> Serialize for Code<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de, const N: usize> Deserialize<'de> for Code<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

/// The loan terms, copied from the pre-offer into the participation at the start and never changed
/// after (contract 1).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[schema(
    description = "The loan terms, copied from the pre-offer at the start and never changed after."
)]
pub struct Reward {
    /// The loan product.
    #[schema(minimum = 1, example = 80)]
    pub product_id: i64,
    /// The loan's amount in cents.
    #[schema(minimum = 1, example = 100_000)]
    pub amount_cents: i64,
    /// The amount's currency.
    #[schema(value_type = String, pattern = "^[A-Z]{3}$", example = "MXN")]
    pub currency_code: CurrencyCode,
    /// As scoring wrote it: a string, because the service passes it on and never computes with it.
    #[schema(example = "15")]
    pub repayment_rate: String,
}
