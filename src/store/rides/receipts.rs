//! The receipts that a batch writes, a column each.

use chrono::NaiveDate;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::judging::LockedChallenge;
use super::late;
use crate::domain::Instant;
use crate::domain::ride::{Ride, RideSource};
use crate::domain::verdict::{Judgement, Verdict};
use crate::store::{Result, must_be_all};

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

    /// `day` is the ride's local day where the conditions count days, `version` the one that it made.
    pub(super) fn push(
        &mut self,
        row: &LockedChallenge,
        ride: &Ride,
        Judgement { verdict, details }: Judgement,
        day: Option<NaiveDate>,
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
        self.days.push(day);
        self.fingerprints.push(ride.fingerprint());
        self.details.push(details);
        self.distances.push(ride.distance_m);
        self.versions.push(version);
        let place = self.late_rides.len();
        self.late_rides.push(late::kept(ride, verdict, place));
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

/// Receipts that become `REVERSED`, a column each.
pub(super) struct ReversedReceipts {
    source: RideSource,
    /// Of rides that were recorded, this batch's included.
    recorded: Reversed,
    /// Of rides that were not.
    unseen: Reversed,
}

#[derive(Default)]
struct Reversed {
    users: Vec<i64>,
    promotions: Vec<i64>,
    rides: Vec<Uuid>,
    months: Vec<NaiveDate>,
    details: Vec<Value>,
}

impl ReversedReceipts {
    /// None yet; `source` says how the reversals came.
    pub(super) fn new(source: RideSource) -> Self {
        Self {
            source,
            recorded: Reversed::default(),
            unseen: Reversed::default(),
        }
    }

    /// `before` is the verdict that the ride had, where it was recorded.
    pub(super) fn push(&mut self, row: &LockedChallenge, ride_id: Uuid, before: Option<Verdict>) {
        let columns = match before {
            Some(_) => &mut self.recorded,
            None => &mut self.unseen,
        };
        columns.users.push(row.user_id);
        columns.promotions.push(row.promotion_id);
        columns.rides.push(ride_id);
        columns.months.push(row.receipts_month);
        columns
            .details
            .push(json!({ "required": null, "actual": before }));
    }

    /// Comes after the receipts of this batch, which may be among those that are changed.
    pub(super) async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        if !self.recorded.users.is_empty() {
            let changed = sqlx::query!(
                "update ride_receipt r set verdict = $6, details = v.details, reversed_at = $7
                   from unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::date[], $5::jsonb[])
                        v (user_id, promotion_id, ride_id, receipts_month, details)
                  where r.user_id = v.user_id and r.promotion_id = v.promotion_id and r.ride_id = v.ride_id
                    and r.receipts_month = v.receipts_month",
                &self.recorded.users,
                &self.recorded.promotions,
                &self.recorded.rides,
                &self.recorded.months,
                &self.recorded.details,
                Verdict::Reversed as Verdict,
                now
            )
            .execute(&mut *connection)
            .await?
            .rows_affected();
            must_be_all(
                changed,
                self.recorded.users.len(),
                "recorded rides could be reversed",
            )?;
        }
        if !self.unseen.users.is_empty() {
            sqlx::query!(
                "insert into ride_receipt (user_id, promotion_id, ride_id, receipts_month, details, verdict, source, recorded_at,
                                           reversed_at)
                 select *, $6::text, $7::text, $8::timestamptz, $8
                   from unnest($1::bigint[], $2::bigint[], $3::uuid[], $4::date[], $5::jsonb[])",
                &self.unseen.users,
                &self.unseen.promotions,
                &self.unseen.rides,
                &self.unseen.months,
                &self.unseen.details,
                Verdict::Reversed as Verdict,
                self.source as RideSource,
                now
            )
            .execute(connection)
            .await?;
        }
        Ok(())
    }
}
