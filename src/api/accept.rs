//! Which of several media types the caller asks for (RFC 9110, 12.5.1).

use axum::http::HeaderMap;
use axum::http::header::ACCEPT;

/// A type and its subtype.
pub type MediaType = (&'static str, &'static str);

/// The form of the response that `Accept` prefers among `there`: the first if there is no `Accept`,
/// `None` if it accepts none of them.
pub fn choose<T: Copy>(headers: &HeaderMap, there: &[(MediaType, T)]) -> Option<T> {
    let values: Vec<&str> = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|range| !range.is_empty())
        .collect();
    if values.is_empty() {
        return there.first().map(|(_, form)| *form);
    }
    let mut best: Option<(f32, T)> = None;
    for (media_type, form) in there {
        // The most specific matching range gives the weight.
        let weight = values
            .iter()
            .filter_map(|range| fit(range, *media_type))
            .max_by_key(|(specific, _)| *specific)
            .map_or(0.0, |(_, weight)| weight);
        if weight > 0.0 && best.is_none_or(|(other, _)| weight > other) {
            best = Some((weight, *form));
        }
    }
    best.map(|(_, form)| form)
}

/// How specifically a range matches the type (0 to 2), and its weight. `None` if it does not match.
fn fit(range: &str, (kind, subtype): MediaType) -> Option<(u8, f32)> {
    let mut parts = range.split(';').map(str::trim);
    let (its_kind, its_subtype) = parts.next()?.split_once('/')?;
    let is = |word: &str, other: &str| word.eq_ignore_ascii_case(other);
    let specific = match (its_kind, its_subtype) {
        ("*", "*") => 0,
        (its_kind, "*") if is(its_kind, kind) => 1,
        (its_kind, its_subtype) if is(its_kind, kind) && is(its_subtype, subtype) => 2,
        _ => return None,
    };
    let weight = parts.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        is(name, "q").then(|| value.parse().unwrap_or(0.0))
    });
    Some((specific, weight.unwrap_or(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_preference_decides_and_the_first_where_there_is_none() {
        let there = [(("application", "x-ndjson"), 'n'), (("text", "csv"), 'c')];
        let chosen = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(ACCEPT, value.parse().expect("a value"));
            }
            choose(&headers, &there)
        };
        for (values, expected) in [
            (&[][..], Some('n')),
            (&["*/*"], Some('n')),
            (&["text/csv"], Some('c')),
            (&["Text/CSV; charset=utf-8"], Some('c')),
            (&["text/*, */*;q=0.1"], Some('c')),
            (&["application/x-ndjson;q=0.5, text/csv;q=0.9"], Some('c')),
            (&["application/x-ndjson", "text/csv"], Some('n')),
            (&["*/*, application/x-ndjson;q=0"], Some('c')),
            (&["application/json"], None),
            (&["text/csv;q=0"], None),
            (&["nonsense"], None),
        ] {
            assert_eq!(chosen(values), expected, "{values:?}");
        }
    }
}
