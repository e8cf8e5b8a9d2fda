//! Figures on the service's work.

use chrono::TimeDelta;

use super::{Result, Store};
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::{Instant, PromotionId};
use crate::wire::stats::{ExpiredStats, FunnelInterval, PromotionStats};

impl Store {
    /// How many participations have which status, for every promotion by its number. Reads an index once, in the
    /// order of its groups.
    pub async fn promotion_stats(&self) -> Result<Vec<PromotionStats>> {
        let rows = sqlx::query!(
            r#"select m.promotion_id, m.promotion_key, c.status as "status?: StatusName",
                      c.expired_reason as "expired_reason?: ExpiredReason", coalesce(c.clients, 0) as "clients!"
                 from promotion m
                 left join (select promotion_id, status, expired_reason, count(*) as clients
                              from promotion_user group by promotion_id, status, expired_reason) c using (promotion_id)
                order by m.promotion_id"#
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        let mut all: Vec<PromotionStats> = Vec::new();
        for row in rows {
            if all.last().map(|last| last.promotion_id) != Some(row.promotion_id) {
                all.push(none(row.promotion_id, row.promotion_key));
            }
            if let (Some(stats), Some(status)) = (all.last_mut(), row.status) {
                stats.started += row.clients;
                *group(stats, status, row.expired_reason) += row.clients;
            }
        }
        Ok(all)
    }
}

/// The numbers of the changes in the funnel's statement.
const STARTED: i32 = 0;
const COMPLETED: i32 = 1;
const REWARDED: i32 = 2;
const PRE_OFFERS: i32 = 4;
const SPLITS: i32 = 5;

impl Store {
    /// How many pre-offers and splits a promotion got, and how many of its participations started, were completed, were
    /// rewarded and expired, in each interval.
    /// The intervals follow one another from `from`, each of `length`; the last one ends at `to`. `None` if the
    /// promotion does not exist. It uses one snapshot.
    pub async fn funnel(
        &self,
        promotion_id: PromotionId,
        from: Instant,
        to: Instant,
        length: TimeDelta,
    ) -> Result<Option<Vec<FunnelInterval>>> {
        let rows = sqlx::query!(
            r#"select m.promotion_id, e.what as "what?", e.reason as "reason?: ExpiredReason",
                      e.interval as "interval?", e.participations as "participations?"
                 from promotion m
                 left join (
                      select what, reason, (extract(epoch from at - $2) * 1000)::bigint / $4 as interval,
                             count(*) as participations
                        from (select 0 as what, null::text as reason, started_at as at from promotion_user
                               where promotion_id = $1 and status = any($5) and started_at >= $2 and started_at < $3
                              union all
                              select 1, null, completed_at from promotion_user
                               where promotion_id = $1 and completed_at >= $2 and completed_at < $3
                              union all
                              select 2, null, rewarded_at from promotion_user
                               where promotion_id = $1 and rewarded_at >= $2 and rewarded_at < $3
                              union all
                              select 3, expired_reason, expired_at from promotion_user
                               where promotion_id = $1 and expired_at >= $2 and expired_at < $3
                              union all
                              select 4, null, created_at from pre_offer
                               where promotion_id = $1 and segment = 'newbie' and created_at >= $2 and created_at < $3
                              union all
                              select 5, null, created_at from cash_loan_account
                               where promotion_id = $1 and created_at >= $2 and created_at < $3) changes
                       group by what, reason, interval) e on true
                where m.promotion_id = $1"#,
            promotion_id,
            from,
            to,
            length.num_milliseconds(),
            &StatusName::ALL as &[StatusName]
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut intervals = intervals(from, to, length);
        for row in rows {
            // A promotion without changes has one row without a change.
            let (Some(what), Some(at), Some(participations)) =
                (row.what, row.interval, row.participations)
            else {
                continue;
            };
            let Some(interval) = at_mut(&mut intervals, at) else {
                continue;
            };
            match (what, row.reason) {
                (STARTED, _) => interval.started = participations,
                (COMPLETED, _) => interval.completed = participations,
                (REWARDED, _) => interval.rewarded = participations,
                (PRE_OFFERS, _) => interval.pre_offers = participations,
                (SPLITS, _) => interval.splits = participations,
                (_, Some(reason)) => {
                    interval.expired.insert(reason, participations);
                }
                // The table's check demands a reason for EXPIRED.
                (_, None) => {}
            }
        }
        Ok(Some(intervals))
    }

    /// The same, each participation counted in the interval of its start: how many of those who started
    /// in it were completed, were rewarded and expired until now. Pre-offers and splits are counted at their own
    /// time.
    pub async fn cohorts(
        &self,
        promotion_id: PromotionId,
        from: Instant,
        to: Instant,
        length: TimeDelta,
    ) -> Result<Option<Vec<FunnelInterval>>> {
        let rows = sqlx::query!(
            r#"select c.interval as "interval?", c.reason as "reason?: ExpiredReason", c.started as "started?",
                      c.completed as "completed?", c.rewarded as "rewarded?", c.pre_offers as "pre_offers?",
                      c.splits as "splits?"
                 from promotion m
                 left join (
                      select (extract(epoch from started_at - $2) * 1000)::bigint / $4 as interval,
                             expired_reason as reason, count(*) as started,
                             count(completed_at) as completed, count(rewarded_at) as rewarded,
                             0 as pre_offers, 0 as splits
                        from promotion_user
                       where promotion_id = $1 and status = any($5) and started_at >= $2 and started_at < $3
                       group by interval, reason
                      union all
                      select (extract(epoch from created_at - $2) * 1000)::bigint / $4, null, 0, 0, 0, count(*), 0
                        from pre_offer
                       where promotion_id = $1 and segment = 'newbie' and created_at >= $2 and created_at < $3
                       group by 1
                      union all
                      select (extract(epoch from created_at - $2) * 1000)::bigint / $4, null, 0, 0, 0, 0, count(*)
                        from cash_loan_account
                       where promotion_id = $1 and created_at >= $2 and created_at < $3
                       group by 1) c on true
                where m.promotion_id = $1"#,
            promotion_id,
            from,
            to,
            length.num_milliseconds(),
            &StatusName::ALL as &[StatusName]
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let mut intervals = intervals(from, to, length);
        for row in rows {
            // Without one where no participation started.
            let (Some(at), Some(started)) = (row.interval, row.started) else {
                continue;
            };
            let Some(interval) = at_mut(&mut intervals, at) else {
                continue;
            };
            interval.started += started;
            interval.completed += row.completed.unwrap_or(0);
            interval.rewarded += row.rewarded.unwrap_or(0);
            interval.pre_offers += row.pre_offers.unwrap_or(0);
            interval.splits += row.splits.unwrap_or(0);
            if let Some(reason) = row.reason {
                interval.expired.insert(reason, started);
            }
        }
        Ok(Some(intervals))
    }
}

/// Intervals one after another, each of `length`, the last one up to `to`.
fn intervals(from: Instant, to: Instant, length: TimeDelta) -> Vec<FunnelInterval> {
    boundaries(from, to, length)
        .windows(2)
        .map(|ends| FunnelInterval::new(ends[0], ends[1]))
        .collect()
}

/// `from`, every `length` after it, and `to`.
pub(super) fn boundaries(from: Instant, to: Instant, length: TimeDelta) -> Vec<Instant> {
    let mut boundaries = Vec::new();
    let mut at = from;
    while at < to {
        boundaries.push(at);
        at = (at + length).min(to);
    }
    boundaries.push(to);
    boundaries
}

/// The interval of this number, as the statements count them.
fn at_mut(intervals: &mut [FunnelInterval], number: i64) -> Option<&mut FunnelInterval> {
    intervals.get_mut(usize::try_from(number).ok()?)
}

/// The figures of a promotion without starts.
fn none(promotion_id: i64, promotion_key: String) -> PromotionStats {
    PromotionStats {
        promotion_id,
        promotion_key,
        started: 0,
        in_progress: 0,
        completed: 0,
        rewarded: 0,
        expired: ExpiredStats {
            challenge_not_completed: 0,
            reward_not_claimed: 0,
            quit: 0,
            cancelled: 0,
        },
    }
}

/// The field in which such participations are counted.
fn group(
    stats: &mut PromotionStats,
    status: StatusName,
    expired: Option<ExpiredReason>,
) -> &mut i64 {
    match (status, expired) {
        (StatusName::InProgress, _) => &mut stats.in_progress,
        (StatusName::Completed, _) => &mut stats.completed,
        (StatusName::Rewarded, _) => &mut stats.rewarded,
        // The table's check demands a reason for EXPIRED.
        (StatusName::Expired, Some(ExpiredReason::ChallengeNotCompleted) | None) => {
            &mut stats.expired.challenge_not_completed
        }
        (StatusName::Expired, Some(ExpiredReason::RewardNotClaimed)) => {
            &mut stats.expired.reward_not_claimed
        }
        (StatusName::Expired, Some(ExpiredReason::Quit)) => &mut stats.expired.quit,
        (StatusName::Expired, Some(ExpiredReason::Cancelled)) => &mut stats.expired.cancelled,
    }
}
