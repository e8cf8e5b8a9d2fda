//! Suggests the known name that a misspelt one most likely means.

/// `; did you mean NAME?` with the closest of `known`, or an empty text if none is within three
/// single-character edits.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let closest = known
        .into_iter()
        .map(|known| (edits(known, name), known))
        .filter(|(edits, _)| *edits <= 3)
        .min();
    closest.map_or_else(String::new, |(_, known)| format!("; did you mean {known}?"))
}

/// The number of single-character edits between two names.
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}
