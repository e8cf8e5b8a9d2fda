//! Content encodings of responses and bodies (RFC 9110, 8.4 and 12.5.3).

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT_ENCODING, CONTENT_ENCODING};

use super::problem::{Problem, Result};

/// Whether the caller accepts gzip: by its name or by `*`, with a weight above 0.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut by_star = false;
    for value in headers.get_all(ACCEPT_ENCODING) {
        for item in value.to_str().unwrap_or_default().split(',') {
            let mut parts = item.split(';');
            let coding = parts.next().unwrap_or_default().trim();
            let refused = parts.any(|weight| is_zero_weight(weight.trim()));
            if is_gzip(coding) {
                return !refused;
            }
            by_star |= coding == "*" && !refused;
        }
    }
    by_star
}

/// Whether a parameter is `q=0`, with up to three decimals.
fn is_zero_weight(parameter: &str) -> bool {
    let weight = parameter
        .strip_prefix("q=")
        .or_else(|| parameter.strip_prefix("Q="));
    weight.is_some_and(|weight| weight.parse() == Ok(0.0_f64))
}

fn is_gzip(coding: &str) -> bool {
    coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip")
}

/// Rejects an encoded body, because it would be read wrongly.
pub fn require_plain(headers: &HeaderMap) -> Result<()> {
    if codings(headers).next().is_none() {
        Ok(())
    } else {
        Err(Problem::unsupported_encoding("identity"))
    }
}

/// Rejects a body with any encoding except one gzip.
pub fn require_plain_or_gzip(headers: &HeaderMap) -> Result<()> {
    let mut codings = codings(headers);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if is_gzip(coding) => Ok(()),
        _ => Err(Problem::unsupported_encoding("gzip, identity")),
    }
}

/// The encodings of a body, in the order in which they were applied. A value that is not ASCII counts
/// as unknown.
fn codings(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .flat_map(|value| value.to_str().unwrap_or("unknown").split(','))
        .map(str::trim)
        .filter(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case("identity"))
}
