//! An error as text, with its causes.

/// The error and its causes, from the outside in. Many errors repeat their cause in their own text,
/// sqlx's among them; a repeated text is left out.
pub fn in_words(error: &anyhow::Error) -> String {
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !said.contains(&cause) {
            said.push_str(": ");
            said.push_str(&cause);
        }
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_is_said_once() {
        let refused = std::io::Error::other("password authentication failed");
        let error = anyhow::Error::new(sqlx::Error::Io(refused))
            .context("connecting")
            .context("applying migrations");
        assert!(format!("{error:#}").ends_with("failed: password authentication failed"));
        assert_eq!(
            in_words(&error),
            "applying migrations: connecting: error communicating with database: password authentication failed"
        );
    }
}
