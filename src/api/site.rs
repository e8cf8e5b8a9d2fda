//! Serves a site that the binary contains: an index, and the files that it names.
//!
//! The index names each file under the version of the whole site. So a file can be cached for ever, and
//! the index of one release never uses a file of another.

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

/// The headers of every response, besides the Content-Security-Policy.
const PROTECTION: [(HeaderName, &str); 5] = [
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

/// For the index: it is validated at each use, and an unchanged index is not sent again.
const REVALIDATED: &str = "no-cache";

/// For files with the version in their address: they never change.
const FOR_EVER: &str = "public, max-age=31536000, immutable";

/// The place in the index for the version of its files.
const VERSION: &str = "{version}";

/// The place in the index for its modules, so that they are fetched at once, not one after another.
const MODULES: &str = "{modules}";

/// A file of a site.
pub(super) struct File {
    /// Its address below the version, such as `js/main.js`.
    pub(super) path: &'static str,
    /// Its content.
    pub(super) content: &'static str,
}

/// The files of a folder of `web/`, included at compile time; and, after `place in folder`, those of another
/// folder, which are served beneath that place.
macro_rules! files {
    ($folder:literal: $($path:literal),* $(,)? $(; $place:literal in $other:literal: $($more:literal),* $(,)?)?) => {
        &[
            $($crate::api::site::File {
                path: $path,
                content: include_str!(concat!("../../web/", $folder, $path)),
            },)*
            $($($crate::api::site::File {
                path: concat!($place, $more),
                content: include_str!(concat!("../../web/", $other, $more)),
            },)*)?
        ]
    };
}

pub(super) use files;

/// A site's address and contents.
pub(super) struct Source {
    /// Its address, such as `/app`.
    pub(super) base: &'static str,
    /// The page, in which `{version}` and `{modules}` are replaced.
    pub(super) index: String,
    /// The files that the page names.
    pub(super) files: &'static [File],
    /// The Content-Security-Policy of every response.
    pub(super) policy: String,
}

/// A site as it is served.
pub(super) struct Site {
    /// Derived from the content; 32 hexadecimal digits.
    pub(super) version: String,
    /// The page as it is sent.
    pub(super) index: String,
    files: &'static [File],
    policy: String,
}

impl Site {
    /// Puts the version and the modules into the index.
    pub(super) fn new(source: Source) -> Self {
        let mut everything = source.index.as_bytes().to_vec();
        for file in source.files {
            everything.extend(file.path.bytes().chain(file.content.bytes()));
        }
        let version = Uuid::new_v5(&Uuid::NAMESPACE_URL, &everything)
            .simple()
            .to_string();
        let base = source.base;
        let modules: Vec<String> = source
            .files
            .iter()
            .filter(|file| file.path.ends_with(".js"))
            .map(|file| {
                format!(
                    r#"<link rel="modulepreload" href="{base}/{version}/{}">"#,
                    file.path
                )
            })
            .collect();
        let index = source
            .index
            .replace(VERSION, &version)
            .replace(MODULES, &modules.join("\n    "));
        Self {
            version,
            index,
            files: source.files,
            policy: source.policy,
        }
    }
}

/// The index at the base and the files behind it.
pub(super) fn router(source: Source) -> Router {
    let base = source.base;
    Router::new()
        .route(base, get(index))
        .route(&format!("{base}/"), get(index))
        .route(&format!("{base}/{{version}}/{{*path}}"), get(file))
        .with_state(Arc::new(Site::new(source)))
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

/// A file, whichever version the address names: during a rolling upgrade the page may come from one
/// process and its files from another. Only a file of its own version may be cached.
async fn file(
    State(site): State<Arc<Site>>,
    Path((version, path)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Response> {
    let file = site.files.iter().find(|file| file.path == path);
    let file = file.ok_or_else(Problem::not_found)?;
    let extension = path.rsplit('.').next().unwrap_or_default();
    let content_type = match extension {
        "css" => "text/css; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "svg" => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
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
    let head = [
        (ETAG, tag),
        (CACHE_CONTROL, caching.to_owned()),
        (CONTENT_SECURITY_POLICY, site.policy.clone()),
    ];
    if known {
        (StatusCode::NOT_MODIFIED, PROTECTION, head).into_response()
    } else {
        (PROTECTION, head, [(CONTENT_TYPE, content_type)], content).into_response()
    }
}

#[cfg(test)]
pub(super) mod tests {
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

    /// Every file of the folder is served, except those in `unserved` (names, or prefixes that end with
    /// a slash); and besides those only files of another site, beneath `borrowed`. The index names each
    /// served file, except licences and styles of another site.
    pub(in crate::api) fn check(
        folder: &str,
        unserved: &[&str],
        borrowed: Option<&str>,
        source: Source,
    ) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let mut there = BTreeSet::new();
        found(&root, &root, &mut there);
        for unserved in unserved {
            let before = there.len();
            there.retain(|path| {
                path != unserved && !(unserved.ends_with('/') && path.starts_with(unserved))
            });
            assert!(there.len() < before, "{unserved}");
        }
        let base = source.base;
        let served: BTreeSet<String> = source
            .files
            .iter()
            .map(|file| file.path.to_owned())
            .collect();
        let is_borrowed = |path: &str| borrowed.is_some_and(|place| path.starts_with(place));
        let own = served.iter().filter(|path| !is_borrowed(path)).cloned();
        assert_eq!(there, own.collect::<BTreeSet<String>>());
        let site = Site::new(source);
        let is_unnamed =
            |path: &str| path.ends_with("LICENSE") || (is_borrowed(path) && path.ends_with(".css"));
        for path in served.iter().filter(|path| !is_unnamed(path)) {
            let address = format!("{base}/{}/{path}", site.version);
            assert!(
                site.index.contains(&address),
                "{address} is not in the page"
            );
        }
        assert!(!site.index.contains('{'), "{}", site.index);
    }

    /// The files name no other host. Files of `vendor/` are not ours, and name hosts in comments.
    pub(in crate::api) fn check_hosts(files: &[File]) {
        for file in files
            .iter()
            .filter(|file| !file.path.starts_with("vendor/"))
        {
            let hosts = file
                .content
                .match_indices("://")
                .filter(|(at, _)| !file.content[at + 3..].starts_with("www.w3.org/"));
            assert_eq!(hosts.count(), 0, "{}", file.path);
        }
    }
}
