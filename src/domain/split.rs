//! Splits: the decisions to show clients a promotion.

use super::words::words;

words! {
    /// Where a split stands.
    pub enum SplitStatus {
        /// The client may be shown the promotion; ends by the clock, written or not.
        Active = "ACTIVE",
        /// Its reward was accepted.
        Used = "USED",
        /// It is past its validity, or was replaced, or its challenge is over.
        Expired = "EXPIRED",
    }
}

words! {
    /// What accepting does where the client's active split has gone by then.
    pub enum MissingSplit {
        /// One is made from the frozen reward.
        Create = "create",
        /// It is refused with `split-missing`.
        Reject = "reject",
    }
}

impl MissingSplit {
    /// Where a promotion does not say.
    pub const DEFAULT: Self = Self::Create;
}
