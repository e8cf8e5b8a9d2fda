//! Removes the rows of a client, table by table.

use std::collections::BTreeSet;

use sqlx::PgConnection;
use sqlx::types::Json;

use crate::domain::participation::StatusName;
use crate::domain::reward::Reward;
use crate::domain::{PromotionId, UserId};
use crate::store::Result;
use crate::store::budget::ErasedUse;
use crate::store::erasure::{Order, RemovedRows};
use crate::store::outbox::packet;

/// Removes the application and its rows; the split is removed with the others.
pub(super) async fn remove_origination(
    connection: &mut PgConnection,
    user_id: UserId,
    removed: &mut RemovedRows,
) -> Result<()> {
    sqlx::query!("delete from session where user_id = $1", user_id)
        .execute(&mut *connection)
        .await?;
    removed.applications = sqlx::query!("delete from application where user_id = $1", user_id)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    sqlx::query!("delete from active_pre_offer where user_id = $1", user_id)
        .execute(connection)
        .await?;
    Ok(())
}

/// Removes the participations, except a rewarded one that is kept, with their receipts, their splits, their
/// waiting events, and the records of lost ones. Returns their promotions, and the participation that uses a
/// budget.
pub(super) async fn remove_participations(
    connection: &mut PgConnection,
    user_id: UserId,
    keep: bool,
    removed: &mut RemovedRows,
) -> Result<(Vec<PromotionId>, Option<ErasedUse>)> {
    sqlx::query!(
        "delete from participation_extension a
          where a.user_id = $1
            and not ($2 and exists (select from promotion_user p
                                     where p.user_id = a.user_id and p.promotion_id = a.promotion_id and p.status = $3))",
        user_id,
        keep,
        StatusName::Rewarded as StatusName
    )
    .execute(&mut *connection)
    .await?;
    // An extension of this client alone; it has nothing left to extend.
    sqlx::query!("delete from extension where user_id = $1", user_id)
        .execute(&mut *connection)
        .await?;
    removed.receipts = sqlx::query!("delete from ride_receipt where user_id = $1", user_id)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    sqlx::query!("delete from participation_day where user_id = $1", user_id)
        .execute(&mut *connection)
        .await?;
    sqlx::query!("delete from late_reversal where user_id = $1", user_id)
        .execute(&mut *connection)
        .await?;
    let gone = sqlx::query!(
        r#"delete from promotion_user p using promotion m
            where m.promotion_id = p.promotion_id and p.user_id = $1 and not ($2 and p.status = $3)
           returning p.promotion_id, p.status as "status: StatusName",
                     case when m.has_budget_use then p.reward end as "counted_reward: Json<Reward>""#,
        user_id,
        keep,
        StatusName::Rewarded as StatusName
    )
    .fetch_all(&mut *connection)
    .await?;
    removed.participations = gone.len() as u64;
    remove_notes(connection, user_id).await?;
    let mut promotions: BTreeSet<PromotionId> = gone.iter().map(|row| row.promotion_id).collect();
    // A client has at most one that is live or rewarded.
    let counted = gone.into_iter().find_map(|row| {
        let Json(reward) = row.counted_reward?;
        (row.status != StatusName::Expired).then_some(ErasedUse {
            promotion_id: row.promotion_id,
            is_spent: row.status == StatusName::Rewarded,
            reward,
        })
    });
    promotions.extend(
        sqlx::query_scalar!(
            "delete from version_floor where user_id = $1 returning promotion_id",
            user_id
        )
        .fetch_all(&mut *connection)
        .await?,
    );
    promotions.extend(
        sqlx::query_scalar!(
            "delete from held_reward where user_id = $1 returning promotion_id",
            user_id
        )
        .fetch_all(&mut *connection)
        .await?,
    );
    // Events that a relay has read already are published before the tombstone.
    promotions.extend(
        sqlx::query_scalar!(
            r#"delete from event_outbox e
              where e.user_id = $1 and num_nonnulls(e.type, e.reminder) > 0
                and not exists (select from promotion_user p where p.user_id = e.user_id and p.promotion_id = e.promotion_id)
             returning promotion_id as "promotion_id!""#,
            user_id
        )
        .fetch_all(&mut *connection)
        .await?,
    );
    let in_packets = sqlx::query_scalar!(
        r#"select distinct w.promotion_id as "promotion_id!"
             from event_outbox e cross join lateral unnest(e.packet_user_ids, e.packet_promotion_ids) w (user_id, promotion_id)
            where e.packet_user_ids @> array[$1::bigint] and w.user_id = $1
              and not exists (select from promotion_user p where p.user_id = w.user_id and p.promotion_id = w.promotion_id)"#,
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    let keys: Vec<_> = in_packets
        .iter()
        .map(|promotion_id| (user_id, *promotion_id))
        .collect();
    packet::remove(connection, &keys).await?;
    promotions.extend(in_packets);
    removed.splits = sqlx::query!(
        "delete from cash_loan_account c
          where c.user_id = $1 and not exists (select from session s where s.split_id = c.split_id)",
        user_id
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    Ok((promotions.into_iter().collect(), counted))
}

/// Removes the rows about participations that are gone.
async fn remove_notes(connection: &mut PgConnection, user_id: UserId) -> Result<()> {
    // After the participations, whose row locks guard these rows.
    sqlx::query!(
        "delete from participation_reminder n
          where n.user_id = $1
            and not exists (select from promotion_user p where p.user_id = n.user_id and p.promotion_id = n.promotion_id)",
        user_id
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "delete from participation_reminded n
          where n.user_id = $1
            and not exists (select from promotion_user p where p.user_id = n.user_id and p.promotion_id = n.promotion_id)",
        user_id
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "delete from participation_history n
          where n.user_id = $1
            and not exists (select from promotion_user p where p.user_id = n.user_id and p.promotion_id = n.promotion_id)",
        user_id
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes pre-offers and quarantined records.
pub(super) async fn remove_the_rest(
    connection: &mut PgConnection,
    order: &Order,
    removed: &mut RemovedRows,
) -> Result<()> {
    let user_id = order.user_id;
    removed.pre_offers = sqlx::query!("delete from pre_offer where user_id = $1", user_id)
        .execute(&mut *connection)
        .await?
        .rows_affected();
    removed.quarantined = sqlx::query!(
        "delete from quarantined_ride
          where user_id = $1 or quarantine_id = any($2) or resolution #>> '{ride,user_id}' = ($1::bigint)::text
             or (user_id is null and key = convert_to(($1::bigint)::text, 'UTF8'))",
        user_id,
        &order.naming
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    // The body decides the client of a record; the key of another client's record may name this one.
    sqlx::query!(
        "update quarantined_ride set key = null where key = convert_to(($1::bigint)::text, 'UTF8')",
        user_id
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Audit entries keep operator, time and call; content that names the client is removed.
pub(super) async fn scrub_audit(
    connection: &mut PgConnection,
    user_id: UserId,
    removed: &mut RemovedRows,
) -> Result<()> {
    removed.audit_entries = sqlx::query!(
        r#"with named as (
               select audit_id,
                      jsonb_path_exists(coalesce(before, '{}'), '$.**.user_id ? (@ == $user)', jsonb_build_object('user', $1::bigint)) as before_names,
                      jsonb_path_exists(coalesce(after, '{}'), '$.**.user_id ? (@ == $user)', jsonb_build_object('user', $1::bigint)) as after_names
                 from admin_audit)
           update admin_audit a
              set before = case when n.before_names then '{"erased": true}' else a.before end,
                  after = case when n.after_names then '{"erased": true}' else a.after end
             from named n
            where n.audit_id = a.audit_id and (n.before_names or n.after_names)"#,
        user_id
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    removed.audit_entries += sqlx::query!(
        r#"update import_progress set after = '{"erased": true}'
            where jsonb_path_exists(after, '$.**.user_id ? (@ == $user)', jsonb_build_object('user', $1::bigint))"#,
        user_id
    )
    .execute(connection)
    .await?
    .rows_affected();
    Ok(())
}
