//! The participations that a batch changes, a column each, with the events.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;
use sqlx::postgres::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::judging::LockedChallenge;
use crate::domain::goals::{FurtherGoals, Tally};
use crate::domain::participation::{Challenge, DeadlineOf, Status, StatusFields, StatusName};
use crate::domain::{Instant, PromotionId, UserId};
use crate::store::outbox::packet;
use crate::store::progress_feed::{self, Progressed};
use crate::store::reminders::ReminderWindows;
use crate::store::{Result, StoreError, must_be_all};
use crate::wire::promotion_status::EventType;

/// Where the challenge stands after its records, and what is told of it.
fn standing(challenge: &Challenge<'_>, now: Instant) -> Result<(StatusFields, EventType)> {
    if !challenge.is_complete() {
        return Ok((Status::InProgress.fields(), EventType::Progressed));
    }
    let completed = Status::InProgress
        .complete(now, challenge.conditions)
        .map_err(|error| StoreError::Corrupt(error.to_string()))?;
    Ok((completed.fields(), EventType::Completed))
}

fn rides_completed(challenge: &Challenge<'_>) -> i32 {
    challenge
        .conditions
        .rides_completed(&challenge.tally)
        .cast_signed()
}

/// How progress gets into the outbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outbox {
    /// Each event in a row, which the release before can read.
    Rows,
    /// Many events in a row.
    Packets,
}

/// What became of participations whose rides were judged or reversed: their rows, events, counts of days
/// and reminders.
pub(super) struct Moves {
    outbox: Outbox,
    progress: Progress,
    changes: Changes,
    goal_changes: GoalChanges,
    packed: Vec<packet::Progressed>,
    days: DayCounts,
    reminders: ReminderWindows,
    told: Vec<Progressed>,
}

impl Moves {
    /// None yet.
    pub(super) fn new(outbox: Outbox) -> Self {
        Self {
            outbox,
            progress: Progress::default(),
            changes: Changes::default(),
            goal_changes: GoalChanges::default(),
            packed: Vec::new(),
            days: DayCounts::default(),
            reminders: ReminderWindows::default(),
            told: Vec::new(),
        }
    }

    /// A ride of this day counts now, or no longer does.
    pub(super) fn note_day(&mut self, row: &LockedChallenge, day: Option<NaiveDate>) {
        self.days.note(row, day);
    }

    /// The challenge as it is now; `before` is what had counted before.
    pub(super) fn push(
        &mut self,
        row: &LockedChallenge,
        challenge: &Challenge<'_>,
        before: &Tally,
        traceparent: Option<String>,
        now: Instant,
    ) -> Result<()> {
        self.days.fill(row, &challenge.counted_per_day);
        if challenge.tally == *before {
            return Ok(());
        }
        if challenge.is_complete() {
            let deadline = now + challenge.conditions.claim_period.delta();
            let window = (now, deadline);
            self.reminders
                .push(row.key(), challenge.conditions, DeadlineOf::Reward, window);
        }
        let has_changed = challenge.conditions.tells_apart(before, &challenge.tally);
        let is_packed = self.outbox == Outbox::Packets && !challenge.is_complete();
        let event_id = has_changed.then(Uuid::now_v7);
        if let Some(event_id) = event_id.filter(|_| is_packed) {
            self.packed.push(packet::Progressed {
                event_id,
                user_id: row.user_id,
                promotion_id: row.promotion_id,
                version: row.version + 1,
                rides_completed: rides_completed(challenge),
                rides_target: row.rides_target,
                further_goals: challenge.conditions.further_goals(&challenge.tally),
                started_at: row.started_at,
                challenge_deadline: row.challenge_deadline,
                reward: row.reward.clone(),
                traceparent: traceparent.clone(),
            });
        }
        // One more than are told shows that there are too many; a large batch keeps no others.
        if has_changed && self.told.len() <= progress_feed::MAX_KEYS {
            self.told.push(Progressed {
                key: row.key(),
                traceparent: traceparent.clone(),
            });
        }
        if row.keeps_more() {
            let change = (event_id, is_packed);
            self.goal_changes
                .push(row, challenge, change, traceparent, now)
        } else if let Some(event_id) = event_id {
            if is_packed {
                self.progress.push(row, challenge, event_id);
                return Ok(());
            }
            self.changes
                .push(row, challenge, event_id, traceparent, now)
        } else {
            // One ride came and another was taken back: the number of rides is what it was, and nothing
            // else is kept.
            Ok(())
        }
    }

    /// Each kind in a statement of its own, where there is any of it.
    pub(super) async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        self.days.write(connection).await?;
        self.progress.write(connection, now).await?;
        self.changes.write(connection, now).await?;
        self.goal_changes.write(connection, now).await?;
        packet::write(connection, &self.packed, now).await?;
        self.reminders.write(connection).await?;
        progress_feed::notify(connection, &self.told).await
    }
}

/// Participations without further goals that moved and stay in progress, a column each. Their events
/// are in packets.
#[derive(Default)]
struct Progress {
    users: Vec<i64>,
    promotions: Vec<i64>,
    versions: Vec<i32>,
    rides_completed: Vec<i32>,
    event_ids: Vec<Uuid>,
}

impl Progress {
    fn push(&mut self, row: &LockedChallenge, challenge: &Challenge<'_>, event_id: Uuid) {
        self.users.push(row.user_id);
        self.promotions.push(row.promotion_id);
        self.versions.push(row.version);
        self.rides_completed.push(rides_completed(challenge));
        self.event_ids.push(event_id);
    }

    /// Sets no more columns than change: the others cost, and so do the triggers on them.
    ///
    /// `promotion_id + 0`, here and below: the client is what a row is found by. Where a table is new and
    /// has no statistics the planner may prefer the index by promotion, and read all its participations
    /// for each client.
    async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        let written = sqlx::query!(
            "update promotion_user p
                set rides_completed = v.rides_completed, version = p.version + 1,
                    last_event_id = v.event_id, last_event_version = p.version + 1, last_event_type = $6,
                    last_event_previous_status = $7, last_event_at = $8
               from unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::uuid[])
                    v (user_id, promotion_id, version, rides_completed, event_id)
              where p.user_id = v.user_id and p.promotion_id + 0 = v.promotion_id
                and p.status = 'IN_PROGRESS' and p.version = v.version",
            &self.users,
            &self.promotions,
            &self.versions,
            &self.rides_completed,
            &self.event_ids,
            EventType::Progressed as EventType,
            StatusName::InProgress as StatusName,
            now
        )
        .execute(connection)
        .await?
        .rows_affected();
        must_be_all(
            written,
            self.users.len(),
            "locked participations could be updated",
        )
    }
}

/// Participations without further goals that moved, a column each; every one makes one event in a row
/// of its own.
#[derive(Default)]
struct Changes {
    users: Vec<i64>,
    promotions: Vec<i64>,
    versions: Vec<i32>,
    rides_completed: Vec<i32>,
    statuses: Vec<StatusName>,
    completed_at: Vec<Option<Instant>>,
    reward_deadlines: Vec<Option<Instant>>,
    event_types: Vec<EventType>,
    traceparents: Vec<Option<String>>,
    event_ids: Vec<Uuid>,
}

impl Changes {
    fn push(
        &mut self,
        row: &LockedChallenge,
        challenge: &Challenge<'_>,
        event_id: Uuid,
        traceparent: Option<String>,
        now: Instant,
    ) -> Result<()> {
        let (fields, event_type) = standing(challenge, now)?;
        self.users.push(row.user_id);
        self.promotions.push(row.promotion_id);
        self.versions.push(row.version);
        self.rides_completed.push(rides_completed(challenge));
        self.statuses.push(fields.status);
        self.completed_at.push(fields.completed_at);
        self.reward_deadlines.push(fields.reward_deadline);
        self.event_types.push(event_type);
        self.traceparents.push(traceparent);
        self.event_ids.push(event_id);
        Ok(())
    }

    /// Updates the participations and puts the state that results into the outbox, in one
    /// statement, so that what did not change never leaves Postgres.
    async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        let written = sqlx::query!(
            "with changed as (
                 update promotion_user p
                    set rides_completed = v.rides_completed, version = p.version + 1, status = v.status,
                        completed_at = v.completed_at, reward_deadline = v.reward_deadline,
                        last_event_id = v.event_id, last_event_version = p.version + 1, last_event_type = v.event_type,
                        last_event_previous_status = $11, last_event_at = $12
                   from unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::text[], $6::timestamptz[],
                               $7::timestamptz[], $8::text[], $9::text[], $10::uuid[])
                        v (user_id, promotion_id, version, rides_completed, status, completed_at, reward_deadline, event_type,
                           traceparent, event_id)
                  where p.user_id = v.user_id and p.promotion_id + 0 = v.promotion_id
                    and p.status = 'IN_PROGRESS' and p.version = v.version
              returning p.*, v.traceparent)
             insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                       rides_target, started_at, challenge_deadline, completed_at, reward_deadline, reward,
                                       occurred_at, traceparent)
             select last_event_id, last_event_type, user_id, promotion_id, status, last_event_previous_status, version, rides_completed,
                    rides_target, started_at, challenge_deadline, completed_at, reward_deadline, reward, last_event_at, traceparent
               from changed",
            &self.users,
            &self.promotions,
            &self.versions,
            &self.rides_completed,
            &self.statuses as &[StatusName],
            &self.completed_at as &[Option<Instant>],
            &self.reward_deadlines as &[Option<Instant>],
            &self.event_types as &[EventType],
            &self.traceparents as &[Option<String>],
            &self.event_ids,
            StatusName::InProgress as StatusName,
            now
        )
        .execute(connection)
        .await?
        .rows_affected();
        must_be_all(
            written,
            self.users.len(),
            "locked participations could be updated",
        )
    }
}

/// Participations of which more is kept than `rides_completed`, a column each. Those without an event
/// id have changed in nothing that is told.
#[derive(Default)]
struct GoalChanges {
    users: Vec<i64>,
    promotions: Vec<i64>,
    versions: Vec<i32>,
    rides_completed: Vec<i32>,
    further_goals: Vec<Option<Json<FurtherGoals>>>,
    rides_counted: Vec<Option<i32>>,
    days_counted: Vec<Option<i32>>,
    amounts_counted: Vec<Option<String>>,
    statuses: Vec<StatusName>,
    completed_at: Vec<Option<Instant>>,
    reward_deadlines: Vec<Option<Instant>>,
    event_types: Vec<EventType>,
    traceparents: Vec<Option<String>>,
    event_ids: Vec<Option<Uuid>>,
    are_packed: Vec<bool>,
}

impl GoalChanges {
    fn push(
        &mut self,
        row: &LockedChallenge,
        challenge: &Challenge<'_>,
        (event_id, is_packed): (Option<Uuid>, bool),
        traceparent: Option<String>,
        now: Instant,
    ) -> Result<()> {
        let (fields, event_type) = standing(challenge, now)?;
        let tally = &challenge.tally;
        self.users.push(row.user_id);
        self.promotions.push(row.promotion_id);
        self.versions.push(row.version);
        self.rides_completed.push(rides_completed(challenge));
        self.further_goals
            .push(challenge.conditions.further_goals(tally).map(Json));
        self.rides_counted
            .push(row.rides_counted.map(|_| tally.rides.cast_signed()));
        self.days_counted
            .push(row.days_counted.map(|_| tally.days.cast_signed()));
        self.amounts_counted.push(
            row.amount_counted
                .as_ref()
                .map(|_| tally.amount_cents.to_string()),
        );
        self.statuses.push(fields.status);
        self.completed_at.push(fields.completed_at);
        self.reward_deadlines.push(fields.reward_deadline);
        self.event_types.push(event_type);
        self.traceparents.push(traceparent);
        self.event_ids.push(event_id);
        self.are_packed.push(is_packed);
        Ok(())
    }

    /// As [`Changes::write`]. A change that clients are not told makes neither a version nor an event.
    async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        let changed = sqlx::query_scalar!(
            r#"with changed as (
                 update promotion_user p
                    set rides_completed = v.rides_completed, further_goals = v.further_goals, rides_counted = v.rides_counted,
                        days_counted = v.days_counted, amount_counted = v.amount_counted::numeric,
                        status = v.status, completed_at = v.completed_at, reward_deadline = v.reward_deadline,
                        version = p.version + (v.event_id is not null)::int,
                        last_event_id = coalesce(v.event_id, p.last_event_id),
                        last_event_version = case when v.event_id is null then p.last_event_version else p.version + 1 end,
                        last_event_type = case when v.event_id is null then p.last_event_type else v.event_type end,
                        last_event_previous_status = case when v.event_id is null then p.last_event_previous_status else $15 end,
                        last_event_at = case when v.event_id is null then p.last_event_at else $16 end
                   from unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::jsonb[], $6::int[], $7::int[], $8::text[],
                               $9::text[], $10::timestamptz[], $11::timestamptz[], $12::text[], $13::text[], $14::uuid[], $17::bool[])
                        v (user_id, promotion_id, version, rides_completed, further_goals, rides_counted, days_counted,
                           amount_counted, status, completed_at, reward_deadline, event_type, traceparent, event_id, is_packed)
                  where p.user_id = v.user_id and p.promotion_id + 0 = v.promotion_id
                    and p.status = 'IN_PROGRESS' and p.version = v.version
              returning p.*, v.traceparent, v.event_id is not null and not v.is_packed as has_row),
             told as (
             insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                       rides_target, further_goals, started_at, challenge_deadline, completed_at, reward_deadline,
                                       reward, occurred_at, traceparent)
             select last_event_id, last_event_type, user_id, promotion_id, status, last_event_previous_status, version, rides_completed,
                    rides_target, further_goals, started_at, challenge_deadline, completed_at, reward_deadline, reward, last_event_at,
                    traceparent
               from changed where has_row)
             select count(*) as "changed!" from changed"#,
            &self.users,
            &self.promotions,
            &self.versions,
            &self.rides_completed,
            &self.further_goals as &[Option<Json<FurtherGoals>>],
            &self.rides_counted as &[Option<i32>],
            &self.days_counted as &[Option<i32>],
            &self.amounts_counted as &[Option<String>],
            &self.statuses as &[StatusName],
            &self.completed_at as &[Option<Instant>],
            &self.reward_deadlines as &[Option<Instant>],
            &self.event_types as &[EventType],
            &self.traceparents as &[Option<String>],
            &self.event_ids as &[Option<Uuid>],
            StatusName::InProgress as StatusName,
            now,
            &self.are_packed
        )
        .fetch_one(connection)
        .await?;
        must_be_all(
            changed.unsigned_abs(),
            self.users.len(),
            "locked participations could be updated",
        )
    }
}

/// How many rides count on the days that a batch has changed, where that is kept.
#[derive(Default)]
struct DayCounts(BTreeMap<(UserId, PromotionId, NaiveDate), u32>);

impl DayCounts {
    /// The rides of this day change.
    fn note(&mut self, row: &LockedChallenge, day: Option<NaiveDate>) {
        if let (Some(_), Some(day)) = (row.days_counted, day) {
            self.0.insert((row.user_id, row.promotion_id, day), 0);
        }
    }

    /// To these counts.
    fn fill(&mut self, row: &LockedChallenge, counted: &HashMap<NaiveDate, u32>) {
        if row.days_counted.is_none() {
            return;
        }
        let (user_id, promotion_id) = (row.user_id, row.promotion_id);
        for (day, counted) in counted {
            if let Some(noted) = self.0.get_mut(&(user_id, promotion_id, *day)) {
                *noted = *counted;
            }
        }
    }

    async fn write(&self, connection: &mut PgConnection) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let users: Vec<UserId> = self.0.keys().map(|key| key.0).collect();
        let promotions: Vec<PromotionId> = self.0.keys().map(|key| key.1).collect();
        let days: Vec<NaiveDate> = self.0.keys().map(|key| key.2).collect();
        let counted: Vec<i32> = self.0.values().map(|count| count.cast_signed()).collect();
        sqlx::query!(
            "insert into participation_day (user_id, promotion_id, day, counted)
             select * from unnest($1::bigint[], $2::bigint[], $3::date[], $4::int[])
             on conflict (user_id, promotion_id, day) do update set counted = excluded.counted",
            &users,
            &promotions,
            &days,
            &counted
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
