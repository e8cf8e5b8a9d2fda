//! Calls from pages of other origins (Fetch standard, "CORS protocol"), if configured. Pages send
//! tokens in a header that they set themselves, so credentials are not allowed.

use axum::extract::Request;
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};

/// The headers that a page may send.
const ALLOWED_HEADERS: &str = "Authorization, Content-Type, If-None-Match, Idempotency-Key, \
     traceparent, X-Request-Id";

/// The headers that a page may read, besides the usual ones.
const EXPOSED_HEADERS: &str = "ETag, Retry-After, WWW-Authenticate, X-Request-Id";

/// The methods of the client API.
const METHODS: &str = "GET, POST";

/// How long a browser may cache this, in seconds; browsers cap longer times.
const MAX_AGE: &str = "7200";

/// The origins that may call.
#[derive(Clone, Debug)]
pub struct Cors {
    /// Empty means all.
    origins: Vec<HeaderValue>,
}

impl Cors {
    /// As configured; `None` if no origin is.
    pub fn new(origins: &[String]) -> Option<Self> {
        match origins {
            [] => None,
            [all] if all == "*" => Some(Self {
                origins: Vec::new(),
            }),
            // The configuration accepts only valid header values.
            origins => Some(Self {
                origins: origins
                    .iter()
                    .filter_map(|origin| origin.parse().ok())
                    .collect(),
            }),
        }
    }

    /// The response to a preflight, if the request is one.
    pub fn preflight(&self, request: &Request) -> Option<Response> {
        let headers = request.headers();
        let asks = request.method() == Method::OPTIONS
            && headers.contains_key(ORIGIN)
            && headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        asks.then(|| {
            [
                (ACCESS_CONTROL_ALLOW_METHODS, METHODS),
                (ACCESS_CONTROL_ALLOW_HEADERS, ALLOWED_HEADERS),
                (ACCESS_CONTROL_MAX_AGE, MAX_AGE),
            ]
            .into_response()
        })
        .map(|response| (StatusCode::NO_CONTENT, response).into_response())
    }

    /// The headers of the response to a page of this origin; `None` if it may not read it.
    pub fn allowed(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        if self.origins.is_empty() {
            return Some(HeaderValue::from_static("*"));
        }
        self.origins.contains(origin).then(|| origin.clone())
    }

    /// Lets the page read a response, if it may.
    pub fn let_read(&self, allowed: Option<HeaderValue>, headers: &mut HeaderMap) {
        if !self.origins.is_empty() {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        if let Some(allowed) = allowed {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
            let exposed = HeaderValue::from_static(EXPOSED_HEADERS);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, exposed);
        }
    }
}
