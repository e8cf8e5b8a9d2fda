//! The sweeper's pass over the participations that an extension may cover, step by step.
//!
//! The pass goes through the live participations by their deadlines. Each step is a transaction that also
//! stores how far the pass has come. Every covered participation was committed before the extension (see
//! [`super::pending`]). A deadline only ever moves forward, so a participation that was moved meanwhile is
//! met again, and has had the extension by then.

use sqlx::PgConnection;
use uuid::Uuid;

use super::pending::{Moment, apply_running, moment};
use crate::domain::participation::{DeadlineOf, StatusName};
use crate::domain::{Instant, PromotionId, UserId};
use crate::store::{Result, Store, identity};

/// The result of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtensionStep {
    /// The extension that was worked on.
    pub extension_id: Uuid,
    /// How many participations it extended.
    pub extended: u64,
    /// Whether the extension is done.
    pub is_done: bool,
}

/// An extension whose row is locked, and the progress of its pass.
struct LockedExtension {
    extension_id: Uuid,
    promotion_id: Option<PromotionId>,
    country_code: Option<String>,
    user_id: Option<UserId>,
    of: DeadlineOf,
    at: Instant,
    after_deadline: Option<Instant>,
    after_user_id: Option<UserId>,
    after_promotion_id: Option<PromotionId>,
}

/// A participation that a pass meets.
struct PassRow {
    user_id: UserId,
    promotion_id: PromotionId,
    deadline: Instant,
    is_candidate: bool,
}

impl Store {
    /// One step of the oldest running extension that no other process works on. Looks at no more than `limit`
    /// participations. `None` if there is nothing to do.
    pub async fn extend_step(&self, limit: i64) -> Result<Option<ExtensionStep>> {
        self.step_of(None, limit).await
    }

    /// A step of the extension `only`, or of the oldest.
    pub(super) async fn step_of(
        &self,
        only: Option<Uuid>,
        limit: i64,
    ) -> Result<Option<ExtensionStep>> {
        self.run_tx("extend_step", move |connection| {
            Box::pin(async move {
                identity::ensure_accepted(connection).await?;
                if only.is_some() {
                    // A caller waits. If another transaction holds the participation, the sweeper will
                    // extend it.
                    sqlx::query!("select set_config('lock_timeout', '250ms', true)")
                        .fetch_one(&mut *connection)
                        .await?;
                }
                match lock(connection, only).await? {
                    Some(locked) => Ok(Some(step(connection, &locked, limit).await?)),
                    None => Ok(None),
                }
            })
        })
        .await
    }
}

async fn lock(
    connection: &mut PgConnection,
    only: Option<Uuid>,
) -> Result<Option<LockedExtension>> {
    Ok(sqlx::query_as!(
        LockedExtension,
        r#"select extension_id, promotion_id, country_code, user_id, deadline_of as "of: DeadlineOf", at, after_deadline,
                  after_user_id, after_promotion_id
             from extension
            where finished_at is null and ($1::uuid is null or extension_id = $1)
              and (is_counted or at < clock_timestamp() - interval '5 seconds')
            order by number
            limit 1
              for update skip locked"#,
        only
    )
    .fetch_optional(connection)
    .await?)
}

async fn step(
    connection: &mut PgConnection,
    locked: &LockedExtension,
    limit: i64,
) -> Result<ExtensionStep> {
    let met = match locked.user_id {
        Some(user_id) => of_client(connection, locked, user_id).await?,
        None => page(connection, locked, limit).await?,
    };
    let is_full = i64::try_from(met.len()).is_ok_and(|count| count >= limit);
    let next = met.last().filter(|_| is_full && locked.user_id.is_none());
    let extended = extend(connection, locked, &met).await?;
    let count = i64::try_from(extended).unwrap_or(i64::MAX);
    match next {
        None => finish(connection, locked.extension_id, count).await?,
        Some(last) => {
            sqlx::query!(
                "update extension
                    set done = done + $2, after_deadline = $3, after_user_id = $4, after_promotion_id = $5
                  where extension_id = $1",
                locked.extension_id,
                count,
                last.deadline,
                last.user_id,
                last.promotion_id
            )
            .execute(connection)
            .await?;
        }
    }
    Ok(ExtensionStep {
        extension_id: locked.extension_id,
        extended,
        is_done: next.is_none(),
    })
}

/// The client's participations, which are few.
async fn of_client(
    connection: &mut PgConnection,
    locked: &LockedExtension,
    user_id: UserId,
) -> Result<Vec<PassRow>> {
    Ok(sqlx::query_as!(
        PassRow,
        r#"select user_id, promotion_id, challenge_deadline as deadline, status = any($2) as "is_candidate!"
             from promotion_user
            where user_id = $1 and ($3::bigint is null or promotion_id = $3)
            order by promotion_id"#,
        user_id,
        &[StatusName::InProgress, StatusName::Completed] as &[StatusName],
        locked.promotion_id
    )
    .fetch_all(connection)
    .await?)
}

/// The next live participations by their deadline, including those that the extension cannot cover. So a step
/// takes the same time however few it covers.
async fn page(
    connection: &mut PgConnection,
    locked: &LockedExtension,
    limit: i64,
) -> Result<Vec<PassRow>> {
    let after = locked.after_deadline.unwrap_or(Instant::UNIX_EPOCH);
    let after_user = locked.after_user_id.unwrap_or_default();
    let after_promotion = locked.after_promotion_id.unwrap_or_default();
    let met = match locked.of {
        DeadlineOf::Challenge => {
            sqlx::query_as!(
                PassRow,
                r#"select user_id, promotion_id, challenge_deadline as deadline,
                          (started_at <= $5 and ($6::bigint is null or promotion_id = $6)
                           and ($7::text is null or country_code = $7)) as "is_candidate!"
                     from promotion_user
                    where status = 'IN_PROGRESS' and challenge_deadline >= $1
                      and (challenge_deadline, user_id, promotion_id) > ($1, $2, $3)
                    order by challenge_deadline, user_id, promotion_id
                    limit $4"#,
                after,
                after_user,
                after_promotion,
                limit,
                locked.at,
                locked.promotion_id,
                locked.country_code
            )
            .fetch_all(connection)
            .await?
        }
        DeadlineOf::Reward => {
            sqlx::query_as!(
                PassRow,
                r#"select user_id, promotion_id, reward_deadline as "deadline!",
                          (completed_at <= $5 and ($6::bigint is null or promotion_id = $6)
                           and ($7::text is null or country_code = $7)) as "is_candidate!"
                     from promotion_user
                    where status = 'COMPLETED' and reward_deadline >= $1
                      and (reward_deadline, user_id, promotion_id) > ($1, $2, $3)
                    order by reward_deadline, user_id, promotion_id
                    limit $4"#,
                after,
                after_user,
                after_promotion,
                limit,
                locked.at,
                locked.promotion_id,
                locked.country_code
            )
            .fetch_all(connection)
            .await?
        }
    };
    Ok(met)
}

/// Locks the candidates that have not had the extension, in key order like every transaction, and extends
/// those that are still covered.
async fn extend(
    connection: &mut PgConnection,
    locked: &LockedExtension,
    met: &[PassRow],
) -> Result<u64> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = met
        .iter()
        .filter(|met| met.is_candidate)
        .map(|met| (met.user_id, met.promotion_id))
        .unzip();
    if users.is_empty() {
        return Ok(0);
    }
    let rows = sqlx::query!(
        "select p.user_id, p.promotion_id from promotion_user p
          where (p.user_id, p.promotion_id) in (select * from unnest($1::bigint[], $2::bigint[]))
            and not exists (select from participation_extension a
                             where a.user_id = p.user_id and a.promotion_id = p.promotion_id and a.extension_id = $3)
          order by p.user_id, p.promotion_id
            for update of p",
        &users,
        &promotions,
        locked.extension_id
    )
    .fetch_all(&mut *connection)
    .await?;
    if rows.is_empty() {
        return Ok(0);
    }
    let keys: Vec<_> = rows
        .iter()
        .map(|row| (row.user_id, row.promotion_id))
        .collect();
    let Moment { now, .. } = moment(connection).await?;
    let done = apply_running(connection, &keys, now, Some(locked.extension_id)).await?;
    Ok(done.of_pass)
}

/// Adds those that other transactions extended before the sweeper met them. Each has committed, because the
/// pass waited for its row lock.
async fn finish(connection: &mut PgConnection, extension_id: Uuid, extended: i64) -> Result<()> {
    sqlx::query!(
        "with counted as (
             select e.done + $2 + (select count(*) from participation_extension a
                                    where a.extension_id = e.extension_id and not a.by_sweeper) as done
               from extension e where e.extension_id = $1)
         update extension e
            set done = c.done, matched = greatest(e.matched, c.done), skipped = greatest(e.matched - c.done, 0),
                after_deadline = null, after_user_id = null, after_promotion_id = null, finished_at = clock_ms()
           from counted c
          where e.extension_id = $1",
        extension_id,
        extended
    )
    .execute(connection)
    .await?;
    Ok(())
}
