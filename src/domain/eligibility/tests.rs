use chrono::TimeDelta;

use super::*;
use crate::domain::participation::Completion;

fn now() -> Instant {
    "2026-11-22T18:04:05.123Z".parse().expect("an instant")
}

fn seconds(seconds: i64) -> TimeDelta {
    TimeDelta::seconds(seconds)
}

/// Mapped to an active promotion in a country with promotions enabled; valid for a second.
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
        schedule: Schedule::default(),
        budget: None,
        promotions_enabled: Some(true),
    }
}

/// A budget for one participation, of which this many are in use.
fn budget_with(participations_reserved: i64) -> Option<(Budget, BudgetUse)> {
    let budget = Budget {
        max_participations: Some(1),
        ..Budget::default()
    };
    let used = BudgetUse {
        participations_reserved,
        ..BudgetUse::default()
    };
    Some((budget, used))
}

fn eligible() -> ClientFacts {
    ClientFacts {
        now: now(),
        latest: None,
        rewarded_elsewhere: false,
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

fn completion(reward_deadline: Instant) -> Completion {
    Completion {
        completed_at: now() - seconds(100),
        reward_deadline,
    }
}

fn completed(reward_deadline: Instant) -> Status {
    Status::Completed(completion(reward_deadline))
}

fn expired(reason: ExpiredReason) -> Status {
    Status::Expired {
        completion: None,
        expired_at: now() - seconds(1),
        reason,
    }
}

fn rewarded() -> Status {
    Status::Rewarded {
        completion: completion(now() + seconds(1)),
        rewarded_at: now(),
    }
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
    // The columns: can start, has only a regular pre-offer, has nothing.
    let rows = [
        (
            "completed in time",
            latest(in_time),
            [Screen::RewardReady; 3],
        ),
        (
            "in progress",
            latest(Status::InProgress),
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
            vec![EligibilityRule::AlreadyRewarded],
        ),
        (
            ClientFacts {
                latest: latest(Status::InProgress),
                ..eligible()
            },
            vec![EligibilityRule::AnotherChallengeLive],
        ),
        (stranger(), vec![EligibilityRule::NoPreOffer]),
        (
            changed(|found| found.valid_until = now()),
            vec![EligibilityRule::PreOfferExpired],
        ),
        (
            changed(|found| {
                found.promotion_id = None;
                found.promotion_active = None;
            }),
            vec![EligibilityRule::NoPromotionMapped],
        ),
        (
            changed(|found| found.promotion_active = Some(false)),
            vec![EligibilityRule::PromotionInactive],
        ),
        (
            changed(|found| found.schedule.opens_at = Some(now() + seconds(1))),
            vec![EligibilityRule::PromotionNotOpen],
        ),
        (
            changed(|found| found.schedule.closes_at = Some(now())),
            vec![EligibilityRule::PromotionNotOpen],
        ),
        (
            changed(|found| found.schedule.opens_at = Some(now())),
            vec![],
        ),
        (changed(|found| found.budget = budget_with(0)), vec![]),
        (
            changed(|found| found.budget = budget_with(1)),
            vec![EligibilityRule::BudgetExhausted],
        ),
        (
            changed(|found| found.promotions_enabled = Some(false)),
            vec![EligibilityRule::PromotionsDisabled],
        ),
        (
            changed(|found| found.promotions_enabled = None),
            vec![EligibilityRule::PromotionsDisabled],
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
                    found.schedule.closes_at = Some(now());
                    found.budget = budget_with(1);
                    found.promotions_enabled = None;
                })
            },
            vec![
                EligibilityRule::AnotherChallengeLive,
                EligibilityRule::PromotionInactive,
                EligibilityRule::PromotionNotOpen,
                EligibilityRule::PromotionsDisabled,
                EligibilityRule::BudgetExhausted,
            ],
        ),
    ];
    for (client, reasons) in rows {
        assert_eq!(failed_rules(&client.facts()), reasons, "{client:?}");
        let failed: Vec<EligibilityRule> = client
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
    let rules = |client: &ClientFacts| -> Vec<EligibilityRule> {
        client.checks().iter().map(|check| check.rule).collect()
    };
    assert_eq!(
        rules(&stranger()),
        [
            EligibilityRule::AlreadyRewarded,
            EligibilityRule::AnotherChallengeLive,
            EligibilityRule::NoPreOffer
        ]
    );
    assert_eq!(rules(&eligible()).len(), 9);
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
