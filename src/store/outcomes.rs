//! What became of a promotion's newest participations, read in bounded work: the figures are of a
//! sample, and say so.

use std::collections::BTreeMap;

use sqlx::types::chrono::NaiveDate;

use super::{Result, Store};
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::promotion::Verdict;
use crate::domain::{Instant, PromotionId};
use crate::wire::outcomes::{DaysToCompletion, NearMisses, Outcome, Outcomes};

/// How many participations the figures are of at most. Each has at most 10,000 receipts, and usually
/// some tens.
const MAX_PARTICIPATIONS: usize = 1_000;

impl Store {
    /// Figures of the newest participations that started in `[from, to)`; `None` where there is no such
    /// promotion. One snapshot.
    pub async fn outcomes(
        &self,
        promotion_id: PromotionId,
        from: Instant,
        to: Instant,
    ) -> Result<Option<Outcomes>> {
        self.run_snapshot("outcomes", move |connection| {
            Box::pin(async move {
                let exists = sqlx::query_scalar!(
                    r#"select exists (select from promotion where promotion_id = $1) as "exists!""#,
                    promotion_id
                )
                .fetch_one(&mut *connection)
                .await?;
                if !exists {
                    return Ok(None);
                }
                let limit = i64::try_from(MAX_PARTICIPATIONS).unwrap_or(i64::MAX) + 1;
                // The keys come from the index of the list, status by status.
                let mut rows = sqlx::query!(
                    r#"select p.user_id, p.receipts_month, p.started_at, p.completed_at, p.rides_completed, p.rides_target,
                              p.expired_reason as "expired_reason: ExpiredReason"
                         from (select k.user_id, k.started_at
                                 from unnest($2::text[]) s (status)
                                cross join lateral (
                                      select p.user_id, p.started_at from promotion_user p
                                       where p.promotion_id = $1 and p.status = s.status
                                         and p.started_at >= $3 and p.started_at < $4
                                       order by p.started_at desc, p.user_id desc
                                       limit $5) k
                                order by k.started_at desc, k.user_id desc
                                limit $5) newest
                         join promotion_user p on p.user_id = newest.user_id and p.promotion_id = $1
                        order by p.started_at desc, p.user_id desc"#,
                    promotion_id,
                    &StatusName::ALL as &[StatusName],
                    from,
                    to,
                    limit
                )
                .fetch_all(&mut *connection)
                .await?;
                let more = rows.len() > MAX_PARTICIPATIONS;
                rows.truncate(MAX_PARTICIPATIONS);
                let outcomes: Vec<Outcome> = rows
                    .iter()
                    .map(|row| Outcome {
                        rides_short: (row.expired_reason
                            == Some(ExpiredReason::ChallengeNotCompleted))
                        .then(|| row.rides_target - row.rides_completed),
                        seconds_to_completion: row
                            .completed_at
                            .map(|completed_at| (completed_at - row.started_at).num_seconds()),
                    })
                    .collect();
                let (users, months): (Vec<i64>, Vec<NaiveDate>) = rows
                    .iter()
                    .map(|row| (row.user_id, row.receipts_month))
                    .unzip();
                let verdicts = sqlx::query!(
                    r#"select r.verdict as "verdict!: Verdict", count(*) as "rides!"
                         from unnest($2::bigint[], $3::date[]) p (user_id, month)
                        cross join lateral (
                              select r.verdict from ride_receipt r
                               where r.user_id = p.user_id and r.promotion_id = $1 and r.receipts_month = p.month) r
                        group by r.verdict"#,
                    promotion_id,
                    &users,
                    &months
                )
                .fetch_all(&mut *connection)
                .await?;
                let verdicts: BTreeMap<Verdict, i64> = verdicts
                    .into_iter()
                    .map(|row| (row.verdict, row.rides))
                    .collect();
                Ok(Some(Outcomes {
                    promotion_id,
                    from,
                    to,
                    participations: outcomes.len(),
                    more,
                    verdicts,
                    near_misses: NearMisses::of(&outcomes),
                    days_to_completion: DaysToCompletion::of(&outcomes),
                }))
            })
        })
        .await
    }
}
