//! The extractors of the handlers, each with the contract's error response for invalid input.

use std::str::FromStr;
use std::time::Duration;

use axum::extract::{FromRequest, FromRequestParts, Path, Request};
use axum::http::header::CONTENT_LENGTH;
use axum::http::request::Parts;
use futures::StreamExt;
use serde_json::{Map, Value};

use super::encoding::require_plain;
use super::problem::{Problem, Result};
use crate::wire::document;

/// The largest body and its timeout. The server puts these limits into every request; a handler of
/// larger bodies reads the request itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BodyRules {
    /// The largest body, in bytes.
    pub limit_bytes: usize,
    /// The timeout from the head to the body's end.
    pub timeout: Duration,
}

impl Default for BodyRules {
    fn default() -> Self {
        Self {
            limit_bytes: 64 * 1024,
            timeout: Duration::from_secs(10),
        }
    }
}

/// Reads a whole body within the limits.
async fn body(request: Request) -> Result<Vec<u8>> {
    require_plain(request.headers())?;
    let rules: BodyRules = request.extensions().get().copied().unwrap_or_default();
    let too_large = || Problem::too_large(rules.limit_bytes);
    let announced = request.headers().get(CONTENT_LENGTH);
    let announced: Option<u64> = announced.and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|length| length > rules.limit_bytes as u64) {
        return Err(too_large());
    }
    let mut chunks = request.into_body().into_data_stream();
    let read = async {
        let mut body = Vec::new();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.map_err(|_| Problem::malformed_request("The body broke off."))?;
            if body.len() + chunk.len() > rules.limit_bytes {
                return Err(too_large());
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    };
    tokio::time::timeout(rules.timeout, read)
        .await
        .unwrap_or_else(|_| Err(Problem::request_timeout()))
}

/// A body that is a JSON object. The handler checks the fields, so that each error names its field.
/// The content type is ignored, because only JSON is possible.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonObject(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for JsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        object(body(request).await?)
    }
}

/// Like [`JsonObject`], for a call with an optional body: an empty body is an object without
/// fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OptionalJsonObject(pub Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for OptionalJsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        let bytes = body(request).await?;
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(Self::default());
        }
        object(bytes).map(|JsonObject(fields)| Self(fields))
    }
}

fn object(bytes: Vec<u8>) -> Result<JsonObject> {
    match document::read(bytes) {
        Ok(Value::Object(fields)) => Ok(JsonObject(fields)),
        Ok(_) => Err(Problem::malformed_request(
            "The body must be a JSON object.",
        )),
        Err(error) => {
            // A data error means valid JSON in which a field occurs twice.
            let what = if error.is_data() {
                "ambiguous"
            } else {
                "not JSON"
            };
            Err(Problem::malformed_request(format!(
                "The body is {what}: {error}."
            )))
        }
    }
}

/// The one parameter of a path, such as `{promotion_id}`. An invalid value cannot name a resource, so
/// the response is `404`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathParam<T>(pub T);

impl<S, T> FromRequestParts<S> for PathParam<T>
where
    S: Send + Sync,
    T: FromStr + Send,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self> {
        let Ok(Path(text)) = Path::<String>::from_request_parts(parts, state).await else {
            return Err(Problem::not_found());
        };
        // Rust's parser accepts a plus sign; ids have none.
        if text.starts_with('+') {
            return Err(Problem::not_found());
        }
        text.parse().map(Self).map_err(|_| Problem::not_found())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    #[tokio::test]
    async fn bodies_are_objects_of_bounded_size() {
        let request = |text: &str| {
            let mut request = Request::new(Body::from(text.to_owned()));
            request.extensions_mut().insert(BodyRules {
                limit_bytes: 16,
                timeout: Duration::from_secs(1),
            });
            request
        };
        let read = async |text| JsonObject::from_request(request(text), &()).await;
        assert!(read("{\"a\":1}").await.is_ok());
        for text in ["", "[]", "1", "{", "\u{1}"] {
            assert_eq!(read(text).await.expect_err(text).status(), 400, "{text}");
        }
        let large = read("{\"a\":\"0123456789abcdef\"}").await;
        assert_eq!(large.expect_err("too large").status(), 413);
        let optional = OptionalJsonObject::from_request(request(" "), &()).await;
        assert_eq!(optional.expect("nothing"), OptionalJsonObject::default());
    }
}
