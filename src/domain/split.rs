//! Splits: the decisions to show clients a promotion.

/// What accepting does where the client's active split has gone by then (contract 5, Accepting).
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    utoipa::ToSchema,
)]
#[serde(rename_all = "lowercase")]
#[schema(
    description = "What accepting does where the client's active split has gone by then.\n\n- `create`: one is made from the frozen reward\n- `reject`: it is refused with `split-missing`"
)]
pub enum MissingSplit {
    /// Makes one from the frozen reward.
    #[default]
    Create,
    /// Refuses.
    Reject,
}

impl MissingSplit {
    /// The contract's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Reject => "reject",
        }
    }
}

/// The text is neither `create` nor `reject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be create or reject")]
pub struct MissingSplitError;

impl std::str::FromStr for MissingSplit {
    type Err = MissingSplitError;

    fn from_str(word: &str) -> Result<Self, MissingSplitError> {
        [Self::Create, Self::Reject]
            .into_iter()
            .find(|known| known.as_str() == word)
            .ok_or(MissingSplitError)
    }
}
