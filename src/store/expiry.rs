//! Expires challenges and rewards, in bounded batches under the participations' row locks.

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::budget::ReleasedUse;
use super::extensions::{self, Moment};
use super::state::status_of;
use super::{Result, Store, identity, must_be_all};
use crate::domain::participation::{ExpiredReason, Status, StatusName};
use crate::domain::reward::Reward;
use crate::domain::split::SplitStatus;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::promotion_status::EventType;

/// How many participations are past their deadline and not expired, by the cause.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeldBackCounts {
    /// It is not proven that every ride was read.
    pub by_lag: i64,
    /// A quarantined ride of the client is open.
    pub by_quarantine: i64,
}

/// A range of deadlines. Its bounds are parameters, so that an index returns only these rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeadlineRange {
    /// Later than this.
    pub after: Instant,
    /// Not later than this.
    pub upto: Instant,
}

impl Store {
    /// Expires challenges whose deadline is in `window`. The caller has proven that every ride up to the end of
    /// `window` was applied. A challenge is skipped if its client has an open quarantined ride received since
    /// the start. Returns how many expired; fewer than `limit` means that none is left.
    pub async fn expire_challenges(&self, window: DeadlineRange, limit: i64) -> Result<u64> {
        self.run_tx("expire_challenges", move |connection| {
            Box::pin(async move {
                identity::ensure_accepted(connection).await?;
                // After the positions (which the caller read) and before the locks: a ride that is
                // quarantined later was published after the proof.
                let candidates = sqlx::query!(
                    "select p.user_id, p.promotion_id from promotion_user p
                      where p.status = 'IN_PROGRESS' and p.challenge_deadline > $1 and p.challenge_deadline <= $2
                        and not exists (select from quarantined_ride q
                                         where q.user_id = p.user_id and q.status = 'OPEN' and q.received_at >= p.started_at)
                      order by p.challenge_deadline
                      limit $3",
                    window.after,
                    window.upto,
                    limit
                )
                .fetch_all(&mut *connection)
                .await?;
                let keys = candidates.iter().map(|row| (row.user_id, row.promotion_id)).unzip();
                let (expired, released) = expire(connection, StatusName::InProgress, keys).await?;
                released.give_back(connection).await?;
                Ok(expired)
            })
        })
        .await
    }

    /// Expires rewards whose deadline is in `window`, which must end in the past of the database's clock.
    /// Returns how many expired; fewer than `limit` means that none is left.
    pub async fn expire_rewards(&self, window: DeadlineRange, limit: i64) -> Result<u64> {
        self.run_tx("expire_rewards", move |connection| {
            Box::pin(async move {
                identity::ensure_accepted(connection).await?;
                let candidates = sqlx::query!(
                    "select user_id, promotion_id from promotion_user
                      where status = 'COMPLETED' and reward_deadline > $1 and reward_deadline <= $2
                      order by reward_deadline
                      limit $3",
                    window.after,
                    window.upto,
                    limit
                )
                .fetch_all(&mut *connection)
                .await?;
                let keys = candidates
                    .iter()
                    .map(|row| (row.user_id, row.promotion_id))
                    .unzip();
                let (expired, released) = expire(connection, StatusName::Completed, keys).await?;
                released.give_back(connection).await?;
                Ok(expired)
            })
        })
        .await
    }

    /// Counts what is past `due` (the deadline plus the allowed lateness) and still in progress.
    pub async fn held_back(&self, due: Instant) -> Result<HeldBackCounts> {
        let row = sqlx::query!(
            r#"select count(*) filter (where held) as "by_quarantine!", count(*) filter (where not held) as "by_lag!"
                 from (select exists (select from quarantined_ride q
                                       where q.user_id = p.user_id and q.status = 'OPEN' and q.received_at >= p.started_at) as held
                         from promotion_user p
                        where p.status = 'IN_PROGRESS' and p.challenge_deadline <= $1) overdue"#,
            due
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?;
        Ok(HeldBackCounts {
            by_lag: row.by_lag,
            by_quarantine: row.by_quarantine,
        })
    }
}

/// Expires the client's reward if it was not claimed in time, for a start, which cannot wait for the
/// sweeper. Returns how many expired, and what the caller must give back of their budgets.
pub(super) async fn expire_reward_of(
    connection: &mut PgConnection,
    user_id: UserId,
) -> Result<(u64, ReleasedUse)> {
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
    expire(connection, StatusName::Completed, keys).await
}

/// A participation that may expire; its row is locked.
struct DueParticipation {
    user_id: UserId,
    promotion_id: PromotionId,
    status: StatusName,
    challenge_deadline: Instant,
    completed_at: Option<Instant>,
    reward_deadline: Option<Instant>,
    rewarded_at: Option<Instant>,
    expired_at: Option<Instant>,
    expired_reason: Option<ExpiredReason>,
    /// The reward, if the promotion counts its use.
    counted_reward: Option<Json<Reward>>,
}

/// Locks those that still have this status, in key order.
async fn lock(
    connection: &mut PgConnection,
    status: StatusName,
    users: &[UserId],
    promotions: &[PromotionId],
) -> Result<Vec<DueParticipation>> {
    Ok(sqlx::query_as!(
        DueParticipation,
        r#"select p.user_id, p.promotion_id, p.status as "status: StatusName", p.challenge_deadline, p.completed_at,
                  p.reward_deadline, p.rewarded_at, p.expired_at, p.expired_reason as "expired_reason: ExpiredReason",
                  case when m.has_budget_use then p.reward end as "counted_reward: Json<Reward>"
             from promotion_user p
             join promotion m using (promotion_id)
            where (p.user_id, p.promotion_id) in (select * from unnest($1::bigint[], $2::bigint[])) and p.status = $3
            order by p.user_id, p.promotion_id
              for update of p"#,
        users,
        promotions,
        status as StatusName
    )
    .fetch_all(connection)
    .await?)
}

/// Locks these participations in key order, and expires those that still have this status and are due, by the
/// status machine. A ride or an accept that came first wins. Returns how many expired, and what the caller
/// must give back of their budgets at the end of the transaction.
async fn expire(
    connection: &mut PgConnection,
    status: StatusName,
    (users, promotions): (Vec<UserId>, Vec<PromotionId>),
) -> Result<(u64, ReleasedUse)> {
    if users.is_empty() {
        return Ok((0, ReleasedUse::default()));
    }
    let mut locked = lock(connection, status, &users, &promotions).await?;
    // After the locks, because a statement before them cannot know. A running extension moves a deadline
    // before the deadline is judged.
    let Moment { now, is_extending } = extensions::moment(connection).await?;
    if is_extending {
        let keys: Vec<_> = locked
            .iter()
            .map(|row| (row.user_id, row.promotion_id))
            .collect();
        if extensions::apply_running(connection, &keys, now, None)
            .await?
            .all
            > 0
        {
            locked = lock(connection, status, &users, &promotions).await?;
        }
    }
    let mut expired = ExpiredColumns::default();
    let mut released = ReleasedUse::default();
    for row in locked {
        // The deadline may have moved while this waited for the lock.
        if let Ok(status) = status_of!(row)?.expire(row.challenge_deadline, now) {
            expired.push((row.user_id, row.promotion_id), row.status, status);
            released.add(row.promotion_id, row.counted_reward.as_deref());
        }
    }
    Ok((expired.write(connection, now).await?, released))
}

/// Participations that expired, one `Vec` per column. Each makes one event.
#[derive(Default)]
struct ExpiredColumns {
    users: Vec<UserId>,
    promotions: Vec<PromotionId>,
    from: Vec<StatusName>,
    to: Vec<StatusName>,
    expired_at: Vec<Option<Instant>>,
    reasons: Vec<Option<ExpiredReason>>,
    event_ids: Vec<Uuid>,
}

impl ExpiredColumns {
    fn push(
        &mut self,
        (user_id, promotion_id): (UserId, PromotionId),
        from: StatusName,
        to: Status,
    ) {
        let fields = to.fields();
        self.users.push(user_id);
        self.promotions.push(promotion_id);
        self.from.push(from);
        self.to.push(fields.status);
        self.expired_at.push(fields.expired_at);
        self.reasons.push(fields.expired_reason);
        self.event_ids.push(Uuid::now_v7());
    }

    async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<u64> {
        sqlx::query!(
            "update cash_loan_account c set status = $4, updated_at = $3
               from unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id)
              where c.user_id = v.user_id and c.promotion_id = v.promotion_id and c.status = 'ACTIVE'",
            &self.users,
            &self.promotions,
            now,
            SplitStatus::Expired as SplitStatus
        )
        .execute(&mut *connection)
        .await?;
        let written = sqlx::query!(
            "with expired as (
                 update promotion_user p
                    set status = v.status, version = p.version + 1, expired_at = v.expired_at, expired_reason = v.reason,
                        last_event_id = v.event_id, last_event_version = p.version + 1, last_event_type = $8,
                        last_event_previous_status = v.previous_status, last_event_at = $9
                   from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[], $6::text[], $7::uuid[])
                        v (user_id, promotion_id, previous_status, status, expired_at, reason, event_id)
                  where p.user_id = v.user_id and p.promotion_id = v.promotion_id and p.status = v.previous_status
              returning p.*)
             insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                       rides_target, started_at, challenge_deadline, completed_at, reward_deadline, expired_at,
                                       expired_reason, reward, further_goals, occurred_at)
             select last_event_id, last_event_type, user_id, promotion_id, status, last_event_previous_status, version, rides_completed, rides_target,
                    started_at, challenge_deadline, completed_at, reward_deadline, expired_at, expired_reason, reward, further_goals, last_event_at
               from expired order by user_id, promotion_id",
            &self.users,
            &self.promotions,
            &self.from as &[StatusName],
            &self.to as &[StatusName],
            &self.expired_at as &[Option<Instant>],
            &self.reasons as &[Option<ExpiredReason>],
            &self.event_ids,
            EventType::Expired as EventType,
            now
        )
        .execute(connection)
        .await?
        .rows_affected();
        must_be_all(
            written,
            self.users.len(),
            "locked participations could be expired",
        )?;
        Ok(written)
    }
}
