//! Reminders before deadlines. A row beside each participation says when to look at it; the participation's row lock
//! guards it. A due reminder goes into the outbox in the transaction that marks its lead as done, so each is
//! published once, also after a crash (contract 2, "Deadlines and exceptions").

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::extensions::{self, Moment};
use super::state::status_of;
use super::{Result, Store, StoreError, identity, must_be_all};
use crate::domain::goals::{self, FurtherGoals, Goal, GoalProgress};
use crate::domain::participation::{DeadlineOf, ExpiredReason, Status, StatusName};
use crate::domain::promotion::Conditions;
use crate::domain::reminder::{Done, look};
use crate::domain::reward::Reward;
use crate::domain::{Instant, ParticipationKey, PromotionId, UserId};
use crate::wire::reminder::{Reminder, ReminderType};

/// The result of one batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RemindedBatch {
    /// Participations that were examined.
    pub looked_at: u64,
    /// Reminders that were put into the outbox.
    pub recorded: u64,
}

/// Participations that get a window in which reminders may become due.
#[derive(Debug, Default)]
pub(super) struct ReminderWindows {
    users: Vec<UserId>,
    promotions: Vec<PromotionId>,
    next_at: Vec<Instant>,
}

impl ReminderWindows {
    /// Adds a participation whose window before `deadline` begins at `began_at`, if its conditions have reminders
    /// for that deadline.
    pub(super) fn push(
        &mut self,
        (user_id, promotion_id): ParticipationKey,
        conditions: &Conditions,
        of: DeadlineOf,
        (began_at, deadline): (Instant, Instant),
    ) {
        let Some(reminders) = &conditions.reminders else {
            return;
        };
        // No lead is done yet. The next look finds again which leads never become due.
        let mut done = Done::default();
        let window = (began_at, deadline);
        let first = look(reminders.leads(of), of, &mut done, window, began_at);
        if let Some(next_at) = first.next_at {
            self.users.push(user_id);
            self.promotions.push(promotion_id);
            self.next_at.push(next_at);
        }
    }

    /// Writes when to look. The caller holds the participations' row locks.
    pub(super) async fn write(&self, connection: &mut PgConnection) -> Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into participation_reminder (user_id, promotion_id, next_at)
             select * from unnest($1::bigint[], $2::bigint[], $3::timestamptz[])
             on conflict (user_id, promotion_id) do update set next_at = excluded.next_at",
            &self.users,
            &self.promotions,
            &self.next_at
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl Store {
    /// Puts the reminders that are due at `upto`, the database's clock, into the outbox. Looks at no more than
    /// `limit` participations, those that are due longest first.
    pub async fn remind(&self, upto: Instant, limit: i64) -> Result<RemindedBatch> {
        self.run_tx("remind", move |connection| {
            Box::pin(async move {
                identity::ensure_accepted(connection).await?;
                let due = sqlx::query!(
                    "select user_id, promotion_id from participation_reminder
                      where next_at <= $1 order by next_at limit $2",
                    upto,
                    limit
                )
                .fetch_all(&mut *connection)
                .await?;
                let keys: Vec<ParticipationKey> = due
                    .iter()
                    .map(|row| (row.user_id, row.promotion_id))
                    .collect();
                if keys.is_empty() {
                    return Ok(RemindedBatch::default());
                }
                remind(connection, keys).await
            })
        })
        .await
    }

    /// For how many seconds the oldest due look has been waiting; 0 if none is due.
    pub async fn reminders_due_age(&self) -> Result<f64> {
        let age = sqlx::query_scalar!(
            r#"select coalesce(extract(epoch from clock_timestamp() - min(next_at))::float8, 0) as "age!"
                 from participation_reminder where next_at is not null"#
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?;
        Ok(age.max(0.0))
    }
}

/// A locked participation.
struct LockedParticipation {
    user_id: UserId,
    promotion_id: PromotionId,
    promotion_key: String,
    status: Status,
    rides_completed: i32,
    rides_target: i32,
    further_goals: Option<FurtherGoals>,
    started_at: Instant,
    challenge_deadline: Instant,
    reward: Reward,
    conditions: Arc<Conditions>,
}

impl LockedParticipation {
    /// The deadline of the present status, and the window before it; `None` after the end.
    fn window(&self) -> Option<(DeadlineOf, (Instant, Instant))> {
        match self.status {
            Status::InProgress => Some((
                DeadlineOf::Challenge,
                (self.started_at, self.challenge_deadline),
            )),
            Status::Completed(completion) => Some((
                DeadlineOf::Reward,
                (completion.completed_at, completion.reward_deadline),
            )),
            Status::Rewarded { .. } | Status::Expired { .. } => None,
        }
    }

    fn goals(&self) -> Vec<Goal> {
        let rides = GoalProgress {
            completed: self.rides_completed.into(),
            target: self.rides_target.into(),
        };
        goals::told(rides, self.further_goals)
    }
}

async fn remind(
    connection: &mut PgConnection,
    keys: Vec<ParticipationKey>,
) -> Result<RemindedBatch> {
    let mut locked = lock(connection, keys.clone()).await?;
    // After the locks: the status shows whether the client completed, accepted or expired meanwhile, and a deadline
    // that an extension moves is moved before it is judged.
    let Moment { now, is_extending } = extensions::moment(connection).await?;
    if is_extending
        && extensions::apply_running(connection, &keys, now, None)
            .await?
            .all
            > 0
    {
        locked = lock(connection, keys).await?;
    }
    let mut done = marks(connection, &locked).await?;
    let mut looks = LookColumns::default();
    let mut waiting = ReminderColumns::default();
    for row in &locked {
        let key = (row.user_id, row.promotion_id);
        // Another sweeper was faster: it has looked, and has written when to look next.
        let Some(mut done) = done.remove(&key) else {
            continue;
        };
        let reminders = row.conditions.reminders.as_ref();
        let (due, next_at) = match reminders.zip(row.window()) {
            None => (None, None),
            Some((reminders, (of, window))) => {
                let found = look(reminders.leads(of), of, &mut done, window, now);
                let due = found.due.map(|(lead, due_at)| {
                    let reminder = Reminder {
                        event_id: Uuid::now_v7(),
                        event_type: ReminderType::Reminder,
                        of,
                        lead: lead.as_str().to_owned(),
                        deadline: window.1,
                        user_id: row.user_id,
                        promotion_id: row.promotion_id,
                        promotion_key: row.promotion_key.clone(),
                        rides_completed: row.rides_completed,
                        rides_target: row.rides_target,
                        goals: row.goals(),
                        reward: row.reward.clone(),
                        occurred_at: now,
                    };
                    (reminder, due_at)
                });
                (due, found.next_at)
            }
        };
        looks.push(key, next_at, done);
        if let Some((reminder, due_at)) = due {
            waiting.push(reminder, due_at);
        }
    }
    looks.write(connection).await?;
    waiting.write(connection, now).await?;
    Ok(RemindedBatch {
        looked_at: locked.len() as u64,
        recorded: waiting.reminders.len() as u64,
    })
}

/// Locks these participations in key order.
async fn lock(
    connection: &mut PgConnection,
    keys: Vec<ParticipationKey>,
) -> Result<Vec<LockedParticipation>> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.into_iter().unzip();
    let rows = sqlx::query!(
        r#"select p.user_id, p.promotion_id, m.promotion_key, p.terms_id, p.status as "status: StatusName", p.rides_completed,
                  p.rides_target, p.further_goals as "further_goals: Json<FurtherGoals>", p.started_at, p.challenge_deadline, p.completed_at, p.reward_deadline, p.rewarded_at, p.expired_at,
                  p.expired_reason as "expired_reason: ExpiredReason", p.reward as "reward: Json<Reward>"
             from promotion_user p join promotion m using (promotion_id)
            where (p.user_id, p.promotion_id) in (select * from unnest($1::bigint[], $2::bigint[]))
            order by p.user_id, p.promotion_id
              for update of p"#,
        &users,
        &promotions
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut terms_ids: Vec<i64> = rows.iter().map(|row| row.terms_id).collect();
    terms_ids.sort_unstable();
    terms_ids.dedup();
    let terms = sqlx::query!(
        "select terms_id, conditions from promotion_terms where terms_id = any($1)",
        &terms_ids
    )
    .fetch_all(connection)
    .await?;
    let mut conditions = HashMap::with_capacity(terms.len());
    for row in terms {
        conditions.insert(
            row.terms_id,
            Arc::new(frozen(row.terms_id, &row.conditions)?),
        );
    }
    rows.into_iter()
        .map(|row| {
            let missing =
                || StoreError::Corrupt(format!("promotion_terms {} is missing", row.terms_id));
            Ok(LockedParticipation {
                user_id: row.user_id,
                promotion_id: row.promotion_id,
                status: status_of!(row)?,
                promotion_key: row.promotion_key,
                rides_completed: row.rides_completed,
                rides_target: row.rides_target,
                further_goals: row.further_goals.map(|goals| goals.0),
                started_at: row.started_at,
                challenge_deadline: row.challenge_deadline,
                reward: row.reward.0,
                conditions: conditions.get(&row.terms_id).cloned().ok_or_else(missing)?,
            })
        })
        .collect()
}

fn frozen(terms_id: i64, conditions: &Value) -> Result<Conditions> {
    let read = Conditions::from_frozen(conditions);
    let (conditions, _) = read
        .map_err(|errors| StoreError::Corrupt(format!("promotion_terms {terms_id}: {errors:?}")))?;
    Ok(conditions)
}

/// The marks of those locked participations that are still due.
async fn marks(
    connection: &mut PgConnection,
    locked: &[LockedParticipation],
) -> Result<HashMap<ParticipationKey, Done>> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = locked
        .iter()
        .map(|row| (row.user_id, row.promotion_id))
        .unzip();
    let rows = sqlx::query!(
        r#"select user_id, promotion_id, done as "done: Json<Done>" from participation_reminder
            where (user_id, promotion_id) in (select * from unnest($1::bigint[], $2::bigint[]))
              and next_at <= clock_timestamp()"#,
        &users,
        &promotions
    )
    .fetch_all(connection)
    .await?;
    let marks = rows
        .into_iter()
        .map(|row| ((row.user_id, row.promotion_id), row.done.0));
    Ok(marks.collect())
}

/// When to look next, and which leads are done, one `Vec` per column.
#[derive(Default)]
struct LookColumns {
    users: Vec<UserId>,
    promotions: Vec<PromotionId>,
    next_at: Vec<Option<Instant>>,
    done: Vec<Json<Done>>,
}

impl LookColumns {
    fn push(
        &mut self,
        (user_id, promotion_id): ParticipationKey,
        next_at: Option<Instant>,
        done: Done,
    ) {
        self.users.push(user_id);
        self.promotions.push(promotion_id);
        self.next_at.push(next_at);
        self.done.push(Json(done));
    }

    async fn write(&self, connection: &mut PgConnection) -> Result<()> {
        let written = sqlx::query!(
            "update participation_reminder r set next_at = v.next_at, done = v.done
               from unnest($1::bigint[], $2::bigint[], $3::timestamptz[], $4::jsonb[]) v (user_id, promotion_id, next_at, done)
              where r.user_id = v.user_id and r.promotion_id = v.promotion_id",
            &self.users,
            &self.promotions,
            &self.next_at as &[Option<Instant>],
            &self.done as &[Json<Done>]
        )
        .execute(connection)
        .await?;
        must_be_all(
            written.rows_affected(),
            self.users.len(),
            "reminders of locked participations could be marked",
        )
    }
}

/// Reminders for the outbox.
#[derive(Default)]
struct ReminderColumns {
    reminders: Vec<Json<Reminder>>,
    due_at: Vec<Instant>,
}

impl ReminderColumns {
    fn push(&mut self, reminder: Reminder, due_at: Instant) {
        self.reminders.push(Json(reminder));
        self.due_at.push(due_at);
    }

    async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        if self.reminders.is_empty() {
            return Ok(());
        }
        let reminders = || self.reminders.iter().map(|reminder| &reminder.0);
        let event_ids: Vec<Uuid> = reminders().map(|reminder| reminder.event_id).collect();
        let users: Vec<UserId> = reminders().map(|reminder| reminder.user_id).collect();
        let promotions: Vec<PromotionId> =
            reminders().map(|reminder| reminder.promotion_id).collect();
        sqlx::query!(
            "insert into event_outbox (event_id, user_id, promotion_id, occurred_at, reminder, reminder_due_at)
             select event_id, user_id, promotion_id, $6, reminder, due_at
               from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::jsonb[], $5::timestamptz[])
                    v (event_id, user_id, promotion_id, reminder, due_at)",
            &event_ids,
            &users,
            &promotions,
            &self.reminders as &[Json<Reminder>],
            &self.due_at,
            now
        )
        .execute(&mut *connection)
        .await?;
        // For support. The reminder's lead is marked as done in this transaction, so it is not sent a second time.
        let deadlines: Vec<DeadlineOf> = reminders().map(|reminder| reminder.of).collect();
        let leads: Vec<&str> = reminders().map(|reminder| reminder.lead.as_str()).collect();
        let ends: Vec<Instant> = reminders().map(|reminder| reminder.deadline).collect();
        sqlx::query!(
            "insert into participation_reminded (user_id, promotion_id, deadline_of, lead, deadline, sent_at)
             select user_id, promotion_id, deadline_of, lead, deadline, $6
               from unnest($1::bigint[], $2::bigint[], $3::text[], $4::text[], $5::timestamptz[])
                    v (user_id, promotion_id, deadline_of, lead, deadline)",
            &users,
            &promotions,
            &deadlines as &[DeadlineOf],
            &leads as &[&str],
            &ends,
            now
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
