//! What must be known of a challenge's past to judge the rides of a batch. Neither grows with the
//! rides already recorded.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::NaiveDate;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::judging::{LockedChallenge, Work};
use crate::domain::participation::RecordedRide;
use crate::domain::ride::RideRecord;
use crate::domain::verdict::Verdict;
use crate::domain::{PromotionId, UserId};
use crate::store::Result;

pub(super) type Key = (UserId, PromotionId);

/// Recorded rides of each participation.
pub(super) type RecordedRides = HashMap<Key, HashMap<Uuid, RecordedRide>>;

/// How many rides count per local day, of each participation.
pub(super) type CountedPerDay = HashMap<Key, HashMap<NaiveDate, u32>>;

/// Which of the rides are recorded already, with what was decided.
pub(super) async fn read_recorded(
    connection: &mut PgConnection,
    work: &[Work<'_>],
) -> Result<RecordedRides> {
    let mut by_month: BTreeMap<NaiveDate, RideKeys> = BTreeMap::new();
    for work in work {
        let keys = by_month.entry(work.row.receipts_month).or_default();
        for incoming in work.records {
            keys.users.push(work.row.user_id);
            keys.promotions.push(work.row.promotion_id);
            keys.rides.push(incoming.record.ride_id());
        }
    }
    let mut recorded = RecordedRides::new();
    // A month at a time, of which a batch has one or two: so the one partition is found once, and not
    // for each ride.
    for (month, keys) in by_month {
        // A probe of the key for each ride, whatever the planner thinks of the table: the plan is made
        // once, perhaps while the table is empty, and any other reads all of it for each batch.
        let rows = sqlx::query!(
            r#"select v.user_id as "user_id!", v.promotion_id as "promotion_id!", v.ride_id as "ride_id!", r.fingerprint,
                      r.verdict as "verdict: Verdict", r.amount_cents, r.ride_day
                 from unnest($2::bigint[], $3::bigint[], $4::uuid[]) v (user_id, promotion_id, ride_id)
                cross join lateral (
                      select fingerprint, verdict, amount_cents, ride_day from ride_receipt r
                       where r.user_id = v.user_id and r.promotion_id = v.promotion_id and r.ride_id = v.ride_id
                         and r.receipts_month = $1
                      offset 0) r"#,
            month,
            &keys.users,
            &keys.promotions,
            &keys.rides
        )
        .fetch_all(&mut *connection)
        .await?;
        for row in rows {
            recorded
                .entry((row.user_id, row.promotion_id))
                .or_default()
                .insert(
                    row.ride_id,
                    RecordedRide {
                        fingerprint: row.fingerprint,
                        verdict: row.verdict,
                        amount_cents: row.amount_cents.unwrap_or(0),
                        day: row.ride_day,
                    },
                );
        }
    }
    Ok(recorded)
}

/// Rides to be looked up, a column each.
#[derive(Default)]
struct RideKeys {
    users: Vec<UserId>,
    promotions: Vec<PromotionId>,
    rides: Vec<Uuid>,
}

/// A day of a participation, with the month of its receipts.
type Day = (UserId, PromotionId, NaiveDate, NaiveDate);

/// Days of which it is asked how many rides count.
#[derive(Default)]
pub(super) struct WantedDays {
    /// Of participations whose counts are in `participation_day`.
    kept: BTreeSet<Day>,
    /// Of those that were started before days were kept.
    from_receipts: BTreeSet<Day>,
}

impl WantedDays {
    pub(super) fn want(&mut self, row: &LockedChallenge, day: Option<NaiveDate>) {
        let wanted = match row.days_counted {
            Some(_) => &mut self.kept,
            None => &mut self.from_receipts,
        };
        wanted.extend(day.map(|day| (row.user_id, row.promotion_id, row.receipts_month, day)));
    }

    /// The counts; a day without one has none.
    pub(super) async fn read(self, connection: &mut PgConnection) -> Result<CountedPerDay> {
        let mut counted = CountedPerDay::new();
        if !self.kept.is_empty() {
            let (users, promotions, _, days) = columns(&self.kept);
            let rows = sqlx::query!(
                "select d.user_id, d.promotion_id, d.day, d.counted
                   from unnest($1::bigint[], $2::bigint[], $3::date[]) v (user_id, promotion_id, day)
                   join participation_day d using (user_id, promotion_id, day)",
                &users,
                &promotions,
                &days
            )
            .fetch_all(&mut *connection)
            .await?;
            for row in rows {
                counted
                    .entry((row.user_id, row.promotion_id))
                    .or_default()
                    .insert(row.day, row.counted.cast_unsigned());
            }
        }
        if !self.from_receipts.is_empty() {
            let (users, promotions, months, days) = columns(&self.from_receipts);
            let rows = sqlx::query!(
                r#"select r.user_id, r.promotion_id, r.ride_day as "ride_day!", count(*) as "counted!"
                     from unnest($1::bigint[], $2::bigint[], $3::date[], $4::date[]) v (user_id, promotion_id, receipts_month, ride_day)
                     join ride_receipt r using (user_id, promotion_id, receipts_month, ride_day)
                    where r.verdict = $5
                    group by r.user_id, r.promotion_id, r.ride_day"#,
                &users,
                &promotions,
                &months,
                &days,
                Verdict::Counted as Verdict
            )
            .fetch_all(connection)
            .await?;
            for row in rows {
                counted
                    .entry((row.user_id, row.promotion_id))
                    .or_default()
                    .insert(row.ride_day, u32::try_from(row.counted).unwrap_or(u32::MAX));
            }
        }
        Ok(counted)
    }
}

/// How many rides count on the days of these rides, and of those that are reversed, where the
/// conditions count days.
pub(super) async fn read_counted_per_day(
    connection: &mut PgConnection,
    work: &[Work<'_>],
    recorded: &RecordedRides,
) -> Result<CountedPerDay> {
    let mut wanted = WantedDays::default();
    for work in work.iter().filter(|work| work.conditions.counts_days()) {
        let recorded = recorded.get(&work.row.key());
        for incoming in work.records {
            let day = match &incoming.record {
                RideRecord::Completed(ride) => work.conditions.day_of(ride),
                RideRecord::Reversed(reversal) => recorded
                    .and_then(|recorded| recorded.get(&reversal.ride_id))
                    .and_then(|ride| ride.day),
            };
            wanted.want(&work.row, day);
        }
    }
    wanted.read(connection).await
}

fn columns(
    days: &BTreeSet<Day>,
) -> (
    Vec<UserId>,
    Vec<PromotionId>,
    Vec<NaiveDate>,
    Vec<NaiveDate>,
) {
    (
        days.iter().map(|day| day.0).collect(),
        days.iter().map(|day| day.1).collect(),
        days.iter().map(|day| day.2).collect(),
        days.iter().map(|day| day.3).collect(),
    )
}
