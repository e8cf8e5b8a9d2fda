//! Splits: the decisions to show clients a promotion.

use super::words::words;

words! {
    /// The status of a split.
    pub enum SplitStatus {
        /// The promotion can be shown to the client. It ends by the clock, recorded or not.
        Active = "ACTIVE",
        /// Its reward was accepted.
        Used = "USED",
        /// It is past its validity, or was replaced, or its challenge is over.
        Expired = "EXPIRED",
    }
}

words! {
    /// What accepting does if the client's active split does not exist any more.
    pub enum MissingSplit {
        /// A split is created from the frozen reward.
        Create = "create",
        /// The response is the error `split-missing`.
        Reject = "reject",
    }
}

impl MissingSplit {
    /// The default of a promotion.
    pub const DEFAULT: Self = Self::Create;
}
