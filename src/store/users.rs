//! All data of one client: the facts that decide what the client sees, and the operator's view.

use std::collections::HashMap;

use sqlx::PgConnection;
use sqlx::types::Json;

use super::extensions::is_any_running;
use super::participations::load;
use super::quarantine::{QuarantineRecord, quarantined_of};
use super::state::{broken, receipt_of};
use super::{Result, Store, StoreError};
use crate::domain::budget::{Budget, BudgetUse};
use crate::domain::eligibility::{ClientFacts, Latest, PreOffer};
use crate::domain::participation::{DeadlineOf, ExpiredReason, Status, StatusFields, StatusName};
use crate::domain::promotion::Verdict;
use crate::domain::reward::Reward;
use crate::domain::ride::RideSource;
use crate::domain::schedule::Schedule;
use crate::domain::split::SplitStatus;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::promotion_status::{Cause, EventType};
use crate::wire::receipt;
use crate::wire::user::{
    ActivePreOffer, Application, Eligibility, HistoryEntry, LatestParticipation,
    PreOffer as ImportedPreOffer, SentReminder, Session, Split, User, UserParticipation,
};

/// The most quarantined records in the operator's view; the quarantine's own list has all.
const MAX_QUARANTINED: i64 = 200;

/// The most receipts of a participation in the operator's view, the newest: as many as the highest target.
const MAX_RECEIPTS: i64 = 10_000;

/// Reads what decides a client's landing, at the present time of the database's clock. To act on the decision, lock
/// the client's pre-offers first, as a start does.
pub async fn eligibility_facts(
    connection: &mut PgConnection,
    user_id: UserId,
    erased_name: Option<&str>,
) -> Result<ClientFacts> {
    // A live or rewarded one is the latest by definition; started_at decides among expired ones.
    let row = sqlx::query!(
        r#"select v.now as "now!",
                  exists (select from held_reward where user_id = $1 and loss_accepted_at is null)
                  or exists (select from erasure where client = $2 and rewarded) as "rewarded_elsewhere!",
                  p.promotion_id as "promotion_id?", p.status as "status?: StatusName", p.completed_at as "completed_at?",
                  p.reward_deadline as "reward_deadline?", p.rewarded_at as "rewarded_at?", p.expired_at as "expired_at?",
                  p.expired_reason as "expired_reason?: ExpiredReason", p.acknowledged_at is not null as "acknowledged!",
                  exists (select from pre_offer o
                           where o.pre_offer_id = p.pre_offer_id and o.user_id = p.user_id
                             and o.valid_until > v.now) as "pre_offer_valid!"
             from (select clock_ms() as now offset 0) v
             left join lateral (
                  select * from promotion_user where user_id = $1
                   order by status = $3, started_at desc
                   limit 1) p on true"#,
        user_id,
        erased_name,
        StatusName::Expired as StatusName
    )
    .fetch_one(&mut *connection)
    .await?;
    let latest = match (row.promotion_id, row.status) {
        (Some(promotion_id), Some(status)) => Some(Latest {
            promotion_id,
            status: Status::try_from(StatusFields {
                status,
                completed_at: row.completed_at,
                reward_deadline: row.reward_deadline,
                rewarded_at: row.rewarded_at,
                expired_at: row.expired_at,
                expired_reason: row.expired_reason,
            })
            .map_err(|error| broken(user_id, promotion_id, error))?,
            acknowledged: row.acknowledged,
            pre_offer_valid: row.pre_offer_valid,
        }),
        _ => None,
    };
    let mut newbie = None;
    let mut regular = None;
    for (is_newbie, pre_offer) in pre_offers_to_consider(connection, user_id, row.now).await? {
        if is_newbie {
            newbie = Some(pre_offer);
        } else {
            regular = Some(pre_offer);
        }
    }
    Ok(ClientFacts {
        now: row.now,
        latest,
        rewarded_elsewhere: row.rewarded_elsewhere,
        newbie,
        regular,
    })
}

/// At most one newbie pre-offer (`true`), valid or not, and one valid pre-offer of another segment.
async fn pre_offers_to_consider(
    connection: &mut PgConnection,
    user_id: UserId,
    now: Instant,
) -> Result<Vec<(bool, PreOffer)>> {
    let rows = sqlx::query!(
        r#"with of_client as (
               select o.*, o.segment = 'newbie' as is_newbie from pre_offer o where o.user_id = $1),
           newbie as (
               select * from of_client o
                where is_newbie
                  and not exists (select from promotion_user p where p.user_id = $1 and p.promotion_id = o.promotion_id)
                order by valid_until > $2 desc, promotion_id is null, import_seq desc
                limit 1),
           regular as (
               select * from of_client where not is_newbie and valid_until > $2 order by import_seq desc limit 1)
           select c.pre_offer_id as "pre_offer_id!", c.product_id as "product_id!", c.amount_cents as "amount_cents!",
                  c.currency_code as "currency_code!", c.repayment_rate as "repayment_rate!",
                  c.country_code as "country_code!", c.valid_until as "valid_until!", c.promotion_key, c.promotion_id,
                  m.active as "promotion_active?", m.opens_at as "opens_at?", m.closes_at as "closes_at?",
                  m.budget as "budget?: Json<Budget>", u.participations_reserved as "participations_reserved?",
                  u.participations_spent as "participations_spent?", u.reward_cents_reserved as "reward_cents_reserved?",
                  u.reward_cents_spent as "reward_cents_spent?",
                  g.promotions_enabled as "promotions_enabled?", c.is_newbie as "is_newbie!"
             from (select * from newbie union all select * from regular) c
             left join promotion m on m.promotion_id = c.promotion_id
             left join budget_use u on u.promotion_id = m.promotion_id and m.budget is not null
             left join geo_config g on g.country_code = c.country_code"#,
        user_id,
        now
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let corrupt =
                |error| StoreError::Corrupt(format!("pre-offer {}: {error}", row.pre_offer_id));
            let pre_offer = PreOffer {
                pre_offer_id: row.pre_offer_id,
                reward: Reward {
                    product_id: row.product_id,
                    amount_cents: row.amount_cents,
                    currency_code: row.currency_code.parse().map_err(corrupt)?,
                    repayment_rate: row.repayment_rate,
                },
                country_code: row.country_code.parse().map_err(corrupt)?,
                valid_until: row.valid_until,
                promotion_key: row.promotion_key,
                promotion_id: row.promotion_id,
                promotion_active: row.promotion_active,
                schedule: Schedule {
                    opens_at: row.opens_at,
                    closes_at: row.closes_at,
                },
                budget: row.budget.map(|Json(budget)| {
                    let used = BudgetUse {
                        participations_reserved: row.participations_reserved.unwrap_or(0),
                        participations_spent: row.participations_spent.unwrap_or(0),
                        reward_cents_reserved: row.reward_cents_reserved.unwrap_or(0),
                        reward_cents_spent: row.reward_cents_spent.unwrap_or(0),
                    };
                    (budget, used)
                }),
                promotions_enabled: row.promotions_enabled,
            };
            Ok((row.is_newbie, pre_offer))
        })
        .collect()
}

impl Store {
    /// All data of a client under one snapshot; the lists of an unknown client are empty.
    pub async fn user(&self, user_id: UserId) -> Result<User> {
        let found = self.user_as_stored(user_id).await?;
        let is_overdue = found
            .participations
            .iter()
            .any(|one| one.participation.state.is_overdue(found.server_time));
        // Operators see what the client sees.
        if !is_overdue {
            return Ok(found);
        }
        if is_any_running(&mut *self.acquire().await?).await? {
            self.apply_extensions(user_id).await?;
        }
        // It may have been applied elsewhere since the first read.
        self.user_as_stored(user_id).await
    }

    async fn user_as_stored(&self, user_id: UserId) -> Result<User> {
        let erased_name = self.erased_name(user_id)?;
        self.run_snapshot("user", move |connection| {
            let erased_name = erased_name.clone();
            Box::pin(async move { user(connection, user_id, erased_name.as_deref()).await })
        })
        .await
    }
}

async fn user(
    connection: &mut PgConnection,
    user_id: UserId,
    erased_name: Option<&str>,
) -> Result<User> {
    let facts = eligibility_facts(connection, user_id, erased_name).await?;
    let pre_offers = sqlx::query_as!(
        ImportedPreOffer,
        "select pre_offer_id, external_id, segment, promotion_key, promotion_id, product_id, amount_cents, currency_code,
                repayment_rate, country_code, valid_until, created_at, updated_at
           from pre_offer where user_id = $1 order by import_seq desc",
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    // A split past its validity is not active, whether its expiry is recorded or not.
    let splits = sqlx::query_as!(
        Split,
        r#"select split_id, pre_offer_id, promotion_id,
                  case when status = $3 and valid_until <= $2 then $4 else status end as "status!: SplitStatus",
                  country_code, valid_until, product_id, amount_cents, currency_code, repayment_rate, created_at
             from cash_loan_account where user_id = $1 order by created_at desc, split_id desc"#,
        user_id,
        facts.now,
        SplitStatus::Active as SplitStatus,
        SplitStatus::Expired as SplitStatus
    )
    .fetch_all(&mut *connection)
    .await?;
    let participations = participations(connection, user_id, facts.now).await?;
    let active_pre_offers = sqlx::query_as!(
        ActivePreOffer,
        "select active_pre_offer_id, pre_offer_id, promotion_id, product_id, product_name, term_days, terms_url,
                amount_cents, currency_code, repayment_rate, created_at
           from active_pre_offer where user_id = $1",
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    let applications = sqlx::query_as!(
        Application,
        "select application_id, active_pre_offer_id, status, created_at from application where user_id = $1",
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    let sessions = sqlx::query_as!(
        Session,
        "select session_id, application_id, split_id, sequence_id, parameters, created_at from session where user_id = $1",
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    let quarantine = quarantined_of(connection, user_id, MAX_QUARANTINED).await?;
    let erased_at = sqlx::query_scalar!(
        "select erased_at from erasure where client = $1",
        erased_name
    )
    .fetch_optional(&mut *connection)
    .await?;
    // All other data of a client begins with one of these.
    let has_data = !(pre_offers.is_empty()
        && splits.is_empty()
        && participations.is_empty()
        && active_pre_offers.is_empty()
        && quarantine.is_empty());
    Ok(User {
        user_id,
        known: has_data || erased_at.is_some() || facts.rewarded_elsewhere,
        erased_at,
        pre_offers,
        splits,
        participations,
        active_pre_offers,
        applications,
        sessions,
        quarantine: quarantine.iter().map(QuarantineRecord::view).collect(),
        eligibility: Eligibility {
            screen: facts.screen(),
            checks: facts.checks(),
            latest: facts.latest.map(|latest| LatestParticipation {
                promotion_id: latest.promotion_id,
                acknowledged: latest.acknowledged,
                pre_offer_valid: latest.pre_offer_valid,
            }),
            regular_pre_offer_id: facts.regular.map(|regular| regular.pre_offer_id),
        },
        server_time: facts.now,
    })
}

async fn participations(
    connection: &mut PgConnection,
    user_id: UserId,
    now: Instant,
) -> Result<Vec<UserParticipation>> {
    let mut receipts: HashMap<PromotionId, Vec<receipt::Receipt>> = HashMap::new();
    // The month comes from the participation, so that each reads one partition and not all.
    let rows = sqlx::query!(
        r#"select p.promotion_id, r.ride_id, r.completed_at, r.amount_cents, r.currency_code,
                r.verdict as "verdict: Verdict", r.details, r.recorded_at, r.distance_m, r.reversed_at,
                r.source as "source: RideSource", r.version
           from promotion_user p
          cross join lateral (
                select * from ride_receipt r
                 where r.user_id = p.user_id and r.promotion_id = p.promotion_id and r.receipts_month = p.receipts_month
                 order by coalesce(r.completed_at, r.recorded_at) desc, r.ride_id desc
                 limit $2) r
          where p.user_id = $1
          order by coalesce(r.completed_at, r.recorded_at) desc, r.ride_id desc"#,
        user_id,
        MAX_RECEIPTS
    )
    .fetch_all(&mut *connection)
    .await?;
    for row in rows {
        let receipt = receipt_of!(row);
        receipts
            .entry(row.promotion_id)
            .or_default()
            .push(receipt.view());
    }
    let rows = sqlx::query!(
        "select promotion_id, pre_offer_id, country_code, acknowledged_at from promotion_user
          where user_id = $1 order by started_at desc, promotion_id desc",
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut histories = histories(connection, user_id).await?;
    let mut reminders = reminders_sent(connection, user_id).await?;
    let mut participations = Vec::with_capacity(rows.len());
    for row in rows {
        // A client has few, and all are in the same snapshot.
        let Some(mut stored) = load(connection, user_id, row.promotion_id).await? else {
            continue;
        };
        stored.now = now;
        participations.push(UserParticipation {
            participation: stored.view(),
            pre_offer_id: row.pre_offer_id,
            country_code: row.country_code,
            acknowledged_at: row.acknowledged_at,
            receipts: receipts.remove(&row.promotion_id).unwrap_or_default(),
            history: histories.remove(&row.promotion_id).unwrap_or_default(),
            reminders: reminders.remove(&row.promotion_id).unwrap_or_default(),
        });
    }
    Ok(participations)
}

/// The versions of the client's participations that do more than count rides, oldest first.
async fn histories(
    connection: &mut PgConnection,
    user_id: UserId,
) -> Result<HashMap<PromotionId, Vec<HistoryEntry>>> {
    let rows = sqlx::query!(
        r#"select promotion_id, version, type as "event_type: EventType", occurred_at, cause as "cause: Cause"
             from participation_history where user_id = $1 order by promotion_id, version"#,
        user_id
    )
    .fetch_all(connection)
    .await?;
    let mut histories: HashMap<PromotionId, Vec<HistoryEntry>> = HashMap::new();
    for row in rows {
        histories
            .entry(row.promotion_id)
            .or_default()
            .push(HistoryEntry {
                version: row.version,
                event_type: row.event_type,
                occurred_at: row.occurred_at,
                cause: row.cause,
            });
    }
    Ok(histories)
}

/// The reminders of the client's participations that were sent, oldest first. There are at most ten for each.
async fn reminders_sent(
    connection: &mut PgConnection,
    user_id: UserId,
) -> Result<HashMap<PromotionId, Vec<SentReminder>>> {
    let rows = sqlx::query!(
        r#"select promotion_id, deadline_of as "of: DeadlineOf", lead, deadline, sent_at
             from participation_reminded where user_id = $1 order by promotion_id, sent_at"#,
        user_id
    )
    .fetch_all(connection)
    .await?;
    let mut reminders: HashMap<PromotionId, Vec<SentReminder>> = HashMap::new();
    for row in rows {
        reminders
            .entry(row.promotion_id)
            .or_default()
            .push(SentReminder {
                of: row.of,
                lead: row.lead,
                deadline: row.deadline,
                sent_at: row.sent_at,
            });
    }
    Ok(reminders)
}
