//! The operators' console, under `/console` of the admin listener (contract 2, H): the files of
//! `web/console/`, which are in the binary.
//!
//! It takes no token to load, and nothing in it is secret: what it shows comes from the admin API,
//! with the token that the operator brings.

use axum::Router;

use super::site::{File, Source, files};
use crate::config::ConsoleConfig;

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
    "js/client/actions.js",
    "js/client/parts.js",
    "js/client/timeline.js",
    "js/client/verdict.js",
    "js/client/why.js",
    "js/dom.js",
    "js/extension/ask.js",
    "js/extension/lists.js",
    "js/i18n.js",
    "js/main.js",
    "js/oidc.js",
    "js/pages.js",
    "js/pages/audit.js",
    "js/pages/back-test.js",
    "js/pages/client.js",
    "js/pages/clients.js",
    "js/pages/countries.js",
    "js/pages/imports.js",
    "js/pages/operations.js",
    "js/pages/overview.js",
    "js/pages/participations.js",
    "js/pages/products.js",
    "js/pages/promotion-edit.js",
    "js/pages/promotion.js",
    "js/pages/promotions.js",
    "js/pages/quarantine.js",
    "js/promotion/budget.js",
    "js/promotion/conditions.js",
    "js/promotion/fields.js",
    "js/promotion/form.js",
    "js/promotion/funnel.js",
    "js/promotion/outcomes.js",
    "js/promotion/preview.js",
    "js/promotion/state.js",
    "js/promotion/windows.js",
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
    "js/ui/command.js",
    "js/ui/dialog.js",
    "js/ui/diff.js",
    "js/ui/download.js",
    "js/ui/fields.js",
    "js/ui/problem.js",
    "js/ui/revision.js",
    "js/ui/table.js",
    "js/ui/toast.js",
    "vendor/oauth4webapi/LICENSE",
    "vendor/oauth4webapi/index.js",
    "vendor/uplot/LICENSE",
    "vendor/uplot/uPlot.css",
    "vendor/uplot/uPlot.esm.js";
    // What a client would see is made by the modules of the client's pages.
    "app/" in "":
    "css/base.css",
    "css/buttons.css",
    "css/rides.css",
    "css/screens.css",
    "js/api.js",
    "js/copy.js",
    "js/dom.js",
    "js/goals.js",
    "js/i18n.js",
    "js/patience.js",
    "js/screens/challenge.js",
    "js/texts/en.js",
    "js/texts/es.js",
    "js/texts/ru.js",
    "js/ui.js",
];

/// Where the page says how operators can sign in.
const OIDC_ISSUER: &str = "{oidc_issuer}";
const OIDC_CLIENT_ID: &str = "{oidc_client_id}";

/// The configuration takes no text that would end the attribute it is put into.
fn source(config: &ConsoleConfig) -> Source {
    let (mut issuer, mut client_id, mut policy) = ("", "", POLICY.to_owned());
    if let Some(oidc) = &config.oidc {
        (issuer, client_id) = (&oidc.issuer, &oidc.client_id);
        // The page asks the provider for its metadata and for the token.
        if let Ok(url) = reqwest::Url::parse(issuer) {
            policy = format!(
                "{POLICY}; connect-src 'self' {}",
                url.origin().ascii_serialization()
            );
        }
    }
    Source {
        base: "/console",
        index: INDEX
            .replace(OIDC_ISSUER, issuer)
            .replace(OIDC_CLIENT_ID, client_id),
        files: FILES,
        policy,
    }
}

/// `/console` and the files behind it.
pub fn router(config: &ConsoleConfig) -> Router {
    super::site::router(source(config))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::site::tests::{check, check_hosts};
    use crate::config::OidcConfig;

    #[test]
    fn every_file_is_served_and_named_where_it_is_used() {
        check(
            "web/console",
            &["index.html"],
            Some("app/"),
            source(&ConsoleConfig::default()),
        );
    }

    #[test]
    fn a_provider_is_in_the_page_and_may_be_called() {
        let silent = source(&ConsoleConfig::default());
        assert!(silent.index.contains(r#"oidc-issuer" content="""#));
        assert!(!silent.policy.contains("connect-src"));
        let oidc = OidcConfig {
            issuer: "https://id.example.com/realms/a".to_owned(),
            client_id: "console".to_owned(),
        };
        let stated = source(&ConsoleConfig { oidc: Some(oidc) });
        assert!(
            stated
                .index
                .contains(r#"content="https://id.example.com/realms/a""#)
        );
        assert!(
            stated
                .policy
                .ends_with("; connect-src 'self' https://id.example.com")
        );
        assert!(stated.policy.starts_with("default-src 'self'"));
    }

    #[test]
    fn the_console_names_no_other_host() {
        check_hosts(FILES);
    }
}
