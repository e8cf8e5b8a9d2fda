//! Who may start a promotion, and what a client sees on landing (contract 5, Eligibility and
//! Landing): pure decisions from facts read under one snapshot.

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::participation::{ExpiredReason, Status};
use super::reward::{CountryCode, Reward};
use super::{Instant, PromotionId};

/// Why a client may not start, in the contract's order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(as = EligibilityRule)]
#[schema(
    description = "A rule of eligibility; as a reason: it failed. In order.\n\n- `ALREADY_REWARDED`: the client was rewarded before, in any promotion\n- `ANOTHER_CHALLENGE_LIVE`: a challenge of theirs is in progress or waits to be claimed\n- `NO_PRE_OFFER`: no newbie pre-offer is there\n- `PRE_OFFER_EXPIRED`: there are newbie pre-offers, but none is valid any more\n- `NO_PROMOTION_MAPPED`: the pre-offer's promotion is not known\n- `PROMOTION_INACTIVE`: the promotion is switched off\n- `PROMOTIONS_DISABLED`: promotions are switched off in the pre-offer's country"
)]
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
    /// A participation is live, in any promotion; one past its reward's deadline is not, whether
    /// that is written already or not.
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

impl Facts {
    /// Every rule in the contract's order, with whether it holds; `None` where it cannot be judged.
    fn rules(&self) -> [(Reason, Option<bool>); 7] {
        let unexpired = match self.pre_offer {
            PreOfferFound::No => None,
            PreOfferFound::Expired => Some(false),
            PreOfferFound::Valid => Some(true),
        };
        [
            (Reason::AlreadyRewarded, Some(!self.rewarded)),
            (Reason::AnotherChallengeLive, Some(!self.live)),
            (
                Reason::NoPreOffer,
                Some(self.pre_offer != PreOfferFound::No),
            ),
            (Reason::PreOfferExpired, unexpired),
            (Reason::NoPromotionMapped, self.promotion_mapped),
            (Reason::PromotionInactive, self.promotion_active),
            (Reason::PromotionsDisabled, self.promotions_enabled),
        ]
    }
}

/// Every rule that could be judged and failed, in order; empty means eligible.
pub fn failed_rules(facts: &Facts) -> Vec<Reason> {
    facts
        .rules()
        .into_iter()
        .filter_map(|(reason, holds)| (holds == Some(false)).then_some(reason))
        .collect()
}

/// What the client's app shows after the landing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schema(
    description = "What the client's app shows.\n\n- `REWARD_READY`: the challenge is done and the reward may be claimed\n- `PROMO_PROGRESS`: rides are being counted\n- `CHALLENGE_OVER`: the deadline of the challenge passed; shown until acknowledged\n- `REWARD_EXPIRED`: the deadline of the reward passed; shown until acknowledged\n- `PROMO_OFFER`: a promotion may be started\n- `REGULAR_OFFER`: a loan without a challenge\n- `NO_OFFER`: nothing"
)]
pub enum Screen {
    /// The challenge is done and the reward may be claimed.
    RewardReady,
    /// Rides are being counted.
    PromoProgress,
    /// The challenge's deadline passed; shown until acknowledged.
    ChallengeOver,
    /// The reward's deadline passed; shown until acknowledged.
    RewardExpired,
    /// A promotion may be started.
    PromoOffer,
    /// A loan without a challenge.
    RegularOffer,
    /// Nothing now.
    NoOffer,
}

/// The latest participation of a client, over all promotions. A live or rewarded one is always
/// the latest: with it, none can be started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latest {
    /// The promotion.
    pub promotion_id: PromotionId,
    /// Where it stands, as written.
    pub status: Status,
    /// The client has seen that it is over.
    pub acknowledged: bool,
    /// The pre-offer it was started from is still there and valid.
    pub pre_offer_valid: bool,
}

/// A pre-offer, with what decides whether its promotion may be shown and started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreOffer {
    /// Which.
    pub pre_offer_id: Uuid,
    /// The loan's terms.
    pub reward: Reward,
    /// The client's country.
    pub country_code: CountryCode,
    /// The end of its validity, exclusive.
    pub valid_until: Instant,
    /// The promotion that scoring named.
    pub promotion_key: Option<String>,
    /// The promotion, where its key was known at import.
    pub promotion_id: Option<PromotionId>,
    /// Whether that promotion is active; `None` without one.
    pub promotion_active: Option<bool>,
    /// The country's switch; `None` where it was never set, which is off.
    pub promotions_enabled: Option<bool>,
}

/// Everything that decides what a client sees on landing, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFacts {
    /// The moment, by the database's clock.
    pub now: Instant,
    /// The latest participation.
    pub latest: Option<Latest>,
    /// The newbie pre-offer to consider, valid or not: the most recently imported one of a
    /// promotion not yet taken part in; valid before expired, then mapped before unmapped.
    pub newbie: Option<PreOffer>,
    /// The most recently imported valid pre-offer of another segment.
    pub regular: Option<PreOffer>,
}

/// One rule of eligibility as it was judged, with the values compared.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[schema(as = EligibilityCheck)]
pub struct Check {
    /// The reason given where it fails.
    pub rule: Reason,
    /// Whether it holds.
    pub ok: bool,
    /// What was compared.
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

    /// The screen that a participation claims for itself, if it does.
    fn screen_of(&self, latest: &Latest) -> Option<Screen> {
        let ended = match latest.status {
            Status::Completed {
                reward_deadline, ..
            } if self.now < reward_deadline => return Some(Screen::RewardReady),
            Status::InProgress { .. } => return Some(Screen::PromoProgress),
            // Rewarded once, never a newbie again, so no earlier challenge is mourned either.
            Status::Rewarded { .. } => return None,
            // Past its deadline, written or not.
            Status::Completed { .. } => ExpiredReason::RewardNotClaimed,
            Status::Expired { reason, .. } => reason,
        };
        if latest.acknowledged || !latest.pre_offer_valid {
            return None;
        }
        Some(match ended {
            ExpiredReason::ChallengeNotCompleted => Screen::ChallengeOver,
            ExpiredReason::RewardNotClaimed => Screen::RewardExpired,
        })
    }

    /// The same as eligibility sees it.
    pub fn facts(&self) -> Facts {
        let status = self.latest.map(|latest| latest.status);
        let valid = self.newbie.as_ref().filter(|found| self.is_valid(found));
        Facts {
            rewarded: matches!(status, Some(Status::Rewarded { .. })),
            live: match status {
                Some(Status::InProgress { .. }) => true,
                Some(Status::Completed {
                    reward_deadline, ..
                }) => self.now < reward_deadline,
                _ => false,
            },
            pre_offer: match (&self.newbie, valid) {
                (None, _) => PreOfferFound::No,
                (Some(_), None) => PreOfferFound::Expired,
                (Some(_), Some(_)) => PreOfferFound::Valid,
            },
            promotion_mapped: valid.map(|found| found.promotion_id.is_some()),
            promotion_active: valid.and_then(|found| found.promotion_active),
            promotions_enabled: valid.map(|found| found.promotions_enabled.unwrap_or(false)),
        }
    }

    /// Every rule that could be judged, in order, with what was compared: the failed ones are those
    /// of [`failed_rules`].
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

    fn compared(&self, rule: Reason) -> Value {
        let newbie = self.newbie.as_ref();
        match rule {
            Reason::AlreadyRewarded | Reason::AnotherChallengeLive => json!({
                "latest_promotion_id": self.latest.map(|latest| latest.promotion_id),
                "status": self.latest.map(|latest| latest.status.name()),
            }),
            Reason::NoPreOffer => json!({
                "pre_offer_id": newbie.map(|found| found.pre_offer_id),
            }),
            Reason::PreOfferExpired => json!({
                "pre_offer_id": newbie.map(|found| found.pre_offer_id),
                "valid_until": newbie.map(|found| instant(found.valid_until)),
                "now": instant(self.now),
            }),
            Reason::NoPromotionMapped => json!({
                "promotion_key": newbie.and_then(|found| found.promotion_key.as_deref()),
                "promotion_id": newbie.and_then(|found| found.promotion_id),
            }),
            Reason::PromotionInactive => json!({
                "promotion_id": newbie.and_then(|found| found.promotion_id),
                "active": newbie.and_then(|found| found.promotion_active),
            }),
            Reason::PromotionsDisabled => json!({
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
mod tests {
    use chrono::TimeDelta;

    use super::*;

    fn now() -> Instant {
        "2026-11-22T18:04:05.123Z".parse().expect("an instant")
    }

    fn seconds(seconds: i64) -> TimeDelta {
        TimeDelta::seconds(seconds)
    }

    /// Mapped to an active promotion, in a country where promotions are on, valid for a second.
    fn pre_offer() -> PreOffer {
        PreOffer {
            pre_offer_id: Uuid::from_u128(1),
            reward: Reward {
                product_id: 80,
                amount_cents: 100_000,
                currency_code: "MXN".parse().expect("a code"),
                repayment_rate: "15".to_owned(),
            },
            country_code: "MX".parse().expect("a code"),
            valid_until: now() + seconds(1),
            promotion_key: Some("mx-newbie-20".to_owned()),
            promotion_id: Some(7),
            promotion_active: Some(true),
            promotions_enabled: Some(true),
        }
    }

    fn eligible() -> ClientFacts {
        ClientFacts {
            now: now(),
            latest: None,
            newbie: Some(pre_offer()),
            regular: None,
        }
    }

    fn stranger() -> ClientFacts {
        ClientFacts {
            newbie: None,
            ..eligible()
        }
    }

    fn latest(status: Status) -> Option<Latest> {
        Some(Latest {
            promotion_id: 6,
            status,
            acknowledged: false,
            pre_offer_valid: true,
        })
    }

    fn in_progress() -> Status {
        // Settling: what is not proven to be over goes on.
        Status::InProgress {
            challenge_deadline: now() - seconds(1),
        }
    }

    fn completed(reward_deadline: Instant) -> Status {
        Status::Completed {
            completed_at: now() - seconds(100),
            reward_deadline,
        }
    }

    fn expired(reason: ExpiredReason) -> Status {
        Status::Expired {
            expired_at: now() - seconds(1),
            reason,
        }
    }

    fn rewarded() -> Status {
        Status::Rewarded { rewarded_at: now() }
    }

    #[test]
    fn every_row_of_the_landing() {
        use ExpiredReason::{ChallengeNotCompleted, RewardNotClaimed};
        let acknowledged = |status| {
            latest(status).map(|latest| Latest {
                acknowledged: true,
                ..latest
            })
        };
        let without_pre_offer = |status| {
            latest(status).map(|latest| Latest {
                pre_offer_valid: false,
                ..latest
            })
        };
        let in_time = completed(now() + TimeDelta::milliseconds(1));
        let too_late = completed(now());
        let regular = Some(pre_offer());
        // Who could start, who has only a regular pre-offer, who has nothing.
        let rows = [
            (
                "completed in time",
                latest(in_time),
                [Screen::RewardReady; 3],
            ),
            (
                "in progress",
                latest(in_progress()),
                [Screen::PromoProgress; 3],
            ),
            (
                "challenge over",
                latest(expired(ChallengeNotCompleted)),
                [Screen::ChallengeOver; 3],
            ),
            (
                "reward expired",
                latest(expired(RewardNotClaimed)),
                [Screen::RewardExpired; 3],
            ),
            (
                "past the reward's deadline, not yet written",
                latest(too_late),
                [Screen::RewardExpired; 3],
            ),
            (
                "challenge over, acknowledged",
                acknowledged(expired(ChallengeNotCompleted)),
                [Screen::PromoOffer, Screen::RegularOffer, Screen::NoOffer],
            ),
            (
                "reward expired, acknowledged",
                acknowledged(expired(RewardNotClaimed)),
                [Screen::PromoOffer, Screen::RegularOffer, Screen::NoOffer],
            ),
            (
                "past the reward's deadline and acknowledged, not yet written",
                acknowledged(too_late),
                [Screen::PromoOffer, Screen::RegularOffer, Screen::NoOffer],
            ),
            (
                "challenge over, and its pre-offer too",
                without_pre_offer(expired(ChallengeNotCompleted)),
                [Screen::PromoOffer, Screen::RegularOffer, Screen::NoOffer],
            ),
            (
                "rewarded",
                latest(rewarded()),
                [Screen::NoOffer, Screen::RegularOffer, Screen::NoOffer],
            ),
            (
                "never took part",
                None,
                [Screen::PromoOffer, Screen::RegularOffer, Screen::NoOffer],
            ),
        ];
        for (name, latest, screens) in rows {
            let clients = [
                eligible(),
                ClientFacts {
                    regular: regular.clone(),
                    ..stranger()
                },
                stranger(),
            ];
            for (client, screen) in clients.into_iter().zip(screens) {
                let client = ClientFacts { latest, ..client };
                assert_eq!(client.screen(), screen, "{name}: {client:?}");
            }
        }
    }

    #[test]
    fn a_newbie_who_is_eligible_is_not_sent_the_regular_way() {
        let client = ClientFacts {
            regular: Some(pre_offer()),
            ..eligible()
        };
        assert_eq!(client.screen(), Screen::PromoOffer);
    }

    #[test]
    fn every_reason_alone() {
        let changed = |change: fn(&mut PreOffer)| {
            let mut pre_offer = pre_offer();
            change(&mut pre_offer);
            ClientFacts {
                newbie: Some(pre_offer),
                ..eligible()
            }
        };
        let rows = [
            (eligible(), vec![]),
            (
                ClientFacts {
                    latest: latest(rewarded()),
                    ..eligible()
                },
                vec![Reason::AlreadyRewarded],
            ),
            (
                ClientFacts {
                    latest: latest(in_progress()),
                    ..eligible()
                },
                vec![Reason::AnotherChallengeLive],
            ),
            (stranger(), vec![Reason::NoPreOffer]),
            (
                changed(|found| found.valid_until = now()),
                vec![Reason::PreOfferExpired],
            ),
            (
                changed(|found| {
                    found.promotion_id = None;
                    found.promotion_active = None;
                }),
                vec![Reason::NoPromotionMapped],
            ),
            (
                changed(|found| found.promotion_active = Some(false)),
                vec![Reason::PromotionInactive],
            ),
            (
                changed(|found| found.promotions_enabled = Some(false)),
                vec![Reason::PromotionsDisabled],
            ),
            (
                changed(|found| found.promotions_enabled = None),
                vec![Reason::PromotionsDisabled],
            ),
            (
                ClientFacts {
                    latest: latest(completed(now())),
                    ..eligible()
                },
                vec![],
            ),
            (
                ClientFacts {
                    latest: latest(completed(now() + TimeDelta::milliseconds(1))),
                    ..changed(|found| {
                        found.promotion_active = Some(false);
                        found.promotions_enabled = None;
                    })
                },
                vec![
                    Reason::AnotherChallengeLive,
                    Reason::PromotionInactive,
                    Reason::PromotionsDisabled,
                ],
            ),
        ];
        for (client, reasons) in rows {
            assert_eq!(failed_rules(&client.facts()), reasons, "{client:?}");
            let failed: Vec<Reason> = client
                .checks()
                .into_iter()
                .filter(|check| !check.ok)
                .map(|check| check.rule)
                .collect();
            assert_eq!(failed, reasons, "the operator sees the same: {client:?}");
        }
    }

    #[test]
    fn checks_leave_out_what_could_not_be_judged() {
        let rules = |client: &ClientFacts| -> Vec<Reason> {
            client.checks().iter().map(|check| check.rule).collect()
        };
        assert_eq!(
            rules(&stranger()),
            [
                Reason::AlreadyRewarded,
                Reason::AnotherChallengeLive,
                Reason::NoPreOffer
            ]
        );
        assert_eq!(rules(&eligible()).len(), 7);
    }

    #[test]
    fn checks_say_what_was_compared() {
        let mut client = eligible();
        client.now = pre_offer().valid_until;
        let check = client.checks().into_iter().find(|check| !check.ok);
        assert_eq!(
            check.expect("it has expired").facts,
            json!({
                "pre_offer_id": "00000000-0000-0000-0000-000000000001",
                "valid_until": "2026-11-22T18:04:06.123Z", "now": "2026-11-22T18:04:06.123Z",
            })
        );
    }
}
