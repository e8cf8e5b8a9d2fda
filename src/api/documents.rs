//! The API documents on the admin listener: OpenAPI, AsyncAPI, and Swagger UI to read them. The
//! binary contains all of it; pages load nothing from other hosts.

use std::io::Read as _;

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use flate2::read::GzDecoder;

use super::encoding::takes_gzip;
use super::problem::{Problem, Result};
use super::{admin_openapi, client_openapi};
use crate::wire::schemas;

const HTML: &str = "text/html; charset=utf-8";
const JAVASCRIPT: &str = "text/javascript; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JSON: &str = "application/json";

/// Swagger UI needs files of this listener only, styles in elements, and images as data URLs.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const PAGE: &str = include_str!("swagger-ui/page.html");
const START: &str = include_str!("swagger-ui/start.js");
const BUNDLE: &[u8] = include_bytes!("swagger-ui/swagger-ui-bundle.js.gz");
const STYLE: &[u8] = include_bytes!("swagger-ui/swagger-ui.css.gz");

/// `/docs`, `/openapi/client.json`, `/openapi/admin.json`, `/asyncapi.json`. They are public, so
/// they need no token.
pub fn router() -> Router {
    let fixed = |kind, text: String| {
        get(move || {
            let answer = answer(kind, text.clone().into_bytes());
            async move { answer }
        })
    };
    let page = |title, document, calls| {
        let page = PAGE.replace("{title}", title);
        let page = page.replace("{document}", document);
        fixed(HTML, page.replace("{calls}", calls))
    };
    let admin = page("admin API", "../openapi/admin.json", "here");
    // The client API is on another listener, which a page of this listener may not call.
    let client = page("client API", "../openapi/client.json", "elsewhere");
    Router::new()
        .route("/docs", get(async || Redirect::to("/docs/admin")))
        .route("/docs/admin", admin)
        .route("/docs/client", client)
        .route("/docs/start.js", fixed(JAVASCRIPT, START.to_owned()))
        .route(
            "/docs/swagger-ui-bundle.js",
            get(async |headers| packed(JAVASCRIPT, BUNDLE, &headers)),
        )
        .route(
            "/docs/swagger-ui.css",
            get(async |headers| packed(CSS, STYLE, &headers)),
        )
        .route(
            "/openapi/admin.json",
            fixed(JSON, format!("{:#}\n", admin_openapi())),
        )
        .route(
            "/openapi/client.json",
            fixed(JSON, format!("{:#}\n", client_openapi())),
        )
        .route(
            "/asyncapi.json",
            fixed(JSON, format!("{:#}\n", schemas::asyncapi())),
        )
}

fn answer(kind: &'static str, body: Vec<u8>) -> Response {
    let headers: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // a later release may serve other bytes under the same name
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, body).into_response()
}

/// A file that is stored compressed; it is decompressed for a caller that does not accept gzip.
fn packed(kind: &'static str, bytes: &'static [u8], headers: &HeaderMap) -> Result<Response> {
    let mut response = if takes_gzip(headers) {
        let mut response = answer(kind, bytes.to_vec());
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert(CONTENT_ENCODING, gzip);
        response
    } else {
        let mut whole = Vec::new();
        GzDecoder::new(bytes)
            .read_to_end(&mut whole)
            .map_err(|error| {
                tracing::error!(%error, "a file of Swagger UI cannot be decompressed");
                Problem::internal_error()
            })?;
        answer(kind, whole)
    };
    let vary = HeaderValue::from_static("accept-encoding");
    response.headers_mut().insert(VARY, vary);
    Ok(response)
}
