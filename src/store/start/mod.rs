//! Get started: the facts that decide, read under the clients' own locks, and what a start writes. Starts that
//! come at the same time share transactions.

mod batch;
mod facts;
mod queue;
mod write;

use serde_json::Value;
use sqlx::PgConnection;

use self::facts::{Candidate, Decision, find_one, plan_by_keys};
pub(super) use self::queue::StartQueue;
use self::write::{New, write};
use super::budget::{ReleasedUse, Reservation};
use super::expiry::expire_reward_of;
use super::extensions::apply_of_client;
use super::participations::{StoredParticipation, load};
use super::splits::{self, NewSplit};
use super::{Result, Store, StoreError, timed_out};
use crate::domain::eligibility::EligibilityRule;
use crate::domain::participation::Status;
use crate::domain::{PromotionId, UserId};

/// A client has at most one participation that is live or rewarded.
const ONE_LIVE_OR_REWARDED: &str = "promotion_user_one_live_or_rewarded";

/// A client takes part in a promotion once.
const ONCE: &str = "promotion_user_pkey";

/// How often a start is tried while other participations of the client begin.
const MAX_TRIES: u32 = 5;

/// The result of Get started.
#[derive(Clone, Debug)]
pub enum StartOutcome {
    /// It began now.
    Started {
        /// The participation.
        participation: StoredParticipation,
        /// How many rewards that were not claimed in time had to be expired first.
        expired_rewards: u64,
    },
    /// It runs already.
    AlreadyInProgress(StoredParticipation),
    /// It is past that.
    AlreadyParticipated(StoredParticipation),
    /// There is no such promotion.
    NoSuchPromotion,
    /// The rules that failed, in order; never empty.
    NotEligible(Vec<EligibilityRule>),
}

impl Store {
    /// Get started: begins the promotion for the client if every rule allows it. Running it again
    /// finds what the first run did. It begins in a transaction that it shares with other starts, or in one
    /// of its own where it writes more than a participation.
    pub async fn start(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
        traceparent: Option<String>,
    ) -> Result<StartOutcome> {
        let candidate = Candidate {
            key: (user_id, promotion_id),
            erased_name: self.erased_name(user_id)?,
            traceparent,
        };
        // A process of the release before would accept on the product of the moment, and not keep
        // the counts of days.
        let upgraded = self.upgrade_is_finished().await?;
        if upgraded && let Some(started) = self.start_with_others(candidate.clone()).await? {
            return Ok(started);
        }
        self.start_alone(candidate, upgraded).await
    }

    async fn start_alone(&self, candidate: Candidate, upgraded: bool) -> Result<StartOutcome> {
        let mut tries = 1;
        loop {
            let candidate = candidate.clone();
            let result = self
                .run_tx("start", move |connection| {
                    let candidate = candidate.clone();
                    Box::pin(async move { start(connection, &candidate, upgraded).await })
                })
                .await;
            match result {
                // The client took part in something meanwhile, which the locks on pre-offers could
                // not tell: now it is known.
                Err(error)
                    if tries < MAX_TRIES
                        && [ONE_LIVE_OR_REWARDED, ONCE]
                            .into_iter()
                            .any(|constraint| error.is_duplicate_of(constraint)) =>
                {
                    tries += 1;
                }
                Err(StoreError::BudgetExhausted) => {
                    return Ok(StartOutcome::NotEligible(vec![
                        EligibilityRule::BudgetExhausted,
                    ]));
                }
                result => return result,
            }
        }
    }
}

/// One start, whatever it needs.
async fn start(
    connection: &mut PgConnection,
    candidate: &Candidate,
    upgraded: bool,
) -> Result<StartOutcome> {
    let (user_id, promotion_id) = candidate.key;
    plan_by_keys(connection).await?;
    splits::lock_pre_offers(connection, user_id).await?;
    let mut found = find_one(connection, candidate).await?;
    if found.has_participated
        && let Some(existing) = load(connection, user_id, promotion_id).await?
    {
        return Ok(match existing.state.status {
            Status::InProgress => StartOutcome::AlreadyInProgress(existing),
            _ => StartOutcome::AlreadyParticipated(existing),
        });
    }
    // A reward that an extension covers is live again, whoever is the first to look.
    if found.overdue {
        apply_of_client(connection, user_id).await?;
        // The sweeper may have applied it since the first read.
        found = find_one(connection, candidate).await?;
    }
    let is_overdue = found.overdue;
    let eligible = match found.decide()? {
        Decision::NoSuchPromotion => return Ok(StartOutcome::NoSuchPromotion),
        Decision::NotEligible(failed) => return Ok(StartOutcome::NotEligible(failed)),
        Decision::Eligible(eligible) => eligible,
    };
    // What the rules take for over is written to be over first; a client has one live participation.
    let (expired_rewards, released) = if is_overdue {
        expire_reward_of(connection, user_id).await?
    } else {
        (0, ReleasedUse::default())
    };
    let (promotion, pre_offer, reward) =
        (&eligible.promotion, &eligible.pre_offer, &eligible.reward);
    let terms_id = match promotion.terms_id {
        Some(terms_id) => terms_id,
        None => freeze_terms(connection, promotion_id, &promotion.conditions).await?,
    };
    let product_terms_id = match (upgraded, eligible.product_terms_id) {
        (false, _) => None,
        (true, Some(product_terms_id)) => Some(product_terms_id),
        (true, None) => Some(freeze_product(connection, reward.product_id).await?),
    };
    // A landing may have made one meanwhile, where the client had no pre-offer that could be locked.
    let split_is_right = match eligible.split_is_current {
        Some(is_current) => is_current,
        None => {
            let split = NewSplit {
                key: candidate.key,
                pre_offer,
                now: eligible.now,
            };
            !splits::make(connection, &[split]).await?.is_empty()
        }
    };
    if !split_is_right {
        splits::ensure_active_split(connection, user_id, promotion_id, pre_offer, eligible.now)
            .await?;
    }
    let traceparent = candidate.traceparent.as_deref();
    let new = New::of(&eligible, terms_id, product_terms_id, traceparent)?;
    let written = write(connection, &[new]).await?.pop();
    let participation =
        written.ok_or_else(|| StoreError::Corrupt("a start wrote nothing".to_owned()))?;
    if promotion.has_budget_use {
        let reservation = Reservation::of(promotion_id, promotion.budget, reward);
        if !reservation.make(connection, released).await? {
            return Err(StoreError::BudgetExhausted);
        }
    } else {
        released.give_back(connection).await?;
    }
    Ok(StartOutcome::Started {
        participation,
        expired_rewards,
    })
}

/// The immutable row of these conditions, made if it is the first participation under them.
async fn freeze_terms(
    connection: &mut PgConnection,
    promotion_id: PromotionId,
    conditions: &Value,
) -> Result<i64> {
    sqlx::query!(
        "insert into promotion_terms (promotion_id, conditions) values ($1, $2) on conflict (promotion_id, md5(conditions::text)) do nothing",
        promotion_id,
        conditions
    )
    .execute(&mut *connection)
    .await?;
    Ok(sqlx::query_scalar!(
        "select terms_id from promotion_terms where promotion_id = $1 and md5(conditions::text) = md5($2::jsonb::text)",
        promotion_id,
        conditions
    )
    .fetch_one(connection)
    .await?)
}

/// The immutable row of this product as it is now, made if it is the first participation with it.
async fn freeze_product(connection: &mut PgConnection, product_id: i64) -> Result<i64> {
    for _ in 0..MAX_TRIES {
        let made = sqlx::query_scalar!(
            "insert into product_terms (product_id, name, currency_code, term_days, terms_url)
             select product_id, name, currency_code, term_days, terms_url from product where product_id = $1
             on conflict do nothing
             returning product_terms_id",
            product_id
        )
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(made) = made {
            return Ok(made);
        }
        // Another start has made it meanwhile.
        let found = sqlx::query_scalar!(
            "select t.product_terms_id
               from product p
               join product_terms t
                 on (t.product_id, t.name, t.currency_code, t.term_days) = (p.product_id, p.name, p.currency_code, p.term_days)
                and t.terms_url is not distinct from p.terms_url
              where p.product_id = $1",
            product_id
        )
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(found) = found {
            return Ok(found);
        }
        // The product was changed between the two statements.
    }
    Err(timed_out())
}
