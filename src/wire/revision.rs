//! Revisions of what operators write, so that a change can be made on the condition that nothing else
//! changed in between (contract, "Who may do what"; RFC 9110, 13.1.1).

use std::fmt;

use serde::Serialize;
use uuid::Uuid;

/// The revision of a promotion, product or country. It changes with every change of the JSON. Equal revisions
/// mean equal JSON, byte for byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision(Uuid);

impl Revision {
    /// The revision of what the API shows.
    pub fn of(shown: &impl Serialize) -> Self {
        // The API shows structs of strings, numbers and instants, which always have a JSON form.
        let json = serde_json::to_vec(shown).unwrap_or_default();
        Self(Uuid::new_v5(&Uuid::NAMESPACE_OID, &json))
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.simple())
    }
}

/// The condition of a change: the request's `If-Match`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// No condition.
    #[default]
    None,
    /// The resource must exist, with any revision.
    Exists,
    /// The resource must have one of these revisions.
    OneOf(Vec<String>),
}

impl Precondition {
    /// Whether there is a condition.
    pub fn is_some(&self) -> bool {
        *self != Self::None
    }

    /// Whether the condition holds for the present resource, if it exists. Call it under the lock of the
    /// change.
    pub fn holds(&self, there: Option<&impl Serialize>) -> bool {
        match (self, there) {
            (Self::None, _) | (Self::Exists, Some(_)) => true,
            (Self::Exists | Self::OneOf(_), None) => false,
            (Self::OneOf(revisions), Some(shown)) => {
                let revision = Revision::of(shown).to_string();
                revisions.contains(&revision)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_revision_is_of_all_that_is_shown() {
        let shown = json!({ "title": "A loan", "active": true });
        let revision = Revision::of(&shown);
        assert_eq!(revision, Revision::of(&shown.clone()));
        let changed = json!({ "title": "A loan", "active": false });
        assert_ne!(revision, Revision::of(&changed));
        let one_of = Precondition::OneOf(vec!["x".to_owned(), revision.to_string()]);
        assert!(one_of.holds(Some(&shown)) && !one_of.holds(Some(&changed)));
        let nothing = None::<&serde_json::Value>;
        assert!(!one_of.holds(nothing) && !Precondition::Exists.holds(nothing));
        assert!(Precondition::None.holds(nothing) && Precondition::Exists.holds(Some(&shown)));
    }
}
