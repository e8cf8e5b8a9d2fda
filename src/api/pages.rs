//! The client's pages, under `/app`: the files of `web/`, which the binary contains.
//!
//! They are public. The token reaches the page in the fragment of its address, which browsers never
//! send. The pages use only the client API.

use axum::Router;

use super::site::{File, Source, files};
use crate::config::RepaymentRate;

/// What the page may do: load its own files, and call its own host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Where the page states what a repayment rate is a percentage of (`js/repayment.js`).
const REPAYMENT_RATE: &str = "{repayment_rate}";

const INDEX: &str = include_str!("../../web/index.html");

const FILES: &[File] = files![
    "":
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
    "js/goals.js",
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

fn source(repayment_rate: RepaymentRate) -> Source {
    Source {
        base: "/app",
        index: INDEX.replace(REPAYMENT_RATE, repayment_rate.as_str()),
        files: FILES,
        policy: POLICY.to_owned(),
    }
}

/// `/app` and the files behind it.
pub fn router(repayment_rate: RepaymentRate) -> Router {
    super::site::router(source(repayment_rate))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::site::Site;
    use crate::api::site::tests::{check, check_hosts};

    #[test]
    fn every_file_is_served_and_named_where_it_is_used() {
        check(
            "web",
            &["index.html", "package.json", "console/"],
            None,
            source(RepaymentRate::Unstated),
        );
    }

    #[test]
    fn what_a_rate_is_of_is_in_the_page_and_makes_another_version() {
        let (silent, stated) = (
            Site::new(source(RepaymentRate::Unstated)),
            Site::new(source(RepaymentRate::OnceOfAmount)),
        );
        assert!(silent.index.contains(r#"content="unstated""#));
        assert!(stated.index.contains(r#"content="once-of-amount""#));
        assert_ne!(silent.version, stated.version);
    }

    #[test]
    fn the_pages_name_no_other_host() {
        check_hosts(FILES);
    }
}
