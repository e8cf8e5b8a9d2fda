//! Applies running extensions where a deadline is judged.
//!
//! A transaction that judges a deadline locks the participation's row, then calls [`moment`], and if an
//! extension is running, applies it before it judges. `moment` also orders the transaction before or after
//! every extension: it holds a row-share lock on `extension_gate` until the transaction ends, and
//! [`close_gate`] waits for all of these locks. So once the response to an order is sent, no running
//! transaction judges without knowing of it. The lock has no measurable cost, and a backup takes a weaker
//! lock, so the two do not wait for each other.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use super::GATE_TIMEOUT;
use crate::domain::extension::{Extension, Length, Move, Outage, Scope, Subject};
use crate::domain::participation::{DeadlineOf, ExpiredReason, StatusName};
use crate::domain::{Instant, ParticipationKey, PromotionId, UserId};
use crate::store::state::status_of;
use crate::store::{Result, Store, StoreError, must_be_all, rides};
use crate::wire::promotion_status::EventType;

/// The database's clock, and whether an extension is running, valid until the transaction ends.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) struct Moment {
    pub(in crate::store) now: Instant,
    pub(in crate::store) is_extending: bool,
}

/// What a transaction must know before it judges deadlines. Call it after the row locks. An extension that is
/// ordered later waits for the transaction's end.
pub(in crate::store) async fn moment(connection: &mut PgConnection) -> Result<Moment> {
    // The gate's lock is taken before the snapshot with which the statement reads.
    Ok(sqlx::query_as!(
        Moment,
        r#"select clock_ms() as "now!",
                  (exists (select from extension where finished_at is null)
                   or exists (select from extension_gate for key share)) as "is_extending!""#
    )
    .fetch_one(connection)
    .await?)
}

/// Waits for every transaction that has judged deadlines, and makes later ones wait.
pub(super) async fn close_gate(connection: &mut PgConnection) -> Result<()> {
    let before = sqlx::query!(
        r#"select current_setting('lock_timeout') as "lock_timeout!", set_config('lock_timeout', $1, true) as "now!""#,
        GATE_TIMEOUT
    )
    .fetch_one(&mut *connection)
    .await?
    .lock_timeout;
    sqlx::query("lock table extension_gate in exclusive mode")
        .execute(&mut *connection)
        .await?;
    sqlx::query!("select set_config('lock_timeout', $1, true)", before)
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// Whether an extension is running, for a reader that finds a deadline passed.
pub(in crate::store) async fn is_any_running(connection: &mut PgConnection) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from extension where finished_at is null) as "running!""#
    )
    .fetch_one(connection)
    .await?)
}

/// How many participations were extended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct ExtendedCounts {
    /// By any extension.
    pub(in crate::store) all: u64,
    /// By the extension that the sweeper works on.
    pub(super) of_pass: u64,
}

/// Locks the client's live participation and applies the running extensions to it. Returns whether anything
/// changed.
pub(in crate::store) async fn apply_of_client(
    connection: &mut PgConnection,
    user_id: UserId,
) -> Result<bool> {
    let live = sqlx::query_scalar!(
        "select promotion_id from promotion_user where user_id = $1 and status = any($2) order by promotion_id for update",
        user_id,
        &[StatusName::InProgress, StatusName::Completed] as &[StatusName]
    )
    .fetch_all(&mut *connection)
    .await?;
    if live.is_empty() {
        return Ok(false);
    }
    let Moment { now, is_extending } = moment(connection).await?;
    if !is_extending {
        return Ok(false);
    }
    let keys: Vec<ParticipationKey> = live
        .into_iter()
        .map(|promotion_id| (user_id, promotion_id))
        .collect();
    Ok(apply_running(connection, &keys, now, None).await?.all > 0)
}

impl Store {
    /// Applies the running extensions to the client's live participation. Returns whether anything changed.
    pub(in crate::store) async fn apply_extensions(&self, user_id: UserId) -> Result<bool> {
        self.run_tx("apply_extensions", move |connection| {
            Box::pin(async move { apply_of_client(connection, user_id).await })
        })
        .await
    }
}

/// Applies every running extension to those of these participations that it covers and that have not had it, in
/// the order of the extensions, each with its event. Then judges again the rides that were too late for the old
/// deadline. The caller holds the row locks and has called [`moment`], whose clock `now` is. `pass` is the
/// extension that the sweeper works on.
pub(in crate::store) async fn apply_running(
    connection: &mut PgConnection,
    keys: &[ParticipationKey],
    now: Instant,
    pass: Option<Uuid>,
) -> Result<ExtendedCounts> {
    let mut done = ExtendedCounts::default();
    let running = running(connection, keys).await?;
    if running.is_empty() {
        return Ok(done);
    }
    let mut applied = applied(connection, keys).await?;
    let mut moved_challenges: Vec<ParticipationKey> = Vec::new();
    for one in running {
        let mut moves = MoveColumns::default();
        for participation in read(connection, keys).await? {
            let key = participation.key();
            if applied.has(key, &one) {
                continue;
            }
            if let Some(moved) = one.extension.moves(&participation.subject()?) {
                moves.push(key, moved);
                applied.note(key, &one);
                if one.extension.of == DeadlineOf::Challenge {
                    moved_challenges.push(key);
                }
            }
        }
        let is_pass = pass == Some(one.extension_id);
        let written = moves.write(connection, &one, now, is_pass).await?;
        done.all += written;
        done.of_pass += if is_pass { written } else { 0 };
    }
    moved_challenges.sort_unstable();
    moved_challenges.dedup();
    rides::judge_late_again(connection, &moved_challenges, now).await?;
    Ok(done)
}

/// An extension that is running.
struct RunningExtension {
    extension_id: Uuid,
    reason: String,
    extension: Extension,
}

impl RunningExtension {
    fn outage_id(&self) -> Option<Uuid> {
        match self.extension.length {
            Length::By(_) => None,
            Length::SharedWith(outage) => Some(outage.outage_id),
        }
    }
}

/// Running extensions that may cover one of these participations, in order.
async fn running(
    connection: &mut PgConnection,
    keys: &[ParticipationKey],
) -> Result<Vec<RunningExtension>> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.iter().copied().unzip();
    let rows = sqlx::query!(
        r#"select extension_id, promotion_id, country_code, user_id, deadline_of as "of: DeadlineOf", by_seconds, outage_id,
                  outage_from, outage_to, reason, at
             from extension
            where finished_at is null
              and (user_id is null or user_id = any($1)) and (promotion_id is null or promotion_id = any($2))
            order by number"#,
        &users,
        &promotions
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter()
        .map(|row| {
            let corrupt = |what: String| {
                StoreError::Corrupt(format!("extension {}: {what}", row.extension_id))
            };
            let length = match (
                row.by_seconds,
                row.outage_id,
                row.outage_from,
                row.outage_to,
            ) {
                (Some(seconds), ..) => Length::By(super::period(row.extension_id, seconds)?),
                (None, Some(outage_id), Some(from), Some(to)) => Length::SharedWith(Outage {
                    outage_id,
                    from,
                    to,
                }),
                _ => return Err(corrupt("no length".to_owned())),
            };
            let country_code = row.country_code.map(|country| country.parse());
            Ok(RunningExtension {
                extension_id: row.extension_id,
                reason: row.reason,
                extension: Extension {
                    scope: Scope {
                        promotion_id: row.promotion_id,
                        country_code: country_code
                            .transpose()
                            .map_err(|error| corrupt(format!("{error}")))?,
                        user_id: row.user_id,
                    },
                    of: row.of,
                    length,
                    at: row.at,
                },
            })
        })
        .collect()
}

/// The extensions that were applied to participations before.
#[derive(Default)]
struct AppliedExtensions {
    extensions: HashSet<(ParticipationKey, Uuid)>,
    outages: HashSet<(ParticipationKey, Uuid)>,
}

impl AppliedExtensions {
    /// Whether this extension, or another for the same outage, was applied to it.
    fn has(&self, key: ParticipationKey, running: &RunningExtension) -> bool {
        self.extensions.contains(&(key, running.extension_id))
            || running
                .outage_id()
                .is_some_and(|outage_id| self.outages.contains(&(key, outage_id)))
    }

    fn note(&mut self, key: ParticipationKey, running: &RunningExtension) {
        self.extensions.insert((key, running.extension_id));
        let outage = running.outage_id();
        self.outages
            .extend(outage.map(|outage_id| (key, outage_id)));
    }
}

async fn applied(
    connection: &mut PgConnection,
    keys: &[ParticipationKey],
) -> Result<AppliedExtensions> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.iter().copied().unzip();
    let rows = sqlx::query!(
        "select a.user_id, a.promotion_id, a.extension_id, a.outage_id
           from participation_extension a
           join unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id) using (user_id, promotion_id)",
        &users,
        &promotions
    )
    .fetch_all(connection)
    .await?;
    let mut applied = AppliedExtensions::default();
    for row in rows {
        let key = (row.user_id, row.promotion_id);
        applied.extensions.insert((key, row.extension_id));
        applied
            .outages
            .extend(row.outage_id.map(|outage_id| (key, outage_id)));
    }
    Ok(applied)
}

/// The columns of a participation that decide.
struct Participation {
    user_id: UserId,
    promotion_id: PromotionId,
    country_code: String,
    status: StatusName,
    started_at: Instant,
    challenge_deadline: Instant,
    completed_at: Option<Instant>,
    reward_deadline: Option<Instant>,
    rewarded_at: Option<Instant>,
    expired_at: Option<Instant>,
    expired_reason: Option<ExpiredReason>,
}

impl Participation {
    fn key(&self) -> ParticipationKey {
        (self.user_id, self.promotion_id)
    }

    fn subject(&self) -> Result<Subject<'_>> {
        Ok(Subject {
            user_id: self.user_id,
            promotion_id: self.promotion_id,
            country_code: &self.country_code,
            started_at: self.started_at,
            status: status_of!(self)?,
            challenge_deadline: self.challenge_deadline,
        })
    }
}

/// The present rows of these participations, in key order.
async fn read(
    connection: &mut PgConnection,
    keys: &[ParticipationKey],
) -> Result<Vec<Participation>> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.iter().copied().unzip();
    Ok(sqlx::query_as!(
        Participation,
        r#"select p.user_id, p.promotion_id, p.country_code, p.status as "status: StatusName", p.started_at, p.challenge_deadline,
                  p.completed_at, p.reward_deadline, p.rewarded_at, p.expired_at, p.expired_reason as "expired_reason: ExpiredReason"
             from promotion_user p
             join unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id) using (user_id, promotion_id)
            order by p.user_id, p.promotion_id"#,
        &users,
        &promotions
    )
    .fetch_all(connection)
    .await?)
}

/// Deadlines that one extension moves, one `Vec` per column. Each makes one event.
#[derive(Default)]
struct MoveColumns {
    users: Vec<UserId>,
    promotions: Vec<PromotionId>,
    from: Vec<Instant>,
    to: Vec<Instant>,
    event_ids: Vec<Uuid>,
}

impl MoveColumns {
    fn push(&mut self, (user_id, promotion_id): ParticipationKey, moved: Move) {
        self.users.push(user_id);
        self.promotions.push(promotion_id);
        self.from.push(moved.from);
        self.to.push(moved.to);
        self.event_ids.push(Uuid::now_v7());
    }

    async fn write(
        &self,
        connection: &mut PgConnection,
        running: &RunningExtension,
        now: Instant,
        by_sweeper: bool,
    ) -> Result<u64> {
        if self.users.is_empty() {
            return Ok(0);
        }
        let status = match running.extension.of {
            DeadlineOf::Challenge => StatusName::InProgress,
            DeadlineOf::Reward => StatusName::Completed,
        };
        let written = sqlx::query!(
            "with extended as (
                 update promotion_user p
                    set challenge_deadline = case when $6 then v.to_deadline else p.challenge_deadline end,
                        reward_deadline = case when $6 then p.reward_deadline else v.to_deadline end,
                        version = p.version + 1, last_event_id = v.event_id, last_event_version = p.version + 1,
                        last_event_type = $8, last_event_previous_status = p.status, last_event_at = $9
                   from unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::uuid[])
                        v (user_id, promotion_id, from_deadline, to_deadline, event_id)
                  where p.user_id = v.user_id and p.promotion_id = v.promotion_id and p.status = $7
              returning p.*, v.from_deadline, v.to_deadline),
             noted as (
                 insert into participation_extension (user_id, promotion_id, extension_id, outage_id, from_deadline, to_deadline,
                                                      version, extended_at, by_sweeper)
                 select user_id, promotion_id, $10, $11, from_deadline, to_deadline, version, $9, $12 from extended)
             insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                       rides_target, further_goals, started_at, challenge_deadline, completed_at, reward_deadline,
                                       reward, occurred_at, extension)
             select last_event_id, last_event_type, user_id, promotion_id, status, last_event_previous_status, version, rides_completed,
                    rides_target, further_goals, started_at, challenge_deadline, completed_at, reward_deadline, reward, last_event_at,
                    jsonb_build_object('of', $13::text, 'from', from_deadline, 'to', to_deadline, 'reason', $14::text)
               from extended order by user_id, promotion_id",
            &self.users,
            &self.promotions,
            &self.from,
            &self.to,
            &self.event_ids,
            running.extension.of == DeadlineOf::Challenge,
            status as StatusName,
            EventType::Extended as EventType,
            now,
            running.extension_id,
            running.outage_id(),
            by_sweeper,
            running.extension.of as DeadlineOf,
            running.reason
        )
        .execute(connection)
        .await?
        .rows_affected();
        must_be_all(
            written,
            self.users.len(),
            "locked participations could be extended",
        )?;
        Ok(written)
    }
}
