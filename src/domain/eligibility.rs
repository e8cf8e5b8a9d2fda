//! Who may start a promotion (contract 5, Eligibility): one pure decision from facts read under
//! one snapshot.

use serde::Serialize;

/// Why a client may not start, in the contract's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Reason {
    /// A participation of theirs is `REWARDED`, in any promotion.
    AlreadyRewarded,
    /// A participation of theirs is live.
    AnotherChallengeLive,
    /// There is no newbie pre-offer to consider.
    NoPreOffer,
    /// There are newbie pre-offers, but none is valid any more.
    PreOfferExpired,
    /// The pre-offer's promotion is not known here.
    NoPromotionMapped,
    /// The promotion is switched off.
    PromotionInactive,
    /// The pre-offer's country is switched off.
    PromotionsDisabled,
}

/// What must be known of a client to decide; `None` where a rule cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// A participation is `REWARDED`, in any promotion.
    pub rewarded: bool,
    /// A participation is live, in any promotion.
    pub live: bool,
    /// The newbie pre-offer to consider. For the landing the most recently imported valid one of a
    /// promotion not yet taken part in, mapped before unmapped; for a start the most recently
    /// imported valid one of that promotion.
    pub pre_offer: PreOfferFound,
    /// Whether a promotion is known: the pre-offer's, or the one to be started.
    pub promotion_mapped: Option<bool>,
    /// Whether that promotion is active.
    pub promotion_active: Option<bool>,
    /// Whether promotions are on in the pre-offer's country, which is the client's.
    pub promotions_enabled: Option<bool>,
}

/// Whether there is a pre-offer to consider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreOfferFound {
    /// None at all.
    No,
    /// Only such as are not valid any more.
    Expired,
    /// One.
    Valid,
}

/// Every rule that could be judged and failed, in order; empty means eligible.
pub fn failed_rules(facts: &Facts) -> Vec<Reason> {
    let failed = [
        (facts.rewarded, Reason::AlreadyRewarded),
        (facts.live, Reason::AnotherChallengeLive),
        (facts.pre_offer == PreOfferFound::No, Reason::NoPreOffer),
        (
            facts.pre_offer == PreOfferFound::Expired,
            Reason::PreOfferExpired,
        ),
        (
            facts.promotion_mapped == Some(false),
            Reason::NoPromotionMapped,
        ),
        (
            facts.promotion_active == Some(false),
            Reason::PromotionInactive,
        ),
        (
            facts.promotions_enabled == Some(false),
            Reason::PromotionsDisabled,
        ),
    ];
    failed
        .into_iter()
        .filter_map(|(failed, reason)| failed.then_some(reason))
        .collect()
}
