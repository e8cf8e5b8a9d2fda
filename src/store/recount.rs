//! Recounts every participation from its receipts, and compares what must agree.

mod disagreements;

use std::time::{Duration, Instant as Monotonic};

use serde_json::Value;
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection};

use self::disagreements::disagreements;
use super::{BEGIN_SNAPSHOT, Result, Store};
use crate::domain::ParticipationKey;
use crate::domain::goals::FurtherGoals;
use crate::domain::participation::{DeadlineOf, ExpiredReason, StatusName};
use crate::domain::promotion::Verdict;
use crate::domain::reward::Reward;
use crate::domain::split::SplitStatus;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::promotion_status::EventType;

/// The longest life of the snapshot of a page.
pub const PAGE_TIMEOUT: Duration = Duration::from_secs(5);

/// How many participations [`Store::recount`] counts per page, all in one snapshot.
const PAGE: i64 = 1_000;

/// Which participations are recounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RecountScope {
    /// Only participations of this client.
    pub user_id: Option<UserId>,
    /// Only participations that were started at or after this instant.
    pub since: Option<Instant>,
}

/// A participation's version, in the snapshot of its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionHere {
    /// The participation.
    pub key: ParticipationKey,
    /// Its version.
    pub version: i32,
    /// The highest version of it that waits to be published.
    pub waiting: Option<i32>,
}

/// A page of recounted participations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecountPage {
    /// The result, without the participations that were skipped.
    pub counted: Recount,
    /// Participations whose receipts were dropped, by retention or by an erasure that kept the loan.
    pub skipped: u64,
    /// The versions of all of them.
    pub versions: Vec<VersionHere>,
    /// The last key of the page; `None` if none is left.
    pub last: Option<ParticipationKey>,
}

/// The result of a recount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recount {
    /// The number of participations.
    pub participations: u64,
    /// Those of them that are `REWARDED`.
    pub rewarded: u64,
    /// Those that expired with `CHALLENGE_NOT_COMPLETED`.
    pub not_completed: u64,
    /// Those that expired with `REWARD_NOT_CLAIMED`.
    pub not_claimed: u64,
    /// Those that the client quit or an operator cancelled.
    pub ended_early: u64,
    /// Their receipts.
    pub receipts: u64,
    /// Those of them that counted.
    pub counted: u64,
    /// What does not agree, a sentence each.
    pub disagreements: Vec<Disagreement>,
    /// Status changes that are committed but not published yet; the topic may be behind by these.
    pub unpublished: i64,
    /// The version of every participation.
    pub versions: Vec<(UserId, PromotionId, i32, StatusName)>,
}

/// A disagreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The client.
    pub user_id: UserId,
    /// The promotion.
    pub promotion_id: PromotionId,
    /// The stored and the expected value.
    pub what: String,
}

/// A participation, with what its other rows make.
struct Row {
    user_id: i64,
    promotion_id: i64,
    status: StatusName,
    version: i32,
    rides_completed: i32,
    rides_target: i32,
    started_at: Instant,
    challenge_deadline: Instant,
    completed_at: Option<Instant>,
    reward_deadline: Option<Instant>,
    expired_at: Option<Instant>,
    expired_reason: Option<ExpiredReason>,
    reward: Json<Reward>,
    conditions: Value,
    further_goals: Option<Json<FurtherGoals>>,
    rides_counted: Option<i32>,
    /// Whether the partition of its receipts was dropped.
    dropped: bool,
    /// By how many milliseconds its extensions have moved its deadlines.
    challenge_extended_ms: i64,
    reward_extended_ms: i64,
    extensions: i64,
    /// Those of them whose version has no event `promotion.extended`.
    extended_without_event: i64,
    /// Versions of events and receipts that it cannot have made.
    impossible_versions: i64,
    waiting: Option<i32>,
    receipts: i64,
    counted: i64,
    /// Receipts that are `REVERSED`.
    reversed: i64,
    /// The local days of counted rides, if receipts have them, and the sum of their fares.
    days: i64,
    amount: String,
    wrongly_counted: i64,
    wrongly_refused: i64,
    recorded_after_end: i64,
    /// Complete chains of what accepting creates, with the terms of the frozen reward.
    originations: i64,
    active_pre_offers: i64,
    used_splits: i64,
    live_splits: i64,
}

impl Store {
    /// Recounts every participation, in one snapshot. The caller knows that every version came from a start, a
    /// counted ride or an end.
    pub async fn recount(&self) -> Result<Recount> {
        let mut connection = self.acquire().await?;
        let mut tx = connection.begin_with(BEGIN_SNAPSHOT).await?;
        let mut recount = Recount {
            unpublished: sqlx::query_scalar!(
                r#"select coalesce(sum(events), 0) as "count!" from event_outbox"#
            )
            .fetch_one(&mut *tx)
            .await?,
            ..Recount::default()
        };
        let mut after = None;
        loop {
            let (keys, last) = keys(&mut tx, RecountScope::default(), after, PAGE).await?;
            for row in rows(&mut tx, &keys).await? {
                recount.add(&row, Versions::OfChangesOnly);
            }
            if last.is_none() {
                break;
            }
            after = last;
        }
        tx.rollback().await?;
        Ok(recount)
    }

    /// Recounts the next participations of a scope, those after `after`, at most `limit`. It uses one snapshot,
    /// which ends after [`PAGE_TIMEOUT`] in any case. After an error that
    /// [may be too much](super::StoreError::may_be_too_much), call it with a smaller page.
    pub async fn recount_page(
        &self,
        scope: RecountScope,
        after: Option<ParticipationKey>,
        limit: i64,
    ) -> Result<RecountPage> {
        let mut connection = self.acquire().await?;
        let began = Monotonic::now();
        let mut tx = connection.begin_with(BEGIN_SNAPSHOT).await?;
        bound_statement(&mut tx, began).await?;
        let (keys, last) = keys(&mut tx, scope, after, limit).await?;
        bound_statement(&mut tx, began).await?;
        let rows = rows(&mut tx, &keys).await?;
        tx.rollback().await?;
        let mut page = RecountPage {
            last,
            ..RecountPage::default()
        };
        for row in rows {
            page.versions.push(VersionHere {
                key: (row.user_id, row.promotion_id),
                version: row.version,
                waiting: row.waiting,
            });
            if row.is_without_receipts() {
                page.skipped += 1;
            } else {
                page.counted.add(&row, Versions::Any);
            }
        }
        Ok(page)
    }
}

/// Bounds the next statement by the time that the snapshot has left.
async fn bound_statement(connection: &mut PgConnection, began: Monotonic) -> Result<()> {
    set_statement_timeout(connection, PAGE_TIMEOUT.saturating_sub(began.elapsed())).await
}

/// Until the end of the transaction.
pub(super) async fn set_statement_timeout(
    connection: &mut PgConnection,
    timeout: Duration,
) -> Result<()> {
    // 0 would mean no timeout.
    let millis = timeout.as_millis().max(1).to_string();
    sqlx::query!("select set_config('statement_timeout', $1, true)", millis)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// The keys of a scope among the next participations, of which it reads at most `limit`, and the last key it read
/// if others follow.
async fn keys(
    connection: &mut PgConnection,
    scope: RecountScope,
    after: Option<ParticipationKey>,
    limit: i64,
) -> Result<(Vec<ParticipationKey>, Option<ParticipationKey>)> {
    let (after_user, after_promotion) = after.unwrap_or((0, 0));
    let looked_at = sqlx::query!(
        "select user_id, promotion_id, started_at from promotion_user
          where (user_id, promotion_id) > ($1, $2) and ($3::bigint is null or user_id = $3)
          order by user_id, promotion_id
          limit $4",
        after_user,
        after_promotion,
        scope.user_id,
        limit
    )
    .fetch_all(connection)
    .await?;
    let is_full = i64::try_from(looked_at.len()).is_ok_and(|count| count == limit);
    let last = looked_at.last().filter(|_| is_full);
    let last = last.map(|row| (row.user_id, row.promotion_id));
    let keys = looked_at
        .into_iter()
        .filter(|row| scope.since.is_none_or(|since| row.started_at >= since))
        .map(|row| (row.user_id, row.promotion_id));
    Ok((keys.collect(), last))
}

/// These participations, with what their other rows make.
async fn rows(connection: &mut PgConnection, keys: &[ParticipationKey]) -> Result<Vec<Row>> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.iter().copied().unzip();
    // Only rules whose values the receipt has are applied again: window, currency and amount. A verdict other than
    // COUNTED is checked only if it names one of these rules. An extension judges late rides again until one of
    // them completes the challenge, except those of releases that did not record where they were.
    Ok(sqlx::query_as!(
        Row,
        r#"with waiting as materialized (
                  select user_id, promotion_id, max(version) as version from waiting_event
                   where id > (select min(published_upto) from relay_shard) and not is_reminder and user_id = any($9)
                   group by user_id, promotion_id)
           select p.user_id, p.promotion_id, p.status as "status: StatusName", p.version, p.rides_completed, p.rides_target, p.started_at,
                  p.challenge_deadline, p.completed_at, p.reward_deadline, p.expired_at,
                  p.expired_reason as "expired_reason: ExpiredReason",
                  p.reward as "reward: Json<Reward>", t.conditions,
                  p.further_goals as "further_goals: Json<FurtherGoals>", p.rides_counted,
                  to_regclass('ride_receipt_' || to_char(p.receipts_month, 'YYYY_MM')) is null as "dropped!",
                  x.challenge_extended_ms as "challenge_extended_ms!", x.reward_extended_ms as "reward_extended_ms!",
                  x.extensions as "extensions!", x.without_event as "extended_without_event!",
                  r.impossible_versions + (select count(*) from participation_history h
                    where h.user_id = p.user_id and h.promotion_id = p.promotion_id and h.version > p.version) as "impossible_versions!",
                  w.version as "waiting?",
                  r.receipts as "receipts!", r.counted as "counted!", r.reversed as "reversed!", r.days as "days!",
                  r.amount as "amount!", r.wrongly_counted as "wrongly_counted!",
                  r.wrongly_refused as "wrongly_refused!", r.recorded_after_end as "recorded_after_end!",
                  (select count(*) from active_pre_offer a
                     join application l using (active_pre_offer_id)
                     join session s using (application_id)
                     join cash_loan_account c using (split_id)
                    where a.user_id = p.user_id and a.promotion_id = p.promotion_id and c.promotion_id = p.promotion_id
                      and c.user_id = p.user_id and l.user_id = p.user_id and s.user_id = p.user_id and c.status = $1
                      and (a.product_id, a.amount_cents, a.currency_code, a.repayment_rate)
                        = ((p.reward->>'product_id')::bigint, (p.reward->>'amount_cents')::bigint,
                           p.reward->>'currency_code', p.reward->>'repayment_rate')) as "originations!",
                  (select count(*) from active_pre_offer a
                    where a.user_id = p.user_id and a.promotion_id = p.promotion_id) as "active_pre_offers!",
                  (select count(*) from cash_loan_account c
                    where c.user_id = p.user_id and c.promotion_id = p.promotion_id and c.status = $1) as "used_splits!",
                  (select count(*) from cash_loan_account c
                    where c.user_id = p.user_id and c.promotion_id = p.promotion_id and c.status = $2) as "live_splits!"
             from promotion_user p
             join promotion_terms t using (terms_id)
             left join waiting w on w.user_id = p.user_id and w.promotion_id = p.promotion_id
            cross join lateral (
                  select count(*) as extensions,
                         (1000 * extract(epoch from coalesce(sum(a.to_deadline - a.from_deadline)
                             filter (where e.deadline_of = $12), interval '0')))::bigint as challenge_extended_ms,
                         (1000 * extract(epoch from coalesce(sum(a.to_deadline - a.from_deadline)
                             filter (where e.deadline_of = $13), interval '0')))::bigint as reward_extended_ms,
                         p.challenge_deadline - coalesce(sum(a.to_deadline - a.from_deadline)
                             filter (where e.deadline_of = $12 and p.completed_at is not null), interval '0') as judged_before,
                         count(*) filter (where not exists (
                             select from participation_history h
                              where h.user_id = a.user_id and h.promotion_id = a.promotion_id and h.version = a.version
                                and h.type = $8)) as without_event
                    from participation_extension a join extension e using (extension_id)
                   where a.user_id = p.user_id and a.promotion_id = p.promotion_id
                  ) x
            cross join lateral (
                  select count(*) as receipts,
                         count(*) filter (where r.verdict = $3) as counted,
                         count(*) filter (where r.verdict = $11) as reversed,
                         count(distinct r.ride_day) filter (where r.verdict = $3) as days,
                         coalesce(sum(r.amount_cents) filter (where r.verdict = $3), 0)::text as amount,
                         count(*) filter (where r.verdict = $3 and not (
                                r.completed_at >= p.started_at and r.completed_at < p.challenge_deadline
                            and r.currency_code = t.conditions->>'currency_code'
                            and r.amount_cents >= (t.conditions->>'min_amount_cents')::bigint)) as wrongly_counted,
                         count(*) filter (where case r.verdict
                             when $4 then r.completed_at >= p.started_at
                             when $5 then r.completed_at < x.judged_before
                                      and (r.late_ride is not null or not t.conditions ?| array['country_codes', 'city_ids', 'service_types'])
                             when $6 then r.currency_code = t.conditions->>'currency_code'
                             when $7 then r.amount_cents >= (t.conditions->>'min_amount_cents')::bigint
                             else false end) as wrongly_refused,
                         count(*) filter (where r.recorded_at > coalesce(p.completed_at, p.expired_at)) as recorded_after_end,
                         count(*) filter (where r.version not between 2 and p.version) as impossible_versions
                    from ride_receipt r
                   where r.user_id = p.user_id and r.promotion_id = p.promotion_id and r.receipts_month = p.receipts_month
                  ) r
            where (p.user_id, p.promotion_id) in (select * from unnest($9::bigint[], $10::bigint[]))
            order by p.user_id, p.promotion_id"#,
        SplitStatus::Used as SplitStatus,
        SplitStatus::Active as SplitStatus,
        Verdict::Counted as Verdict,
        Verdict::BeforeStart as Verdict,
        Verdict::AfterDeadline as Verdict,
        Verdict::WrongCurrency as Verdict,
        Verdict::BelowMinAmount as Verdict,
        EventType::Extended as EventType,
        &users,
        &promotions,
        Verdict::Reversed as Verdict,
        DeadlineOf::Challenge as DeadlineOf,
        DeadlineOf::Reward as DeadlineOf
    )
    .fetch_all(connection)
    .await?)
}

impl Recount {
    fn add(&mut self, row: &Row, versions: Versions) {
        self.participations += 1;
        match (row.status, row.expired_reason) {
            (StatusName::Rewarded, _) => self.rewarded += 1,
            (_, Some(ExpiredReason::ChallengeNotCompleted)) => self.not_completed += 1,
            (_, Some(ExpiredReason::RewardNotClaimed)) => self.not_claimed += 1,
            (_, Some(ExpiredReason::Quit | ExpiredReason::Cancelled)) => self.ended_early += 1,
            (_, None) => {}
        }
        self.receipts += row.receipts.unsigned_abs();
        self.counted += row.counted.unsigned_abs();
        let found = disagreements(row, versions).into_iter();
        self.disagreements.extend(found.map(|what| Disagreement {
            user_id: row.user_id,
            promotion_id: row.promotion_id,
            what,
        }));
        // A recount of everything in one snapshot belongs to a test run whose changes have ended.
        if versions == Versions::OfChangesOnly {
            self.versions
                .push((row.user_id, row.promotion_id, row.version, row.status));
        }
    }
}

impl Row {
    /// Whether its receipts were dropped: with their month, or by an erasure that kept the loan.
    fn is_without_receipts(&self) -> bool {
        self.receipts == 0
            && (self.dropped && self.rides_completed > 0 || self.status == StatusName::Rewarded)
    }
}

/// What can have made versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Versions {
    /// A start, counted rides, an end.
    OfChangesOnly,
    /// Also `republish`, `reconcile`, extensions, and reversals.
    Any,
}
