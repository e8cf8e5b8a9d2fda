//! Loan products, as operators write and read them.

use serde::Serialize;
use serde_json::{Map, Value};

use super::MAX_NAME_CHARS;
use crate::domain::fields::{BadValue, FieldError, Fields, integer, parsed, string, text};
use crate::domain::reward::CurrencyCode;

/// The longest `term_days`.
const MAX_TERM_DAYS: i64 = 3_650;

/// The longest `terms_url`, in characters.
const MAX_URL_CHARS: usize = 2_000;

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

    #[test]
    fn each_field_of_a_product_is_named_when_it_is_wrong() {
        let product = |field: &str, value: Value| {
            let mut body = json!({ "name": "First loan", "currency_code": "MXN", "term_days": 30,
                "terms_url": "https://example.com/terms" });
            body[field] = value;
            NewProduct::from_json(body.as_object().expect("an object"))
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
            let errors = product(field, value.clone()).expect_err("something is wrong");
            let named: Vec<String> = errors.into_iter().map(|error| error.field).collect();
            assert_eq!(named, [field], "{value}");
        }
    }
}
