//! The rows that a batch writes, a column each.

use chrono::NaiveDate;
use serde_json::Value;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::judging::LockedChallenge;
use super::late;
use crate::domain::Instant;
use crate::domain::participation::{Challenge, Status, StatusName};
use crate::domain::promotion::{Conditions, Judgement, Verdict};
use crate::domain::reminder::ReminderOf;
use crate::domain::ride::{Ride, RideSource};
use crate::store::reminders::Scheduled;
use crate::store::{Result, StoreError, must_be_all};
use crate::wire::promotion_status::EventType;

/// Receipts to be written, a column each.
pub(super) struct Receipts {
    source: RideSource,
    users: Vec<i64>,
    promotions: Vec<i64>,
    rides: Vec<Uuid>,
    months: Vec<NaiveDate>,
    verdicts: Vec<Verdict>,
    completed: Vec<Instant>,
    amounts: Vec<i64>,
    currencies: Vec<String>,
    days: Vec<Option<NaiveDate>>,
    fingerprints: Vec<i64>,
    details: Vec<Option<Value>>,
    distances: Vec<Option<i64>>,
    versions: Vec<Option<i32>>,
    late_rides: Vec<Option<Value>>,
}

impl Receipts {
    /// None yet, of rides that all came this way.
    pub(super) fn new(source: RideSource) -> Self {
        Self {
            source,
            users: Vec::new(),
            promotions: Vec::new(),
            rides: Vec::new(),
            months: Vec::new(),
            verdicts: Vec::new(),
            completed: Vec::new(),
            amounts: Vec::new(),
            currencies: Vec::new(),
            days: Vec::new(),
            fingerprints: Vec::new(),
            details: Vec::new(),
            distances: Vec::new(),
            versions: Vec::new(),
            late_rides: Vec::new(),
        }
    }

    /// `version` is the one that the participation gets by this transaction, where it moves.
    pub(super) fn push(
        &mut self,
        row: &LockedChallenge,
        conditions: &Conditions,
        ride: &Ride,
        Judgement { verdict, details }: Judgement,
        version: Option<i32>,
    ) {
        self.users.push(row.user_id);
        self.promotions.push(row.promotion_id);
        self.rides.push(ride.ride_id);
        self.months.push(row.receipts_month);
        self.verdicts.push(verdict);
        self.completed.push(ride.completed_at);
        self.amounts.push(ride.amount_cents);
        self.currencies.push(ride.currency_code.to_string());
        self.days.push(conditions.day_of(ride));
        self.fingerprints.push(ride.fingerprint());
        self.details.push(details);
        self.distances.push(ride.distance_m);
        self.versions
            .push(version.filter(|_| verdict == Verdict::Counted));
        self.late_rides.push(late::kept(ride, verdict));
    }

    /// A plain insert: a conflict would mean that a ride was judged twice, a bug that must not
    /// commit.
    pub(super) async fn insert(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into ride_receipt (user_id, promotion_id, ride_id, receipts_month, verdict, completed_at, amount_cents,
                                       currency_code, ride_day, fingerprint, details, distance_m, version, late_ride, source,
                                       recorded_at)
             select *, $15::text, $16::timestamptz
               from unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::date[], $5::text[], $6::timestamptz[], $7::bigint[],
                           $8::text[], $9::date[], $10::bigint[], $11::jsonb[], $12::bigint[], $13::int[], $14::jsonb[])",
            &self.users,
            &self.promotions,
            &self.rides,
            &self.months,
            &self.verdicts as &[Verdict],
            &self.completed,
            &self.amounts,
            &self.currencies,
            &self.days as &[Option<NaiveDate>],
            &self.fingerprints,
            &self.details as &[Option<Value>],
            &self.distances as &[Option<i64>],
            &self.versions as &[Option<i32>],
            &self.late_rides as &[Option<Value>],
            self.source as RideSource,
            now
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Participations that moved, a column each; every one makes one event.
#[derive(Default)]
pub(super) struct Changes {
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
    reminders: Scheduled,
}

impl Changes {
    pub(super) fn push(
        &mut self,
        row: &LockedChallenge,
        challenge: &Challenge<'_>,
        traceparent: Option<String>,
        now: Instant,
    ) -> Result<()> {
        let (status, event_type) = if challenge.is_complete() {
            let completed = Status::InProgress.complete(now, challenge.conditions);
            let completed = completed.map_err(|error| StoreError::Corrupt(error.to_string()))?;
            (completed, EventType::Completed)
        } else {
            (Status::InProgress, EventType::Progressed)
        };
        if let Some(completion) = status.completion() {
            self.reminders.push(
                (row.user_id, row.promotion_id),
                challenge.conditions,
                ReminderOf::Reward,
                (completion.completed_at, completion.reward_deadline),
            );
        }
        let fields = status.fields();
        self.users.push(row.user_id);
        self.promotions.push(row.promotion_id);
        self.versions.push(row.version);
        self.rides_completed
            .push(challenge.rides_completed.cast_signed());
        self.statuses.push(fields.status);
        self.completed_at.push(fields.completed_at);
        self.reward_deadlines.push(fields.reward_deadline);
        self.event_types.push(event_type);
        self.traceparents.push(traceparent);
        self.event_ids.push(Uuid::now_v7());
        Ok(())
    }

    /// Updates the participations and puts the state that results into the outbox, in one
    /// statement, so that what did not change never leaves Postgres.
    pub(super) async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
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
                  where p.user_id = v.user_id and p.promotion_id = v.promotion_id
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
        .execute(&mut *connection)
        .await?
        .rows_affected();
        must_be_all(
            written,
            self.users.len(),
            "locked participations could be updated",
        )?;
        self.reminders.write(connection).await
    }
}
