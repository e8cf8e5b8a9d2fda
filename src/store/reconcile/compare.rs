//! Compares the topic's newest record of a key with what the database has. Pure code.

use crate::domain::participation::StatusName;
use crate::wire::participation::State;

/// A difference at one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// The database's state is not the topic's newest, and its version is not higher. It gets the version `to`.
    Lags {
        /// The topic's version.
        published: i32,
        /// The database's version.
        stored: i32,
        /// Above both.
        to: i32,
    },
    /// The database has a newer state that the topic lacks and that is not waiting to be published.
    Unpublished {
        /// The database's version.
        stored: i32,
    },
    /// The database lacks the participation. A later start begins above this version.
    Missing {
        /// The topic's version.
        published: i32,
    },
    /// In the topic the client was rewarded, and the database does not know of it.
    RewardLost {
        /// The topic's version.
        published: i32,
    },
    /// The topic has a tombstone because the client was erased, and the database still has the participation.
    Erased,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Lags {
                published,
                stored,
                to,
            } => write!(
                f,
                "the topic has version {published} and the database another state, version {stored}: published as version {to}"
            ),
            Self::Unpublished { stored } => write!(
                f,
                "the database has version {stored} and the topic does not: published"
            ),
            Self::Missing { published } => write!(
                f,
                "the topic has version {published} and the database nothing: a later start begins above it"
            ),
            Self::RewardLost { published } => write!(
                f,
                "rewarded in the topic (version {published}) and not in the database: held until `ride-promo reconcile --accept-loss`"
            ),
            Self::Erased => f.write_str(
                "erased in the topic and still in the database: not changed here, run `ride-promo erase --replay` first",
            ),
        }
    }
}

/// What the database has for a key.
#[derive(Clone, Debug, Default)]
pub(super) struct StoredKey {
    /// The participation, and whether its last event is known.
    pub(super) stored: Option<(State, bool)>,
    /// The floor of a participation that was lost.
    pub(super) floor: Option<i32>,
    /// The version up to which a reward is held, or its loss was accepted.
    pub(super) held: Option<i32>,
    /// The highest version that waits to be published.
    pub(super) waiting: Option<i32>,
    /// Whether a tombstone waits to be published.
    pub(super) forgetting: bool,
}

/// The topic's newest record of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Newest<'a> {
    /// A state.
    State(&'a State),
    /// A tombstone.
    Tombstone,
    /// The topic has no record.
    Nothing,
}

/// The differences at a key.
pub(super) fn compare(newest: Newest<'_>, here: &StoredKey) -> Vec<Difference> {
    let mut differences = Vec::new();
    if here.forgetting {
        // Erased after that record; later events wait behind the tombstone.
        return differences;
    }
    let stored = here.stored.as_ref().map(|(state, _)| state);
    match (newest, stored) {
        (Newest::State(newest), None) => {
            let published = newest.version;
            if here.floor.is_none_or(|floor| floor < published) {
                differences.push(Difference::Missing { published });
            }
        }
        (Newest::State(newest), Some(stored)) => {
            if stored.version <= newest.version && stored != newest {
                differences.push(Difference::Lags {
                    published: newest.version,
                    stored: stored.version,
                    to: newest.version.saturating_add(1),
                });
            } else if stored.version > newest.version && here.waiting != Some(stored.version) {
                differences.push(Difference::Unpublished {
                    stored: stored.version,
                });
            }
        }
        (Newest::Tombstone, Some(stored)) => {
            if here.waiting != Some(stored.version) {
                differences.push(Difference::Erased);
            }
        }
        (Newest::Nothing, Some(stored)) => {
            if here.waiting != Some(stored.version) {
                differences.push(Difference::Unpublished {
                    stored: stored.version,
                });
            }
        }
        (Newest::Tombstone | Newest::Nothing, None) => {}
    }
    if let Newest::State(newest) = newest
        && newest.status.name() == StatusName::Rewarded
        && stored.is_none_or(|stored| stored.status.name() != StatusName::Rewarded)
        && here.held.is_none_or(|held| held < newest.version)
    {
        differences.push(Difference::RewardLost {
            published: newest.version,
        });
    }
    differences
}

/// The word of a difference in the audit.
pub(super) fn name(difference: &Difference) -> &'static str {
    match difference {
        Difference::Lags { .. } => "lifted",
        Difference::Unpublished { .. } => "published",
        Difference::Missing { .. } => "floors",
        Difference::RewardLost { .. } => "held",
        Difference::Erased => "left",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::participation::{Completion, Status};
    use crate::wire::promotion_status::PromotionStatus;
    use crate::wire::schemas::example_status;

    fn state(version: i32, rides_completed: i32) -> State {
        let event: PromotionStatus = serde_json::from_value(example_status()).expect("an event");
        State {
            version,
            rides_completed,
            ..event.state
        }
    }

    fn rewarded(version: i32) -> State {
        let state = state(version, 20);
        let completion = Completion {
            completed_at: state.started_at,
            reward_deadline: state.challenge_deadline,
        };
        State {
            status: Status::Rewarded {
                completion,
                rewarded_at: state.started_at,
            },
            ..state
        }
    }

    fn here(stored: Option<State>) -> StoredKey {
        StoredKey {
            stored: stored.map(|state| (state, true)),
            ..StoredKey::default()
        }
    }

    #[test]
    fn a_state_that_differs_is_lifted_above_what_was_published() {
        let same = state(7, 6);
        let newest = Newest::State(&same);
        assert_eq!(compare(newest, &here(Some(same.clone()))), []);
        // It lags, or changed differently after the restore.
        for (version, rides) in [(5, 4), (7, 5)] {
            let found = compare(newest, &here(Some(state(version, rides))));
            let lags = Difference::Lags {
                published: 7,
                stored: version,
                to: 8,
            };
            assert_eq!(found, [lags]);
        }
    }

    #[test]
    fn a_newer_state_is_published_unless_it_waits_to_be() {
        let published = state(7, 6);
        let unpublished = Difference::Unpublished { stored: 8 };
        for newest in [Newest::State(&published), Newest::Nothing] {
            let mut here = here(Some(state(8, 7)));
            assert_eq!(compare(newest, &here), [unpublished]);
            // An older event waits.
            here.waiting = Some(6);
            assert_eq!(compare(newest, &here), [unpublished]);
            here.waiting = Some(8);
            assert_eq!(compare(newest, &here), []);
        }
    }

    #[test]
    fn what_is_gone_gets_a_floor_once() {
        let published = state(7, 6);
        let newest = Newest::State(&published);
        let missing = Difference::Missing { published: 7 };
        for (floor, expected) in [
            (None, vec![missing]),
            (Some(6), vec![missing]),
            (Some(7), vec![]),
        ] {
            let here = StoredKey {
                floor,
                ..StoredKey::default()
            };
            assert_eq!(compare(newest, &here), expected, "{floor:?}");
        }
        assert_eq!(compare(Newest::Nothing, &StoredKey::default()), []);
        assert_eq!(compare(Newest::Tombstone, &StoredKey::default()), []);
    }

    #[test]
    fn a_reward_that_only_the_topic_knows_is_held_once_whatever_the_database_has() {
        let published = rewarded(9);
        let newest = Newest::State(&published);
        let lost = Difference::RewardLost { published: 9 };
        for stored in [None, Some(state(5, 4)), Some(state(12, 4))] {
            let mut here = here(stored.clone());
            assert!(compare(newest, &here).contains(&lost), "{stored:?}");
            // Held already, or the loss was accepted.
            here.held = Some(9);
            assert!(!compare(newest, &here).contains(&lost), "{stored:?}");
        }
        assert_eq!(compare(newest, &here(Some(rewarded(9)))), []);
    }

    #[test]
    fn an_erased_client_is_not_published_again() {
        let mut there = here(Some(state(5, 4)));
        assert_eq!(compare(Newest::Tombstone, &there), [Difference::Erased]);
        // A later participation waits to be published.
        there.waiting = Some(5);
        assert_eq!(compare(Newest::Tombstone, &there), []);
        // The tombstone itself waits.
        let published = rewarded(9);
        let forgetting = StoredKey {
            forgetting: true,
            ..StoredKey::default()
        };
        assert_eq!(compare(Newest::State(&published), &forgetting), []);
    }
}
