//! Expiring what has run out, in bounded batches under the participations' row locks.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Result, Store};
use crate::domain::participation::ExpiredReason;
use crate::domain::{Instant, PromotionId, UserId};

/// How many participations are past their deadline and not expired, by what holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBack {
    /// It is not proven that every ride was read.
    pub by_lag: i64,
    /// A quarantined ride of the client is open.
    pub by_quarantine: i64,
}

impl Store {
    /// Expires challenges whose deadline is at or before `due`, up to which the caller has proven
    /// that every ride was applied. One whose client has an open quarantined ride received since the
    /// start is left. Answers how many expired; fewer than `limit` means that none is left.
    pub async fn expire_challenges(&self, due: Instant, limit: i64) -> Result<u64> {
        self.run_tx("expire_challenges", move |connection| {
            Box::pin(async move {
                // After the positions (the caller read them) and before the locks: a ride that is
                // quarantined later than this was published after the proof.
                let candidates = sqlx::query!(
                    "select p.user_id, p.promotion_id from promotion_user p
                      where p.status = 'IN_PROGRESS' and p.challenge_deadline <= $1
                        and not exists (select from quarantined_ride q
                                         where q.user_id = p.user_id and q.status = 'OPEN' and q.received_at >= p.started_at)
                      order by p.challenge_deadline
                      limit $2",
                    due,
                    limit
                )
                .fetch_all(&mut *connection)
                .await?;
                let keys = candidates.iter().map(|row| (row.user_id, row.promotion_id)).unzip();
                expire(connection, ExpiredReason::ChallengeNotCompleted, keys).await
            })
        })
        .await
    }

    /// Expires rewards that were not claimed in time, by the database's clock.
    pub async fn expire_rewards(&self, limit: i64) -> Result<u64> {
        self.run_tx("expire_rewards", move |connection| {
            Box::pin(async move {
                let candidates = sqlx::query!(
                    "select user_id, promotion_id from promotion_user
                      where status = 'COMPLETED' and reward_deadline <= clock_timestamp()
                      order by reward_deadline
                      limit $1",
                    limit
                )
                .fetch_all(&mut *connection)
                .await?;
                let keys = candidates
                    .iter()
                    .map(|row| (row.user_id, row.promotion_id))
                    .unzip();
                expire(connection, ExpiredReason::RewardNotClaimed, keys).await
            })
        })
        .await
    }

    /// What is past `due` (the deadline plus the allowed lateness) and still in progress.
    pub async fn held_back(&self, due: Instant) -> Result<HeldBack> {
        let row = sqlx::query!(
            r#"select count(*) filter (where held) as "by_quarantine!", count(*) filter (where not held) as "by_lag!"
                 from (select exists (select from quarantined_ride q
                                       where q.user_id = p.user_id and q.status = 'OPEN' and q.received_at >= p.started_at) as held
                         from promotion_user p
                        where p.status = 'IN_PROGRESS' and p.challenge_deadline <= $1) overdue"#,
            due
        )
        .fetch_one(self.pool())
        .await?;
        Ok(HeldBack {
            by_lag: row.by_lag,
            by_quarantine: row.by_quarantine,
        })
    }
}

/// Expires the client's reward, if it was not claimed in time, where a start may not wait for the
/// sweeper. Answers how many expired.
pub(super) async fn expire_reward_of(
    connection: &mut PgConnection,
    user_id: UserId,
) -> Result<u64> {
    let overdue = sqlx::query_scalar!(
        "select promotion_id from promotion_user
          where user_id = $1 and status = 'COMPLETED' and reward_deadline <= clock_timestamp()",
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    let keys = overdue
        .into_iter()
        .map(|promotion_id| (user_id, promotion_id))
        .unzip();
    expire(connection, ExpiredReason::RewardNotClaimed, keys).await
}

/// Locks these participations in key order and expires those that still are what the reason says;
/// a ride or an accept that was first wins.
async fn expire(
    connection: &mut PgConnection,
    reason: ExpiredReason,
    (users, promotions): (Vec<UserId>, Vec<PromotionId>),
) -> Result<u64> {
    if users.is_empty() {
        return Ok(0);
    }
    let from = match reason {
        ExpiredReason::ChallengeNotCompleted => "IN_PROGRESS",
        ExpiredReason::RewardNotClaimed => "COMPLETED",
    };
    let locked = sqlx::query!(
        "select p.user_id, p.promotion_id from promotion_user p
          where (p.user_id, p.promotion_id) in (select * from unnest($1::bigint[], $2::bigint[])) and p.status = $3
          order by p.user_id, p.promotion_id
            for update",
        &users,
        &promotions,
        from
    )
    .fetch_all(&mut *connection)
    .await?;
    let users: Vec<UserId> = locked.iter().map(|row| row.user_id).collect();
    let promotions: Vec<PromotionId> = locked.iter().map(|row| row.promotion_id).collect();
    let event_ids: Vec<Uuid> = locked.iter().map(|_| Uuid::now_v7()).collect();
    // After the locks, and as the statement before it cannot.
    let now = sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query!(
        "update cash_loan_account c set status = 'EXPIRED', updated_at = $3
           from unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id)
          where c.user_id = v.user_id and c.promotion_id = v.promotion_id and c.status = 'ACTIVE'",
        &users,
        &promotions,
        now
    )
    .execute(&mut *connection)
    .await?;
    let expired = sqlx::query!(
        "with expired as (
             update promotion_user p
                set status = 'EXPIRED', version = p.version + 1, expired_at = $4, expired_reason = $5
               from unnest($1::bigint[], $2::bigint[], $3::uuid[]) v (user_id, promotion_id, event_id)
              where p.user_id = v.user_id and p.promotion_id = v.promotion_id and p.status = $6
          returning p.*, v.event_id)
         insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                   rides_target, started_at, challenge_deadline, completed_at, reward_deadline, expired_at,
                                   expired_reason, reward, occurred_at)
         select event_id, 'promotion.expired', user_id, promotion_id, status, $6, version, rides_completed, rides_target,
                started_at, challenge_deadline, completed_at, reward_deadline, expired_at, expired_reason, reward, $4
           from expired order by user_id, promotion_id",
        &users,
        &promotions,
        &event_ids,
        now,
        reason.as_str(),
        from
    )
    .execute(connection)
    .await?
    .rows_affected();
    Ok(expired)
}
