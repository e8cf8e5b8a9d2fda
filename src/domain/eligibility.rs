//! Decides whether a client may start a promotion, and what they see on landing (contract 5,
//! Eligibility and Landing). These are pure decisions from facts read under one snapshot.

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::budget::{Budget, BudgetUse};
use super::participation::{ExpiredReason, Status};
use super::reward::{CountryCode, Reward};
use super::schedule::Schedule;
use super::words::words;
use super::{Instant, PromotionId};

words! {
    /// A rule of eligibility, in order. As a reason it means that the rule failed.
    pub enum EligibilityRule {
        /// The client was rewarded before, in any promotion.
        AlreadyRewarded = "ALREADY_REWARDED",
        /// A challenge of the client is in progress, or its reward can be claimed.
        AnotherChallengeLive = "ANOTHER_CHALLENGE_LIVE",
        /// The client has no newbie pre-offer.
        NoPreOffer = "NO_PRE_OFFER",
        /// The client has newbie pre-offers, but none is valid any more.
        PreOfferExpired = "PRE_OFFER_EXPIRED",
        /// The pre-offer's promotion does not exist here.
        NoPromotionMapped = "NO_PROMOTION_MAPPED",
        /// The promotion is not active.
        PromotionInactive = "PROMOTION_INACTIVE",
        /// The time is before the promotion's `opens_at`, or at or after its `closes_at`.
        PromotionNotOpen = "PROMOTION_NOT_OPEN",
        /// Promotions are disabled in the pre-offer's country.
        PromotionsDisabled = "PROMOTIONS_DISABLED",
        /// The reward does not fit in what is left of the promotion's budget, or is in another currency.
        BudgetExhausted = "BUDGET_EXHAUSTED",
    }
}

/// The facts about a client that decide; `None` if a rule cannot be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// A participation is `REWARDED`, in any promotion.
    pub rewarded: bool,
    /// A participation is live, in any promotion. A reward past its deadline is not live, whether its
    /// expiry is recorded or not.
    pub live: bool,
    /// The newbie pre-offer to consider. For the landing: the most recently imported valid one of a
    /// promotion in which the client has not participated, mapped before unmapped. For a start: the most
    /// recently imported valid one of that promotion.
    pub pre_offer: PreOfferFound,
    /// Whether the promotion exists: the pre-offer's, or the one to be started.
    pub promotion_mapped: Option<bool>,
    /// Whether that promotion is active.
    pub promotion_active: Option<bool>,
    /// Whether it can be started now.
    pub promotion_open: Option<bool>,
    /// Whether promotions are enabled in the pre-offer's country, which is the client's.
    pub promotions_enabled: Option<bool>,
    /// Whether the pre-offer's reward fits in the promotion's budget.
    pub budget_has_room: Option<bool>,
}

/// Whether there is a pre-offer to consider.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PreOfferFound {
    /// No pre-offer.
    No,
    /// Only pre-offers that are not valid any more.
    Expired,
    /// A valid pre-offer.
    Valid,
}

impl Facts {
    /// Every rule in the contract's order, with its result; `None` if it cannot be judged.
    fn rules(&self) -> [(EligibilityRule, Option<bool>); 9] {
        let unexpired = match self.pre_offer {
            PreOfferFound::No => None,
            PreOfferFound::Expired => Some(false),
            PreOfferFound::Valid => Some(true),
        };
        [
            (EligibilityRule::AlreadyRewarded, Some(!self.rewarded)),
            (EligibilityRule::AnotherChallengeLive, Some(!self.live)),
            (
                EligibilityRule::NoPreOffer,
                Some(self.pre_offer != PreOfferFound::No),
            ),
            (EligibilityRule::PreOfferExpired, unexpired),
            (EligibilityRule::NoPromotionMapped, self.promotion_mapped),
            (EligibilityRule::PromotionInactive, self.promotion_active),
            (EligibilityRule::PromotionNotOpen, self.promotion_open),
            (EligibilityRule::PromotionsDisabled, self.promotions_enabled),
            (EligibilityRule::BudgetExhausted, self.budget_has_room),
        ]
    }
}

/// Every rule that was judged and failed, in order. An empty list means eligible.
pub fn failed_rules(facts: &Facts) -> Vec<EligibilityRule> {
    facts
        .rules()
        .into_iter()
        .filter_map(|(reason, holds)| (holds == Some(false)).then_some(reason))
        .collect()
}

words! {
    /// The screen that the client's app shows.
    pub enum Screen {
        /// The challenge is completed, and the reward can be claimed.
        RewardReady = "REWARD_READY",
        /// Rides are being counted.
        PromoProgress = "PROMO_PROGRESS",
        /// The deadline of the challenge passed; shown until acknowledged.
        ChallengeOver = "CHALLENGE_OVER",
        /// The deadline of the reward passed; shown until acknowledged.
        RewardExpired = "REWARD_EXPIRED",
        /// A promotion can be started.
        PromoOffer = "PROMO_OFFER",
        /// A loan without a challenge.
        RegularOffer = "REGULAR_OFFER",
        /// No offer.
        NoOffer = "NO_OFFER",
    }
}

/// The latest participation of a client, over all promotions. A live or rewarded participation is
/// always the latest, because no other can be started beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latest {
    /// The promotion.
    pub promotion_id: PromotionId,
    /// Its recorded status.
    pub status: Status,
    /// Whether the client has acknowledged its end.
    pub acknowledged: bool,
    /// Whether the pre-offer it was started from still exists and is valid.
    pub pre_offer_valid: bool,
}

/// A pre-offer, with what decides whether its promotion is shown and can be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreOffer {
    /// Its id.
    pub pre_offer_id: Uuid,
    /// The loan's terms.
    pub reward: Reward,
    /// The client's country.
    pub country_code: CountryCode,
    /// The end of its validity, exclusive.
    pub valid_until: Instant,
    /// The promotion that scoring named.
    pub promotion_key: Option<String>,
    /// The promotion, if its key was known at the import.
    pub promotion_id: Option<PromotionId>,
    /// Whether that promotion is active; `None` without one.
    pub promotion_active: Option<bool>,
    /// When that promotion can be started.
    pub schedule: Schedule,
    /// That promotion's budget and its present use; `None` without a budget.
    pub budget: Option<(Budget, BudgetUse)>,
    /// The country's flag; `None` if it was never set, which means disabled.
    pub promotions_enabled: Option<bool>,
}

impl PreOffer {
    /// Whether its reward fits in the promotion's budget.
    fn fits(&self) -> bool {
        self.budget
            .is_none_or(|(budget, used)| budget.has_room(&used, &self.reward))
    }
}

/// Everything that decides what a client sees on landing, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFacts {
    /// The moment, by the database's clock.
    pub now: Instant,
    /// The latest participation.
    pub latest: Option<Latest>,
    /// The client counts as rewarded although no participation shows it: a restore lost the reward, or
    /// it came before the client's data was erased.
    pub rewarded_elsewhere: bool,
    /// The newbie pre-offer to consider, valid or not: the most recently imported one of a promotion in
    /// which the client has not participated; valid before expired, then mapped before unmapped.
    pub newbie: Option<PreOffer>,
    /// The most recently imported valid pre-offer of another segment.
    pub regular: Option<PreOffer>,
}

/// The result of one rule of eligibility, with the values compared.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = EligibilityCheck)]
pub struct Check {
    /// The rule; it is the reason if it fails.
    pub rule: EligibilityRule,
    /// Whether it holds.
    pub ok: bool,
    /// The values compared.
    #[schema(value_type = Object)]
    pub facts: Value,
}

impl ClientFacts {
    /// The screen of the landing: the first row of the contract's list that applies.
    pub fn screen(&self) -> Screen {
        if let Some(screen) = self.latest.and_then(|latest| self.screen_of(&latest)) {
            screen
        } else if failed_rules(&self.facts()).is_empty() {
            Screen::PromoOffer
        } else if self.regular.is_some() {
            Screen::RegularOffer
        } else {
            Screen::NoOffer
        }
    }

    /// Whether the latest participation is completed and past its reward's deadline.
    pub fn has_overdue_reward(&self) -> bool {
        let status = self.latest.map(|latest| latest.status);
        matches!(status, Some(Status::Completed(completion)) if self.now >= completion.reward_deadline)
    }

    /// The screen that a participation decides by itself, if any.
    fn screen_of(&self, latest: &Latest) -> Option<Screen> {
        let ended = match latest.status {
            Status::Completed(completion) if self.now < completion.reward_deadline => {
                return Some(Screen::RewardReady);
            }
            Status::InProgress => return Some(Screen::PromoProgress),
            // A client who was rewarded once is never a newbie again, so earlier challenges are not
            // shown either.
            Status::Rewarded { .. } => return None,
            // Past its deadline, whether that is recorded or not.
            Status::Completed(_) => ExpiredReason::RewardNotClaimed,
            Status::Expired { reason, .. } => reason,
        };
        if latest.acknowledged || !latest.pre_offer_valid {
            return None;
        }
        Some(match ended {
            // The other ends count as acknowledged, so they never come here.
            ExpiredReason::ChallengeNotCompleted
            | ExpiredReason::Quit
            | ExpiredReason::Cancelled => Screen::ChallengeOver,
            ExpiredReason::RewardNotClaimed => Screen::RewardExpired,
        })
    }

    /// The facts for the rules of eligibility.
    pub fn facts(&self) -> Facts {
        let status = self.latest.map(|latest| latest.status);
        let valid = self.newbie.as_ref().filter(|found| self.is_valid(found));
        let mapped = valid.filter(|found| found.promotion_id.is_some());
        Facts {
            rewarded: self.rewarded_elsewhere || matches!(status, Some(Status::Rewarded { .. })),
            live: match status {
                Some(Status::InProgress) => true,
                Some(Status::Completed(completion)) => self.now < completion.reward_deadline,
                _ => false,
            },
            pre_offer: match (&self.newbie, valid) {
                (None, _) => PreOfferFound::No,
                (Some(_), None) => PreOfferFound::Expired,
                (Some(_), Some(_)) => PreOfferFound::Valid,
            },
            promotion_mapped: valid.map(|found| found.promotion_id.is_some()),
            promotion_active: valid.and_then(|found| found.promotion_active),
            promotion_open: mapped.map(|found| found.schedule.is_open(self.now)),
            promotions_enabled: valid.map(|found| found.promotions_enabled.unwrap_or(false)),
            budget_has_room: mapped.map(PreOffer::fits),
        }
    }

    /// Every rule that was judged, in order, with the values compared. The failed ones are those of
    /// [`failed_rules`].
    pub fn checks(&self) -> Vec<Check> {
        self.facts()
            .rules()
            .into_iter()
            .filter_map(|(rule, holds)| {
                holds.map(|ok| Check {
                    rule,
                    ok,
                    facts: self.compared(rule),
                })
            })
            .collect()
    }

    fn is_valid(&self, pre_offer: &PreOffer) -> bool {
        self.now < pre_offer.valid_until
    }

    fn compared(&self, rule: EligibilityRule) -> Value {
        let newbie = self.newbie.as_ref();
        match rule {
            EligibilityRule::AlreadyRewarded | EligibilityRule::AnotherChallengeLive => json!({
                "latest_promotion_id": self.latest.map(|latest| latest.promotion_id),
                "status": self.latest.map(|latest| latest.status.name()),
            }),
            EligibilityRule::NoPreOffer => json!({
                "pre_offer_id": newbie.map(|found| found.pre_offer_id),
            }),
            EligibilityRule::PreOfferExpired => json!({
                "pre_offer_id": newbie.map(|found| found.pre_offer_id),
                "valid_until": newbie.map(|found| instant(found.valid_until)),
                "now": instant(self.now),
            }),
            EligibilityRule::NoPromotionMapped => json!({
                "promotion_key": newbie.and_then(|found| found.promotion_key.as_deref()),
                "promotion_id": newbie.and_then(|found| found.promotion_id),
            }),
            EligibilityRule::PromotionInactive => json!({
                "promotion_id": newbie.and_then(|found| found.promotion_id),
                "active": newbie.and_then(|found| found.promotion_active),
            }),
            EligibilityRule::PromotionNotOpen => json!({
                "promotion_id": newbie.and_then(|found| found.promotion_id),
                "opens_at": newbie.and_then(|found| found.schedule.opens_at).map(instant),
                "closes_at": newbie.and_then(|found| found.schedule.closes_at).map(instant),
                "now": instant(self.now),
            }),
            EligibilityRule::BudgetExhausted => {
                let (budget, used) = newbie.and_then(|found| found.budget).unzip();
                json!({
                    "promotion_id": newbie.and_then(|found| found.promotion_id),
                    "budget": budget,
                    "participations": used.map(|used| used.participations_reserved + used.participations_spent),
                    "reward_cents": used.map(|used| used.reward_cents_reserved + used.reward_cents_spent),
                    "amount_cents": newbie.map(|found| found.reward.amount_cents),
                    "currency_code": newbie.map(|found| found.reward.currency_code),
                })
            }
            EligibilityRule::PromotionsDisabled => json!({
                "country_code": newbie.map(|found| found.country_code),
                "promotions_enabled": newbie.and_then(|found| found.promotions_enabled),
            }),
        }
    }
}

fn instant(instant: Instant) -> String {
    instant.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}

#[cfg(test)]
mod tests;
