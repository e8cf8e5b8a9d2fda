//! The facts that decide whether clients may start promotions, read by one statement under their own
//! locks, and the decision.

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;

use crate::domain::budget::{Budget, BudgetUse};
use crate::domain::eligibility::{EligibilityRule, Facts, PreOfferFound, failed_rules};
use crate::domain::participation::StatusName;
use crate::domain::reward::Reward;
use crate::domain::schedule::Schedule;
use crate::domain::{Instant, ParticipationKey, PromotionId, UserId};
use crate::store::splits::PreOffer;
use crate::store::{Result, StoreError};

/// A client who wants to start a promotion.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    pub(super) key: ParticipationKey,
    /// The client's name in the ledger of erasures, if the store can tell it.
    pub(super) erased_name: Option<String>,
    /// Carried on to the event.
    pub(super) traceparent: Option<String>,
}

/// What is known of the promotion to be started.
pub(super) struct Promotion {
    pub(super) promotion_key: String,
    pub(super) conditions: Value,
    active: bool,
    schedule: Schedule,
    pub(super) budget: Option<Budget>,
    pub(super) has_budget_use: bool,
    /// The use of its budget, read without a lock.
    pub(super) used: BudgetUse,
    /// The row of its conditions, where a participation has frozen them before.
    pub(super) terms_id: Option<i64>,
}

/// What decides whether the client may start the promotion.
pub(super) struct Found {
    pub(super) key: ParticipationKey,
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
    pub(super) has_participated: bool,
    /// The client was rewarded, here or by what only a note is left of.
    rewarded: bool,
    /// A participation is live, and not past its reward's deadline.
    live: bool,
    /// One is past its reward's deadline, and not expired.
    pub(super) overdue: bool,
    now: Instant,
}

/// Lets the planner look up by keys for the rest of the transaction. A plan that was made while a table was small
/// would otherwise read all of it for each client, until the table's statistics are renewed.
pub(super) async fn plan_by_keys(connection: &mut PgConnection) -> Result<()> {
    sqlx::query!("select set_config('enable_seqscan', 'off', true) as setting")
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Reads all of it under one snapshot, after the clients' own locks. No client is in `candidates` twice.
///
/// What others may change meanwhile is guarded by locks of whole tables, which starts share without
/// waiting for each other: a transaction that switches a promotion or a country, or orders an extension,
/// takes the exclusive lock of that table. So it waits for the starts that have read what was before, and
/// those that come after it read what is then. A row lock would do the same, but all starts of a
/// promotion would write to the same row. Postgres takes these locks before the statement's snapshot.
///
/// `limit 1` and `offset 0` keep the laterals apart, so that each is a look-up for each client.
pub(super) async fn find(
    connection: &mut PgConnection,
    candidates: &[&Candidate],
) -> Result<Vec<Found>> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) =
        candidates.iter().map(|candidate| candidate.key).unzip();
    let erased_names: Vec<Option<&str>> = candidates
        .iter()
        .map(|candidate| candidate.erased_name.as_deref())
        .collect();
    let rows = sqlx::query!(
        r#"select v.user_id as "user_id!", v.promotion_id as "promotion_id!",
                  m.promotion_key as "promotion_key?", m.conditions as "conditions?", m.active as "active?", m.opens_at as "opens_at?",
                  m.closes_at as "closes_at?", m.budget as "budget?: Json<Budget>", m.has_budget_use as "has_budget_use?",
                  coalesce(u.participations_reserved, 0) as "participations_reserved!",
                  coalesce(u.participations_spent, 0) as "participations_spent!",
                  coalesce(u.reward_cents_reserved, 0) as "reward_cents_reserved!",
                  coalesce(u.reward_cents_spent, 0) as "reward_cents_spent!",
                  t.terms_id as "terms_id?", o.pre_offer_id as "pre_offer_id?", o.product_id as "product_id?",
                  o.amount_cents as "amount_cents?", o.currency_code as "currency_code?", o.repayment_rate as "repayment_rate?",
                  o.country_code as "country_code?", o.valid_until as "valid_until?",
                  coalesce(g.promotions_enabled, false) as "promotions_enabled!", f.product_terms_id as "product_terms_id?",
                  s.is_current as "split_is_current?", c.has_participated as "has_participated!", c.live as "live!",
                  c.overdue as "overdue!",
                  c.rewarded or exists (select from held_reward where user_id = v.user_id and loss_accepted_at is null)
                             or exists (select from erasure where client = v.erased_name and rewarded) as "rewarded!",
                  exists (select from promotion where false for key share)
                  or exists (select from geo_config where false for key share)
                  or exists (select from extension_gate for key share) as "guards!",
                  clock_ms() as "now!"
             from unnest($1::bigint[], $2::bigint[], $3::text[]) v (user_id, promotion_id, erased_name)
            cross join lateral (
                  select coalesce(bool_or(promotion_id = v.promotion_id), false) as has_participated,
                         coalesce(bool_or(status = $4), false) as rewarded,
                         coalesce(bool_or(status = $5 or (status = $6 and reward_deadline > clock_timestamp())), false) as live,
                         coalesce(bool_or(status = $6 and reward_deadline <= clock_timestamp()), false) as overdue
                    from promotion_user where user_id = v.user_id) c
             left join promotion m on m.promotion_id = v.promotion_id
             left join budget_use u on u.promotion_id = m.promotion_id
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
                   where a.user_id = v.user_id and a.promotion_id = v.promotion_id and a.status = 'ACTIVE'
                   limit 1) s on true"#,
        &users,
        &promotions,
        &erased_names as &[Option<&str>],
        StatusName::Rewarded as StatusName,
        StatusName::InProgress as StatusName,
        StatusName::Completed as StatusName
    )
    .fetch_all(connection)
    .await?;
    let found = rows.into_iter().map(|row| {
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
                used: BudgetUse {
                    participations_reserved: row.participations_reserved,
                    participations_spent: row.participations_spent,
                    reward_cents_reserved: row.reward_cents_reserved,
                    reward_cents_spent: row.reward_cents_spent,
                },
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
        Found {
            key: (row.user_id, row.promotion_id),
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
        }
    });
    Ok(found.collect())
}

/// As [`find`], of one client.
pub(super) async fn find_one(
    connection: &mut PgConnection,
    candidate: &Candidate,
) -> Result<Found> {
    let mut found = find(connection, &[candidate]).await?;
    found
        .pop()
        .ok_or_else(|| StoreError::Corrupt(format!("no facts of client {}", candidate.key.0)))
}

/// The decision about a client who has not taken part in the promotion.
pub(super) enum Decision {
    /// There is no such promotion.
    NoSuchPromotion,
    /// The rules that failed, in order; never empty.
    NotEligible(Vec<EligibilityRule>),
    /// Every rule holds.
    Eligible(Box<Eligible>),
}

/// A client whom every rule lets start the promotion.
pub(super) struct Eligible {
    pub(super) key: ParticipationKey,
    pub(super) promotion: Promotion,
    pub(super) pre_offer: PreOffer,
    pub(super) reward: Reward,
    /// As of [`Found`].
    pub(super) product_terms_id: Option<i64>,
    /// As of [`Found`].
    pub(super) split_is_current: Option<bool>,
    pub(super) now: Instant,
}

impl Found {
    /// Applies the rules. The use of a budget may grow until the start reserves its part.
    pub(super) fn decide(self) -> Result<Decision> {
        let Some(promotion) = self.promotion else {
            return Ok(Decision::NoSuchPromotion);
        };
        // It may have run out while the locks were waited for; the later clock decides.
        let pre_offer_found = match &self.pre_offer {
            None => PreOfferFound::No,
            Some(pre_offer) if self.now < pre_offer.valid_until => PreOfferFound::Valid,
            Some(_) => PreOfferFound::Expired,
        };
        let pre_offer = self
            .pre_offer
            .filter(|_| pre_offer_found == PreOfferFound::Valid);
        let reward = pre_offer.as_ref().map(PreOffer::reward).transpose()?;
        let budget_has_room = reward.as_ref().map(|reward| {
            let budget = promotion.budget.as_ref();
            budget.is_none_or(|budget| budget.has_room(&promotion.used, reward))
        });
        let failed = failed_rules(&Facts {
            rewarded: self.rewarded,
            live: self.live,
            pre_offer: pre_offer_found,
            promotion_mapped: Some(true),
            promotion_active: Some(promotion.active),
            promotion_open: Some(promotion.schedule.is_open(self.now)),
            promotions_enabled: pre_offer.is_some().then_some(self.promotions_enabled),
            budget_has_room,
        });
        let (Some(pre_offer), Some(reward), true) = (pre_offer, reward, failed.is_empty()) else {
            return Ok(Decision::NotEligible(failed));
        };
        Ok(Decision::Eligible(Box::new(Eligible {
            key: self.key,
            promotion,
            pre_offer,
            reward,
            product_terms_id: self.product_terms_id,
            split_is_current: self.split_is_current,
            now: self.now,
        })))
    }
}
