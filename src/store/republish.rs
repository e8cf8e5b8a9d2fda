//! Publishes the present state of participations again, through the outbox. It has the event id and version of the
//! last change. If that event is not known, or the topic has a higher version, the participation gets a new
//! version for it.
//!
//! Everything here runs under the participations' row locks, like every change. So the rows of one key enter the
//! outbox in the order of their versions, also if other writers run at the same time.

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::audit::{self, Author};
use super::{Result, Store};
use crate::domain::participation::StatusName;
use crate::domain::{Instant, ParticipationKey, PromotionId, UserId};
use crate::wire::promotion_status::{Cause, EventType};

/// Which participations are published again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepublishSelection {
    /// Every participation of one client.
    User(UserId),
    /// Every participation in one promotion.
    Promotion(PromotionId),
    /// Every participation.
    All,
}

impl RepublishSelection {
    /// The content of the audit entry: the selection, and how many were published so far.
    fn noted(self, published: u64) -> Value {
        match self {
            Self::User(user_id) => json!({ "user_id": user_id, "published": published }),
            Self::Promotion(promotion_id) => {
                json!({ "promotion_id": promotion_id, "published": published })
            }
            Self::All => json!({ "all": true, "published": published }),
        }
    }
}

/// The result of one page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RepublishedPage {
    /// Participations put into the outbox.
    pub published: u64,
    /// How many of them got a new version because their last event is not known.
    pub lifted: u64,
    /// The last of them; `None` if none is left after this page.
    pub last: Option<ParticipationKey>,
}

/// A participation whose state is published under a new version. Its row is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lift {
    pub(super) key: ParticipationKey,
    pub(super) status: StatusName,
    /// The new version: higher than the row's and than every published one.
    pub(super) version: i32,
}

impl Store {
    /// Records that publishing begins; returns the id of the audit entry.
    pub async fn begin_republish(
        &self,
        selection: RepublishSelection,
        author: &Author,
    ) -> Result<i64> {
        let mut connection = self.acquire().await?;
        audit::begin(&mut connection, author, None, Some(selection.noted(0))).await
    }

    /// Puts the present state of the next participations into the outbox, those after `after`, at most `limit`, in
    /// key order. Updates the audit entry: the pages before published `before`.
    pub async fn republish_page(
        &self,
        selection: RepublishSelection,
        after: Option<ParticipationKey>,
        limit: i64,
        audit_id: i64,
        before: u64,
    ) -> Result<RepublishedPage> {
        let (user_id, promotion_id) = match selection {
            RepublishSelection::User(user_id) => (Some(user_id), None),
            RepublishSelection::Promotion(promotion_id) => (None, Some(promotion_id)),
            RepublishSelection::All => (None, None),
        };
        let (after_user, after_promotion) = after.unwrap_or((0, 0));
        self.run_tx("republish", move |connection| {
            Box::pin(async move {
                let locked = sqlx::query!(
                    r#"select user_id, promotion_id, status as "status: StatusName", version,
                              last_event_version is not distinct from version as "is_known!"
                         from promotion_user
                        where ($1::bigint is null or user_id = $1) and ($2::bigint is null or promotion_id = $2)
                          and (user_id, promotion_id) > ($3, $4)
                        order by user_id, promotion_id
                        limit $5
                          for update"#,
                    user_id,
                    promotion_id,
                    after_user,
                    after_promotion,
                    limit
                )
                .fetch_all(&mut *connection)
                .await?;
                let mut known = Vec::new();
                let mut unknown = Vec::new();
                for row in &locked {
                    let key = (row.user_id, row.promotion_id);
                    if row.is_known {
                        known.push(key);
                    } else {
                        unknown.push(Lift { key, status: row.status, version: row.version + 1 });
                    }
                }
                let lifted = lift(connection, &unknown).await?;
                let published = publish_again(connection, &known).await? + lifted;
                if published > 0 {
                    let after = selection.noted(before + published);
                    audit::progress(connection, audit_id, after).await?;
                }
                let is_full = i64::try_from(locked.len()).is_ok_and(|count| count == limit);
                let last = locked.last().filter(|_| is_full);
                let last = last.map(|row| (row.user_id, row.promotion_id));
                Ok(RepublishedPage { published, lifted, last })
            })
        })
        .await
    }

    /// Whether more than `limit` events wait to be published.
    pub async fn outbox_exceeds(&self, limit: i64) -> Result<bool> {
        let waiting = sqlx::query_scalar!(
            r#"select coalesce(sum(events), 0) as "waiting!"
                 from (select events from event_outbox where id > (select min(published_upto) from relay_shard) limit $1) waiting"#,
            limit.saturating_add(1)
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?;
        Ok(waiting > limit)
    }
}

/// Puts the last events of these participations, which must be known, into the outbox again. The caller holds their
/// row locks. Returns how many.
pub(super) async fn publish_again(
    connection: &mut PgConnection,
    keys: &[ParticipationKey],
) -> Result<u64> {
    if keys.is_empty() {
        return Ok(0);
    }
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.iter().copied().unzip();
    let published = sqlx::query!(
        "insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                   rides_target, started_at, challenge_deadline, completed_at, reward_deadline, rewarded_at,
                                   expired_at, expired_reason, reward, further_goals, occurred_at, extension)
         select p.last_event_id, p.last_event_type, p.user_id, p.promotion_id, p.status, p.last_event_previous_status, p.version,
                p.rides_completed, p.rides_target, p.started_at, p.challenge_deadline, p.completed_at, p.reward_deadline,
                p.rewarded_at, p.expired_at, p.expired_reason, p.reward, p.further_goals, p.last_event_at,
                (select jsonb_build_object('of', e.deadline_of, 'from', a.from_deadline, 'to', a.to_deadline, 'reason', e.reason)
                   from participation_extension a join extension e using (extension_id)
                  where a.user_id = p.user_id and a.promotion_id = p.promotion_id and a.version = p.last_event_version
                    and p.last_event_type = $3)
           from promotion_user p join unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id) using (user_id, promotion_id)
          where p.last_event_version = p.version
          order by p.user_id, p.promotion_id",
        &users,
        &promotions,
        EventType::Extended as EventType
    )
    .execute(connection)
    .await?;
    super::must_be_all(
        published.rows_affected(),
        keys.len(),
        "known events could be published again",
    )?;
    Ok(published.rows_affected())
}

/// Gives these participations the named versions, and publishes their state under them. The caller holds their row
/// locks. Returns how many.
pub(super) async fn lift(connection: &mut PgConnection, lifts: &[Lift]) -> Result<u64> {
    if lifts.is_empty() {
        return Ok(0);
    }
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) =
        lifts.iter().map(|lift| lift.key).unzip();
    let versions: Vec<i32> = lifts.iter().map(|lift| lift.version).collect();
    let types: Vec<EventType> = lifts
        .iter()
        .map(|lift| EventType::of(lift.status))
        .collect();
    let event_ids: Vec<Uuid> = lifts.iter().map(|_| Uuid::now_v7()).collect();
    // After the locks.
    let now: Instant = sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
        .fetch_one(&mut *connection)
        .await?;
    let lifted = sqlx::query!(
        "with lifted as (
             update promotion_user p
                set version = v.version, last_event_version = v.version, last_event_id = v.event_id,
                    last_event_type = v.event_type,
                    last_event_previous_status = p.status, last_event_at = $6
               from unnest($1::bigint[], $2::bigint[], $3::int[], $4::text[], $5::uuid[])
                    v (user_id, promotion_id, version, event_type, event_id)
              where p.user_id = v.user_id and p.promotion_id = v.promotion_id and p.version < v.version
          returning p.*)
         insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                   rides_target, started_at, challenge_deadline, completed_at, reward_deadline, rewarded_at,
                                   expired_at, expired_reason, reward, further_goals, occurred_at, cause)
         select last_event_id, last_event_type, user_id, promotion_id, status, last_event_previous_status, version, rides_completed,
                rides_target, started_at, challenge_deadline, completed_at, reward_deadline, rewarded_at, expired_at,
                expired_reason, reward, further_goals, last_event_at, $7
           from lifted order by user_id, promotion_id",
        &users,
        &promotions,
        &versions,
        &types as &[EventType],
        &event_ids,
        now,
        Cause::Operator as Cause
    )
    .execute(connection)
    .await?;
    super::must_be_all(
        lifted.rows_affected(),
        lifts.len(),
        "locked participations could be lifted",
    )?;
    Ok(lifted.rows_affected())
}
