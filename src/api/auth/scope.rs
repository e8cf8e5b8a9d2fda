//! What a token of the admin API allows, and what each of its calls needs (contract, "Who may do
//! what").

use std::fmt;
use std::str::FromStr;

use axum::extract::MatchedPath;
use axum::http::Method;
use axum::http::request::Parts;

/// The scope that contains every other.
pub const ADMIN_SCOPE: &str = "ride-promo:admin";

/// Where the admin calls are.
pub const ADMIN_BASE: &str = "/admin/v1";

/// One right of an operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Reading promotions, products, countries and figures.
    View,
    /// Changing promotions, products and countries; extensions of more than one client.
    Edit,
    /// Importing pre-offers.
    Import,
    /// Clients' data, their rides, and changes for one client.
    Support,
    /// Reading the audit.
    Audit,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::View,
        Self::Edit,
        Self::Import,
        Self::Support,
        Self::Audit,
    ];

    /// As a token's `scope` has it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::View => "ride-promo:view",
            Self::Edit => "ride-promo:edit",
            Self::Import => "ride-promo:import",
            Self::Support => "ride-promo:support",
            Self::Audit => "ride-promo:audit",
        }
    }

    /// The scope for an extension: `Support` for one client, `Edit` for more than one.
    pub const fn of_extension(of_one_client: bool) -> Self {
        if of_one_client {
            Self::Support
        } else {
            Self::Edit
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The rights of a token.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    const ALL: Self = {
        let mut bits = 0;
        let mut at = 0;
        while at < Scope::ALL.len() {
            bits |= Scope::ALL[at].bit();
            at += 1;
        }
        Self(bits)
    };

    /// The rights that a token's `scope` names. Words of other services are ignored.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().fold(Self::default(), |scopes, word| {
            let added = match word {
                ADMIN_SCOPE => Self::ALL.0,
                word => Scope::ALL
                    .into_iter()
                    .find(|scope| scope.as_str() == word)
                    .map_or(0, Scope::bit),
            };
            Self(scopes.0 | added)
        })
    }

    /// Whether the token has this right.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }

    /// The rights of the token.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL
            .into_iter()
            .filter(move |scope| self.contains(*scope))
    }
}

/// A word that a token's `scope` can have for this service, for the command that makes tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScopeWord(&'static str);

impl FromStr for ScopeWord {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = || {
            let scopes = Scope::ALL.into_iter().map(Scope::as_str);
            scopes.chain([ADMIN_SCOPE])
        };
        words()
            .find(|word| *word == text)
            .map(Self)
            .ok_or_else(|| format!("must be one of {}", words().collect::<Vec<_>>().join(", ")))
    }
}

impl fmt::Display for ScopeWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Where a participation is cancelled.
const CANCEL_PATH: &str = "/users/{user_id}/participations/{promotion_id}:cancel";

/// The router's template of `CANCEL_PATH`; a parameter of the router is a whole segment.
pub const CANCEL_TEMPLATE: &str = "/users/{user_id}/participations/{action}";

/// The scopes of each call; any one of them suffices. If the request's content decides which one is
/// needed, the handler also checks with [`super::Admin::require`].
pub const CALLS: &[(&str, &str, &[Scope])] = &[
    ("GET", "/me", &Scope::ALL),
    ("GET", "/promotions", &[Scope::View]),
    ("POST", "/promotions", &[Scope::Edit]),
    ("GET", "/promotions/{promotion_id}", &[Scope::View]),
    ("PATCH", "/promotions/{promotion_id}", &[Scope::Edit]),
    ("GET", "/promotions/{promotion_id}/funnel", &[Scope::View]),
    ("GET", "/promotions/{promotion_id}/outcomes", &[Scope::View]),
    ("GET", "/participations", &[Scope::Support]),
    ("GET", "/participations:export", &[Scope::Support]),
    (
        "GET",
        "/promotions/{promotion_id}/budget-use",
        &[Scope::View],
    ),
    (
        "GET",
        "/promotions/{promotion_id}/budget-use/over-time",
        &[Scope::View],
    ),
    ("GET", "/products", &[Scope::View]),
    ("GET", "/products/{product_id}", &[Scope::View]),
    ("PUT", "/products/{product_id}", &[Scope::Edit]),
    ("GET", "/geo-config", &[Scope::View]),
    ("GET", "/geo-config/{country_code}", &[Scope::View]),
    ("PUT", "/geo-config/{country_code}", &[Scope::Edit]),
    ("POST", "/pre-offers:import", &[Scope::Import]),
    ("GET", "/users/{user_id}", &[Scope::Support]),
    ("POST", CANCEL_PATH, &[Scope::Support]),
    ("GET", "/rides/{ride_id}", &[Scope::Support]),
    ("POST", "/users/{user_id}/rides", &[Scope::Support]),
    ("GET", "/extensions", &[Scope::Edit, Scope::Support]),
    ("POST", "/extensions", &[Scope::Edit, Scope::Support]),
    (
        "GET",
        "/extensions/{extension_id}",
        &[Scope::Edit, Scope::Support],
    ),
    ("GET", "/outages", &[Scope::Edit, Scope::Support]),
    ("GET", "/quarantine", &[Scope::Support]),
    ("GET", "/reversals", &[Scope::Support]),
    (
        "POST",
        "/quarantine/{quarantine_id}/replay",
        &[Scope::Support],
    ),
    (
        "POST",
        "/quarantine/{quarantine_id}/dismiss",
        &[Scope::Support],
    ),
    ("POST", "/quarantine:replay", &[Scope::Support]),
    ("POST", "/quarantine:dismiss", &[Scope::Support]),
    ("GET", "/stats", &[Scope::View]),
    ("GET", "/system", &[Scope::View]),
    ("GET", "/audit", &[Scope::Audit]),
];

/// The scopes of a call, by the template of its path; `None` for one that is not in the table.
pub fn scopes_of(method: &str, template: &str) -> Option<&'static [Scope]> {
    let path = match template.strip_prefix(ADMIN_BASE)? {
        CANCEL_TEMPLATE => CANCEL_PATH,
        path => path,
    };
    // A route for GET also serves HEAD.
    let method = if method == "HEAD" { "GET" } else { method };
    CALLS
        .iter()
        .find(|(its_method, its_path, _)| *its_method == method && *its_path == path)
        .map(|(_, _, scopes)| *scopes)
}

/// The scope that the token lacks for this call.
pub fn missing(scopes: Scopes, parts: &Parts) -> Option<&'static str> {
    let template = parts.extensions.get::<MatchedPath>();
    let method: &Method = &parts.method;
    let needed = template.and_then(|path| scopes_of(method.as_str(), path.as_str()));
    match needed {
        Some(needed) if needed.iter().any(|scope| scopes.contains(*scope)) => None,
        Some(needed) => needed.first().map(|scope| scope.as_str()),
        // A test checks that the table has every call. A call that is missing requires the admin scope.
        None if scopes == Scopes::ALL => None,
        None => Some(ADMIN_SCOPE),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_call_has_its_scope_and_every_entry_its_call() {
        let api = crate::api::admin_openapi();
        let paths = api["paths"].as_object().expect("paths");
        let calls: BTreeSet<(String, String)> = paths
            .iter()
            .flat_map(|(path, methods)| {
                let methods = methods.as_object().expect("methods").keys();
                methods.map(|method| (method.to_uppercase(), path.clone()))
            })
            .collect();
        let listed: BTreeSet<(String, String)> = CALLS
            .iter()
            .map(|(method, path, _)| ((*method).to_owned(), format!("{ADMIN_BASE}{path}")))
            .collect();
        assert_eq!(calls, listed, "the admin calls, and those of CALLS");
        assert_eq!(CALLS.len(), listed.len(), "a call is in the table twice");
        assert!(CALLS.iter().all(|(_, _, scopes)| !scopes.is_empty()));
    }

    #[test]
    fn admin_is_every_scope_and_words_of_others_are_none() {
        let all = Scopes::of(["openid", ADMIN_SCOPE]);
        assert!(Scope::ALL.into_iter().all(|scope| all.contains(scope)));
        for scope in Scope::ALL {
            let only = Scopes::of(["profile", scope.as_str()]);
            assert!(only.iter().eq([scope]), "{scope:?}");
        }
        for word in ["", "ride-promo", "ride-promo:", "ride-promo:VIEW", "view"] {
            assert_eq!(Scopes::of([word]), Scopes::default(), "{word}");
        }
        let one_by_one = Scopes::of(Scope::ALL.map(Scope::as_str));
        assert_eq!(one_by_one, all);
    }

    #[test]
    fn extensions_of_many_take_another_right_than_those_of_one() {
        assert_eq!(Scope::of_extension(true), Scope::Support);
        assert_eq!(Scope::of_extension(false), Scope::Edit);
    }
}
