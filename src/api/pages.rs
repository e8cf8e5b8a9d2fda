//! The client's pages, under `/app`: the files of `web/`, which are in the binary.
//!
//! They are for anybody: the token comes to the page in its address's fragment, which is never
//! sent. Everything they do goes over the client API.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use uuid::Uuid;

use super::etag;
use super::problem::{Problem, Result};
use crate::config::RepaymentRate;

/// What the page may do, which is what it does: its own files, and calls to its own host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// What goes with every answer.
const PROTECTION: [(HeaderName, &str); 6] = [
    (CONTENT_SECURITY_POLICY, POLICY),
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (REFERRER_POLICY, "no-referrer"),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=()",
    ),
];

/// The page itself is asked for anew every time; that costs nothing while it is the same.
const REVALIDATED: &str = "no-cache";

/// What has the version in its address never changes.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// Where the page names the version of its files.
const VERSION: &str = "{version}";

/// Where the page says what a repayment rate is of (`js/repayment.js`).
const REPAYMENT_RATE: &str = "{repayment_rate}";

/// Where the page names its modules, so that they are fetched at once and not one after another.
const MODULES: &str = "{modules}";

struct File {
    path: &'static str,
    content: &'static str,
}

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        &[$(File { path: $path, content: include_str!(concat!("../../web/", $path)) }),*]
    };
}

const INDEX: &str = include_str!("../../web/index.html");

const FILES: &[File] = files![
    "css/base.css",
    "css/buttons.css",
    "css/movement.css",
    "css/rides.css",
    "css/screens.css",
    "css/terms.css",
    "icon.svg",
    "js/api.js",
    "js/clock.js",
    "js/copy.js",
    "js/dom.js",
    "js/follow.js",
    "js/i18n.js",
    "js/journey.js",
    "js/main.js",
    "js/patience.js",
    "js/repayment.js",
    "js/screens.js",
    "js/screens/challenge.js",
    "js/screens/messages.js",
    "js/screens/reward.js",
    "js/sse.js",
    "js/stage.js",
    "js/texts/en.js",
    "js/texts/es.js",
    "js/texts/ru.js",
    "js/token.js",
    "js/ui.js",
];

/// The page as it is sent, and the version of everything.
struct Site {
    version: String,
    index: String,
}

fn site(repayment_rate: RepaymentRate) -> Site {
    let mut everything = INDEX.as_bytes().to_vec();
    everything.extend(repayment_rate.as_str().bytes());
    for file in FILES {
        everything.extend(file.path.bytes().chain(file.content.bytes()));
    }
    let version = Uuid::new_v5(&Uuid::NAMESPACE_URL, &everything)
        .simple()
        .to_string();
    let modules: Vec<String> = FILES
        .iter()
        .filter(|file| file.path.ends_with(".js"))
        .map(|file| {
            format!(
                r#"<link rel="modulepreload" href="/app/{version}/{}">"#,
                file.path
            )
        })
        .collect();
    let index = INDEX
        .replace(VERSION, &version)
        .replace(REPAYMENT_RATE, repayment_rate.as_str())
        .replace(MODULES, &modules.join("\n    "));
    Site { version, index }
}

/// `/app` and the files behind it.
pub fn router(repayment_rate: RepaymentRate) -> Router {
    Router::new()
        .route("/app", get(index))
        .route("/app/", get(index))
        .route("/app/{version}/{*path}", get(file))
        .with_state(Arc::new(site(repayment_rate)))
}

async fn index(State(site): State<Arc<Site>>, headers: HeaderMap) -> Response {
    let page = site.index.clone();
    respond(
        &site,
        &headers,
        "text/html; charset=utf-8",
        REVALIDATED,
        page,
    )
}

/// A file of the version asked for, or of another: while processes are being replaced, the page may
/// come from one and its files from the other. Only its own version is kept.
async fn file(
    State(site): State<Arc<Site>>,
    Path((version, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response> {
    let file = FILES.iter().find(|file| file.path == path);
    let file = file.ok_or_else(Problem::not_found)?;
    let extension = path.rsplit('.').next().unwrap_or_default();
    let content_type = match extension {
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        _ => "image/svg+xml",
    };
    let caching = if version == site.version {
        FOR_EVER
    } else {
        REVALIDATED
    };
    Ok(respond(
        &site,
        &headers,
        content_type,
        caching,
        file.content,
    ))
}

fn respond(
    site: &Site,
    asked: &HeaderMap,
    content_type: &'static str,
    caching: &'static str,
    content: impl IntoResponse,
) -> Response {
    let tag = format!("\"{}\"", site.version);
    let known = etag::is_known(asked, &site.version);
    let head = [(ETAG, tag), (CACHE_CONTROL, caching.to_owned())];
    if known {
        (StatusCode::NOT_MODIFIED, PROTECTION, head).into_response()
    } else {
        (PROTECTION, head, [(CONTENT_TYPE, content_type)], content).into_response()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    use super::*;

    fn found(dir: &Path, root: &Path, files: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path: PathBuf = entry.expect("an entry").path();
            if path.is_dir() {
                found(&path, root, files);
            } else {
                let name = path.strip_prefix(root).expect("beneath it");
                files.insert(name.to_str().expect("UTF-8").to_owned());
            }
        }
    }

    #[test]
    fn every_file_is_served_and_named_where_it_is_used() {
        let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/web"));
        let mut there = BTreeSet::new();
        found(root, root, &mut there);
        for unserved in ["index.html", "package.json"] {
            assert!(there.remove(unserved), "{unserved}");
        }
        let served: BTreeSet<String> = FILES.iter().map(|file| file.path.to_owned()).collect();
        assert_eq!(there, served);
        let site = site(RepaymentRate::Unstated);
        for path in served {
            let address = format!("/app/{}/{path}", site.version);
            assert!(
                site.index.contains(&address),
                "{address} is not in the page"
            );
        }
        assert!(!site.index.contains('{'), "{}", site.index);
    }

    #[test]
    fn what_a_rate_is_of_is_in_the_page_and_makes_another_version() {
        let (silent, stated) = (
            site(RepaymentRate::Unstated),
            site(RepaymentRate::OnceOfAmount),
        );
        assert!(silent.index.contains(r#"content="unstated""#));
        assert!(stated.index.contains(r#"content="once-of-amount""#));
        assert_ne!(silent.version, stated.version);
    }

    #[test]
    fn the_pages_name_no_other_host() {
        for file in FILES {
            let hosts = file
                .content
                .match_indices("://")
                .filter(|(at, _)| !file.content[at + 3..].starts_with("www.w3.org/"));
            assert_eq!(hosts.count(), 0, "{}", file.path);
        }
    }
}
