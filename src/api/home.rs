//! `/` of each listener: a page of links to its other pages.

use axum::Router;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;

/// A path and what it serves.
type Link = (&'static str, &'static str);

const PROBES: &[Link] = &[
    ("/livez", "whether the process answers"),
    ("/readyz", "whether each role can do its work"),
    ("/metrics", "metrics, in Prometheus' text format"),
];

const ADMIN: &[Link] = &[
    ("/console", "the console, for people who run promotions"),
    ("/docs/admin", "the admin API, to read and to try"),
    ("/docs/client", "the client API, to read"),
    ("/openapi/admin.json", "the admin API, OpenAPI"),
    ("/openapi/client.json", "the client API, OpenAPI"),
    ("/asyncapi.json", "the events, AsyncAPI"),
];

const CLIENT: &[Link] = &[("/app", "the client's pages; they need a client's token")];

/// The page of the client listener.
pub fn client() -> Router {
    page("Ride Promo", &[CLIENT])
}

/// The page of the admin listener with the admin API.
pub fn admin() -> Router {
    page("Ride Promo: admin", &[ADMIN, PROBES])
}

/// The page of a listener that has only probes and metrics.
pub fn probes() -> Router {
    page("Ride Promo: probes and metrics", &[PROBES])
}

fn page(title: &str, lists: &[&[Link]]) -> Router {
    let links: Vec<String> = lists
        .iter()
        .flat_map(|list| list.iter())
        .map(|(path, about)| format!("<li><a href=\"{path}\">{path}</a>: {about}</li>"))
        .collect();
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <title>{title}</title>\n<h1>{title}</h1>\n<ul>\n{}\n</ul>\n</html>\n",
        links.join("\n")
    );
    let headers = [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        ),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-cache"),
    ];
    Router::new().route("/", get(async move || (headers, html)))
}
