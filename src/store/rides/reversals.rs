//! Reversals of rides of challenges that have ended: they are noted, and undo nothing.

use sqlx::postgres::PgConnection;
use uuid::Uuid;

use crate::domain::participation::StatusName;
use crate::domain::ride::Reversal;
use crate::domain::{Instant, PromotionId, UserId};
use crate::store::{Result, Store};
use crate::wire::receipt::LateReversal;

/// Notes the reversals on the receipts that these rides have in participations that are not in
/// progress, in one statement, and lists those of completed challenges. Comes after the challenges
/// in progress: one that this transaction has completed is not in progress any more. Returns how
/// many receipts were marked.
pub(super) async fn mark_ended(
    connection: &mut PgConnection,
    reversals: &[Reversal],
) -> Result<u64> {
    if reversals.is_empty() {
        return Ok(0);
    }
    let users: Vec<UserId> = reversals.iter().map(|reversal| reversal.user_id).collect();
    let rides: Vec<Uuid> = reversals.iter().map(|reversal| reversal.ride_id).collect();
    // Locked in order first, as everything that locks several rows.
    let marked = sqlx::query_scalar!(
        r#"with locked as materialized (
             select r.user_id, r.promotion_id, r.ride_id, r.receipts_month, p.completed_at is not null as is_late
               from (select distinct * from unnest($1::bigint[], $2::uuid[]) v (user_id, ride_id)) v
              cross join lateral (select user_id, promotion_id, receipts_month, completed_at from promotion_user p
                                   where p.user_id = v.user_id and p.status <> $3) p
               join ride_receipt r on r.user_id = p.user_id and r.promotion_id = p.promotion_id and r.ride_id = v.ride_id
                                  and r.receipts_month = p.receipts_month
              where r.reversed_at is null
              order by r.user_id, r.promotion_id, r.ride_id
                for update of r),
         marked as (
             update ride_receipt r set reversed_at = clock_ms()
               from locked l
              where r.user_id = l.user_id and r.promotion_id = l.promotion_id and r.ride_id = l.ride_id
                and r.receipts_month = l.receipts_month
          returning r.user_id, r.promotion_id, r.ride_id, r.reversed_at, l.is_late),
         listed as (
             insert into late_reversal (user_id, promotion_id, ride_id, reversed_at)
             select user_id, promotion_id, ride_id, reversed_at from marked where is_late)
         select count(*) as "marked!" from marked"#,
        &users,
        &rides,
        StatusName::InProgress as StatusName
    )
    .fetch_one(connection)
    .await?;
    Ok(marked.unsigned_abs())
}

/// A place in the list of late reversals.
pub type Place = (Instant, UserId, PromotionId, Uuid);

impl Store {
    /// Reversals that came after their challenge was completed, newest first: those after the place,
    /// at most `limit`.
    pub async fn late_reversals(
        &self,
        after: Option<Place>,
        limit: i64,
    ) -> Result<Vec<LateReversal>> {
        let (at, user_id, promotion_id, ride_id) = match after {
            None => (None, None, None, None),
            Some((at, user_id, promotion_id, ride_id)) => {
                (Some(at), Some(user_id), Some(promotion_id), Some(ride_id))
            }
        };
        Ok(sqlx::query_as!(
            LateReversal,
            r#"select l.user_id, l.promotion_id, l.ride_id, l.reversed_at, p.status as "status: StatusName",
                      a.application_id as "application_id?"
                 from late_reversal l
                 join promotion_user p using (user_id, promotion_id)
                 left join active_pre_offer o on o.user_id = l.user_id and o.promotion_id = l.promotion_id
                 left join application a using (active_pre_offer_id)
                where $1::timestamptz is null
                   or (l.reversed_at, l.user_id, l.promotion_id, l.ride_id) < ($1, $2::bigint, $3::bigint, $4::uuid)
                order by l.reversed_at desc, l.user_id desc, l.promotion_id desc, l.ride_id desc
                limit $5"#,
            at,
            user_id,
            promotion_id,
            ride_id,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }
}
