//! Get started: the facts that decide, read by one statement under the client's own locks, and what a
//! start writes.

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use std::sync::Arc;
use uuid::Uuid;

use super::budget::{self, ReleasedUse, Reservation};
use super::expiry::expire_reward_of;
use super::extensions::apply_of_client;
use super::participations::{StoredParticipation, load};
use super::reminders::ReminderWindows;
use super::splits::{self, PreOffer};
use super::{Result, Store, StoreError, timed_out};
use crate::domain::budget::Budget;
use crate::domain::eligibility::{EligibilityRule, Facts, PreOfferFound, failed_rules};
use crate::domain::goals::{FurtherGoals, Tally};
use crate::domain::participation::{DeadlineOf, Status, StatusName};
use crate::domain::promotion::Conditions;
use crate::domain::reward::Reward;
use crate::domain::schedule::Schedule;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::participation::State;
use crate::wire::promotion_status::EventType;

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
    /// finds what the first run did.
    pub async fn start(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
        traceparent: Option<String>,
    ) -> Result<StartOutcome> {
        let erased_name = self.erased_name(user_id)?;
        // A process of the release before would accept on the product of the moment, and not keep
        // the counts of days.
        let upgraded = self.upgrade_is_finished().await?;
        let mut tries = 1;
        loop {
            let (traceparent, erased_name) = (traceparent.clone(), erased_name.clone());
            let result = self
                .run_tx("start", move |connection| {
                    let (traceparent, erased_name) = (traceparent.clone(), erased_name.clone());
                    Box::pin(async move {
                        start(
                            connection,
                            (user_id, promotion_id),
                            erased_name.as_deref(),
                            upgraded,
                            traceparent.as_deref(),
                        )
                        .await
                    })
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

/// What is known of the promotion to be started.
struct Promotion {
    promotion_key: String,
    conditions: Value,
    active: bool,
    schedule: Schedule,
    budget: Option<Budget>,
    has_budget_use: bool,
    /// The row of its conditions, where a participation has frozen them before.
    terms_id: Option<i64>,
}

/// What decides whether the client may start the promotion.
struct Found {
    promotion: Option<Promotion>,
    /// The most recently imported newbie pre-offer for the promotion: a valid one where there is one,
    /// else one that has run out.
    pre_offer: Option<PreOffer>,
    /// Whether promotions are on in the pre-offer's country.
    promotions_enabled: bool,
    /// The row of the pre-offer's product as it is now, where a participation has frozen it before.
    product_terms_id: Option<i64>,
    /// Whether the `ACTIVE` split says what the pre-offer says; `None` where there is none.
    split_is_current: Option<bool>,
    /// The client took part in this promotion.
    has_participated: bool,
    /// The client was rewarded, here or by what only a note is left of.
    rewarded: bool,
    /// A participation is live, and not past its reward's deadline.
    live: bool,
    /// One is past its reward's deadline, and not expired.
    overdue: bool,
    now: Instant,
}

/// Reads all of it under one snapshot, after the client's own locks.
///
/// What others may change meanwhile is guarded by locks of whole tables, which starts share without
/// waiting for each other: whoever switches a promotion or a country, or orders an extension, takes
/// the exclusive lock of that table. So it waits for the starts that have read what was before, and
/// those that come after it read what is then. A row lock would do the same, but all starts of a
/// promotion would write to the same row. Postgres takes these locks before the statement's snapshot.
async fn find(
    connection: &mut PgConnection,
    (user_id, promotion_id): (UserId, PromotionId),
    erased_name: Option<&str>,
) -> Result<Found> {
    let row = sqlx::query!(
        r#"select m.promotion_key as "promotion_key?", m.conditions as "conditions?", m.active as "active?", m.opens_at as "opens_at?",
                  m.closes_at as "closes_at?", m.budget as "budget?: Json<Budget>", m.has_budget_use as "has_budget_use?",
                  t.terms_id as "terms_id?", o.pre_offer_id as "pre_offer_id?", o.product_id as "product_id?",
                  o.amount_cents as "amount_cents?", o.currency_code as "currency_code?", o.repayment_rate as "repayment_rate?",
                  o.country_code as "country_code?", o.valid_until as "valid_until?",
                  coalesce(g.promotions_enabled, false) as "promotions_enabled!", f.product_terms_id as "product_terms_id?",
                  s.is_current as "split_is_current?", c.has_participated as "has_participated!", c.live as "live!",
                  c.overdue as "overdue!",
                  c.rewarded or exists (select from held_reward where user_id = $1 and loss_accepted_at is null)
                             or exists (select from erasure where client = $3 and rewarded) as "rewarded!",
                  exists (select from promotion where false for key share)
                  or exists (select from geo_config where false for key share)
                  or exists (select from extension_gate for key share) as "guards!",
                  clock_ms() as "now!"
             from (select $1::bigint as user_id, $2::bigint as promotion_id) v
            cross join lateral (
                  select coalesce(bool_or(promotion_id = v.promotion_id), false) as has_participated,
                         coalesce(bool_or(status = $4), false) as rewarded,
                         coalesce(bool_or(status = $5 or (status = $6 and reward_deadline > clock_timestamp())), false) as live,
                         coalesce(bool_or(status = $6 and reward_deadline <= clock_timestamp()), false) as overdue
                    from promotion_user where user_id = v.user_id) c
             left join promotion m on m.promotion_id = v.promotion_id
             left join promotion_terms t
               on t.promotion_id = m.promotion_id and md5(t.conditions::text) = md5(m.conditions::text)
             left join lateral (
                  select * from (select * from pre_offer where user_id = v.user_id offset 0) of_client
                   where promotion_id = v.promotion_id and segment = 'newbie'
                   order by valid_until > clock_timestamp() desc, import_seq desc
                   limit 1) o on true
             left join geo_config g on g.country_code = o.country_code
             left join product p on p.product_id = o.product_id
             left join product_terms f
               on (f.product_id, f.name, f.currency_code, f.term_days) = (p.product_id, p.name, p.currency_code, p.term_days)
              and f.terms_url is not distinct from p.terms_url
             left join lateral (
                  select a.valid_until > clock_timestamp()
                         and (a.pre_offer_id, a.product_id, a.amount_cents, a.currency_code, a.repayment_rate, a.country_code, a.valid_until)
                             is not distinct from
                             (o.pre_offer_id, o.product_id, o.amount_cents, o.currency_code, o.repayment_rate, o.country_code, o.valid_until)
                         as is_current
                    from cash_loan_account a
                   where a.user_id = v.user_id and a.promotion_id = v.promotion_id and a.status = 'ACTIVE') s on true"#,
        user_id,
        promotion_id,
        erased_name,
        StatusName::Rewarded as StatusName,
        StatusName::InProgress as StatusName,
        StatusName::Completed as StatusName
    )
    .fetch_one(connection)
    .await?;
    let promotion = match (row.promotion_key, row.conditions, row.active) {
        (Some(promotion_key), Some(conditions), Some(active)) => Some(Promotion {
            promotion_key,
            conditions,
            active,
            schedule: Schedule {
                opens_at: row.opens_at,
                closes_at: row.closes_at,
            },
            budget: row.budget.map(|Json(budget)| budget),
            has_budget_use: row.has_budget_use == Some(true),
            terms_id: row.terms_id,
        }),
        _ => None,
    };
    // The columns of a pre-offer are null together.
    let pre_offer = row.pre_offer_id.and_then(|pre_offer_id| {
        Some(PreOffer {
            pre_offer_id,
            product_id: row.product_id?,
            amount_cents: row.amount_cents?,
            currency_code: row.currency_code?,
            repayment_rate: row.repayment_rate?,
            country_code: row.country_code?,
            valid_until: row.valid_until?,
        })
    });
    Ok(Found {
        promotion,
        pre_offer,
        promotions_enabled: row.promotions_enabled,
        product_terms_id: row.product_terms_id,
        split_is_current: row.split_is_current,
        has_participated: row.has_participated,
        rewarded: row.rewarded,
        live: row.live,
        overdue: row.overdue,
        now: row.now,
    })
}

async fn start(
    connection: &mut PgConnection,
    key: (UserId, PromotionId),
    erased_name: Option<&str>,
    upgraded: bool,
    traceparent: Option<&str>,
) -> Result<StartOutcome> {
    let (user_id, promotion_id) = key;
    splits::lock_pre_offers(connection, user_id).await?;
    let mut found = find(connection, key, erased_name).await?;
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
        found = find(connection, key, erased_name).await?;
    }
    let Some(promotion) = found.promotion else {
        return Ok(StartOutcome::NoSuchPromotion);
    };
    // It may have run out while the locks were waited for; the later clock decides.
    let pre_offer_found = match &found.pre_offer {
        None => PreOfferFound::No,
        Some(pre_offer) if found.now < pre_offer.valid_until => PreOfferFound::Valid,
        Some(_) => PreOfferFound::Expired,
    };
    let pre_offer = found
        .pre_offer
        .filter(|_| pre_offer_found == PreOfferFound::Valid);
    let reward = pre_offer.as_ref().map(PreOffer::reward).transpose()?;
    let budget_has_room = match (&promotion.budget, &reward) {
        (_, None) => None,
        (None, Some(_)) => Some(true),
        (Some(budget), Some(reward)) => {
            let used = budget::used(connection, promotion_id).await?;
            Some(budget.has_room(&used.unwrap_or_default(), reward))
        }
    };
    let failed = failed_rules(&Facts {
        rewarded: found.rewarded,
        live: found.live,
        pre_offer: pre_offer_found,
        promotion_mapped: Some(true),
        promotion_active: Some(promotion.active),
        promotion_open: Some(promotion.schedule.is_open(found.now)),
        promotions_enabled: pre_offer.is_some().then_some(found.promotions_enabled),
        budget_has_room,
    });
    let (Some(pre_offer), Some(reward), true) = (pre_offer, reward, failed.is_empty()) else {
        return Ok(StartOutcome::NotEligible(failed));
    };
    // What the rules take for over is written to be over first; a client has one live participation.
    let (expired_rewards, released) = if found.overdue {
        expire_reward_of(connection, user_id).await?
    } else {
        (0, ReleasedUse::default())
    };
    let terms_id = match promotion.terms_id {
        Some(terms_id) => terms_id,
        None => freeze_terms(connection, promotion_id, &promotion.conditions).await?,
    };
    let product_terms_id = match (upgraded, found.product_terms_id) {
        (false, _) => None,
        (true, Some(product_terms_id)) => Some(product_terms_id),
        (true, None) => Some(freeze_product(connection, reward.product_id).await?),
    };
    let (budget, has_budget_use) = (promotion.budget, promotion.has_budget_use);
    let new = New {
        key,
        promotion_key: promotion.promotion_key,
        terms_id,
        product_terms_id,
        counts_days: upgraded,
        conditions: promotion.conditions,
        pre_offer: &pre_offer,
        reward: &reward,
        now: found.now,
    };
    let participation = new.write(connection, traceparent).await?;
    // A landing may have made one meanwhile, where the client had no pre-offer that could be locked.
    let is_right = match found.split_is_current {
        Some(is_current) => is_current,
        None => splits::make(connection, user_id, promotion_id, &pre_offer, found.now).await?,
    };
    if !is_right {
        splits::ensure_active_split(connection, user_id, promotion_id, &pre_offer, found.now)
            .await?;
    }
    if has_budget_use {
        // Also where the budget was removed: the use stays known.
        let room = budget.unwrap_or_default().room_for(&reward);
        let reservation = Reservation {
            promotion_id,
            room: room.ok_or(StoreError::BudgetExhausted)?,
            reward: &reward,
        };
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

/// A participation that begins.
struct New<'a> {
    key: (UserId, PromotionId),
    promotion_key: String,
    terms_id: i64,
    product_terms_id: Option<i64>,
    /// Whether days may be counted beside it, where the conditions ask for that.
    counts_days: bool,
    conditions: Value,
    pre_offer: &'a PreOffer,
    reward: &'a Reward,
    now: Instant,
}

impl New<'_> {
    /// Writes it, its event and when its first reminder is due.
    async fn write(
        self,
        connection: &mut PgConnection,
        traceparent: Option<&str>,
    ) -> Result<StoredParticipation> {
        let (user_id, promotion_id) = self.key;
        // As frozen ones are read: they were checked when they were written.
        let (conditions, _) = Conditions::from_frozen(&self.conditions).map_err(|errors| {
            StoreError::Corrupt(format!(
                "conditions of promotion {promotion_id}: {errors:?}"
            ))
        })?;
        let started_at = self.now;
        let challenge_deadline = started_at + conditions.challenge_period.delta();
        let rides_target = i32::try_from(conditions.target_rides).unwrap_or(i32::MAX);
        let further_goals = conditions.further_goals(&Tally::default());
        let version = sqlx::query_scalar!(
            // Above what subscribers have of one that was lost in a restore.
            r#"with made as (
                   insert into promotion_user (user_id, promotion_id, terms_id, status, version, rides_target, started_at,
                                               challenge_deadline, reward, pre_offer_id, country_code, receipts_month,
                                               product_terms_id, further_goals, rides_counted, amount_counted, days_counted,
                                               last_event_id, last_event_version, last_event_type, last_event_at)
                   select $1, $2, $3, $10, floor.version + 1, $4, $5, $6, $7, $8, $9,
                          date_trunc('month', $5::timestamptz at time zone 'UTC')::date, $11,
                          $12, case when $12::jsonb is not null then 0 end, case when $12::jsonb is not null then 0 end, $13,
                          $14, floor.version + 1, $15, $5
                     from (select coalesce((select version from version_floor where user_id = $1 and promotion_id = $2), 0)
                                  as version) floor
                returning *)
               insert into event_outbox (event_id, type, user_id, promotion_id, status, version, rides_completed, rides_target,
                                         started_at, challenge_deadline, reward, further_goals, occurred_at, traceparent)
               select last_event_id, last_event_type, user_id, promotion_id, status, version, rides_completed, rides_target,
                      started_at, challenge_deadline, reward, further_goals, last_event_at, $16
                 from made
            returning version as "version!""#,
            user_id,
            promotion_id,
            self.terms_id,
            rides_target,
            started_at,
            challenge_deadline,
            Json(self.reward) as Json<&Reward>,
            self.pre_offer.pre_offer_id,
            self.pre_offer.country_code,
            StatusName::InProgress as StatusName,
            self.product_terms_id,
            further_goals.as_ref().map(Json) as Option<Json<&FurtherGoals>>,
            (self.counts_days && conditions.counts_days()).then_some(0),
            Uuid::now_v7(),
            EventType::Started as EventType,
            traceparent
        )
        .fetch_one(&mut *connection)
        .await?;
        let mut reminders = ReminderWindows::default();
        let window = (started_at, challenge_deadline);
        reminders.push(self.key, &conditions, DeadlineOf::Challenge, window);
        reminders.write(connection).await?;
        Ok(StoredParticipation {
            state: Arc::new(State {
                user_id,
                promotion_id,
                promotion_key: self.promotion_key,
                status: Status::InProgress,
                version,
                rides_completed: 0,
                rides_target,
                further_goals,
                started_at,
                challenge_deadline,
                reward: self.reward.clone(),
            }),
            conditions: Arc::new(self.conditions),
            now: started_at,
        })
    }
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
