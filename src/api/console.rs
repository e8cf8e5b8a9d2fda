//! The operators' console, under `/console` of the admin listener (contract 2, H): the files of
//! `web/console/`, which are in the binary.
//!
//! It takes no token to load, and nothing in it is secret: what it shows comes from the admin API,
//! with the token that the operator brings.

use axum::Router;

use super::site::{File, Source, files};

/// What the page may do: use its own files, and call its own host.
const POLICY: &str = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'none'; \
     frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

const INDEX: &str = include_str!("../../web/console/index.html");

const FILES: &[File] = files![
    "console/":
    "css/base.css",
    "css/data.css",
    "css/forms.css",
    "css/shell.css",
    "css/tokens.css",
    "icon.svg",
    "js/api.js",
    "js/app.js",
    "js/client/parts.js",
    "js/client/timeline.js",
    "js/client/verdict.js",
    "js/client/why.js",
    "js/dom.js",
    "js/i18n.js",
    "js/main.js",
    "js/pages.js",
    "js/pages/audit.js",
    "js/pages/client.js",
    "js/pages/clients.js",
    "js/pages/countries.js",
    "js/pages/imports.js",
    "js/pages/operations.js",
    "js/pages/overview.js",
    "js/pages/products.js",
    "js/pages/promotion-edit.js",
    "js/pages/promotion.js",
    "js/pages/promotions.js",
    "js/pages/quarantine.js",
    "js/promotion/conditions.js",
    "js/promotion/fields.js",
    "js/promotion/form.js",
    "js/promotion/state.js",
    "js/quarantine/bytes.js",
    "js/quarantine/correct.js",
    "js/router.js",
    "js/session.js",
    "js/settings.js",
    "js/shell.js",
    "js/texts/en.js",
    "js/texts/es.js",
    "js/texts/ru.js",
    "js/ui/badges.js",
    "js/ui/chart.js",
    "js/ui/dialog.js",
    "js/ui/diff.js",
    "js/ui/fields.js",
    "js/ui/problem.js",
    "js/ui/table.js",
    "js/ui/toast.js",
    "vendor/uplot/LICENSE",
    "vendor/uplot/uPlot.css",
    "vendor/uplot/uPlot.esm.js",
];

fn source() -> Source {
    Source {
        base: "/console",
        index: INDEX.to_owned(),
        files: FILES,
        policy: POLICY.to_owned(),
    }
}

/// `/console` and the files behind it.
pub fn router() -> Router {
    super::site::router(source())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::site::tests::{check, check_hosts};

    #[test]
    fn every_file_is_served_and_named_where_it_is_used() {
        check("web/console", &["index.html"], source());
    }

    #[test]
    fn the_console_names_no_other_host() {
        check_hosts(FILES);
    }
}
