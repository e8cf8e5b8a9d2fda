//! Judging again the rides that came too late for a deadline which has been moved since.

use std::collections::{BTreeMap, HashMap};

use chrono::NaiveDate;
use serde_json::{Value, json};
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::changes::{Moves, Outbox};
use super::judging::{LockedChallenge, Terms};
use super::recorded::{Key, WantedDays};
use crate::domain::participation::{Challenge, RideOutcome, StatusName};
use crate::domain::promotion::Conditions;
use crate::domain::ride::Ride;
use crate::domain::verdict::{Judgement, Verdict};
use crate::domain::{Instant, UserId};
use crate::store::{Result, StoreError, must_be_all};

/// What a receipt keeps of a ride that was too late, beside its other columns. `place` is its place among the
/// receipts that are recorded together.
pub(super) fn kept(ride: &Ride, verdict: Verdict, place: usize) -> Option<Value> {
    (verdict == Verdict::AfterDeadline).then(|| {
        json!({ "country_code": ride.country_code, "city_id": ride.city_id, "service_type": ride.service_type,
            "place": place })
    })
}

/// A receipt to be judged again.
struct Late {
    user_id: UserId,
    promotion_id: i64,
    ride_id: Uuid,
    completed_at: Instant,
    amount_cents: i64,
    currency_code: String,
    distance_m: Option<i64>,
    late_ride: Option<Value>,
}

impl Late {
    /// The ride as it came; `None` where the receipt does not say enough to judge it by these
    /// conditions, because a release before 0.2.0 wrote it.
    fn ride(&self, conditions: &Conditions) -> Result<Option<Ride>> {
        let corrupt =
            |what: &str| StoreError::Corrupt(format!("receipt of ride {}: {what}", self.ride_id));
        let currency_code = self.currency_code.parse();
        let mut ride = Ride::new(
            self.ride_id,
            self.user_id,
            self.completed_at,
            self.amount_cents,
            currency_code.map_err(|_| corrupt("currency_code"))?,
        );
        ride.distance_m = self.distance_m;
        let Some(kept) = &self.late_ride else {
            return Ok((!conditions.narrows_by_place_or_service()).then_some(ride));
        };
        if let Some(country) = kept["country_code"].as_str() {
            ride.country_code = Some(country.parse().map_err(|_| corrupt("country_code"))?);
        }
        ride.city_id = kept["city_id"].as_i64();
        ride.service_type = kept["service_type"].as_str().map(Into::into);
        Ok(Some(ride))
    }
}

/// Judges the `AFTER_DEADLINE` receipts of these participations whose rides were completed before the
/// present deadline, in the order in which they were recorded. What counts moves the participation
/// and makes its event, as if the ride came now; the receipt keeps when it was recorded. Rides after
/// the one that completes the challenge keep their verdict. The caller holds the row locks.
pub(in crate::store) async fn judge_late_again(
    connection: &mut PgConnection,
    keys: &[Key],
    now: Instant,
) -> Result<()> {
    if keys.is_empty() {
        return Ok(());
    }
    let (users, promotions): (Vec<i64>, Vec<i64>) = keys.iter().copied().unzip();
    let locked = sqlx::query_as!(
        LockedChallenge,
        r#"select user_id, promotion_id, terms_id, version, rides_completed, rides_target, reward::text as "reward!", started_at,
                challenge_deadline, receipts_month, rides_counted, days_counted, amount_counted::text
           from promotion_user
          where (user_id, promotion_id) in (select * from unnest($1::bigint[], $2::bigint[])) and status = $3
          order by user_id, promotion_id"#,
        &users,
        &promotions,
        StatusName::InProgress as StatusName
    )
    .fetch_all(&mut *connection)
    .await?;
    let mut late = read_late(connection, &locked).await?;
    if late.is_empty() {
        return Ok(());
    }
    let mut terms = Terms::default();
    terms
        .load(connection, locked.iter().map(|row| row.terms_id))
        .await?;
    let mut days = WantedDays::default();
    for row in &locked {
        let conditions = terms.get(row.terms_id)?;
        for receipt in late.get(&row.key()).into_iter().flatten() {
            let ride = receipt.ride(&conditions)?;
            days.want(row, ride.and_then(|ride| conditions.day_of(&ride)));
        }
    }
    let mut counted_per_day = days.read(connection).await?;
    let mut judged = Judged::default();
    let mut moves = Moves::new(Outbox::Rows);
    for row in &locked {
        let conditions = terms.get(row.terms_id)?;
        let mut challenge = Challenge {
            conditions: &conditions,
            started_at: row.started_at,
            challenge_deadline: row.challenge_deadline,
            tally: row.tally()?,
            // Each is judged once, and no other ride is.
            recorded: HashMap::new(),
            counted_per_day: counted_per_day.remove(&row.key()).unwrap_or_default(),
        };
        let before = challenge.tally;
        for receipt in late.remove(&row.key()).unwrap_or_default() {
            let Some(ride) = receipt.ride(&conditions)? else {
                continue;
            };
            if let RideOutcome::Judged {
                judgement,
                day,
                moved,
            } = challenge.take(&ride)
            {
                if judgement.verdict == Verdict::Counted {
                    moves.note_day(row, day);
                }
                let version = moved.then_some(row.version + 1);
                judged.push(row, receipt.ride_id, judgement, day, version);
            }
        }
        moves.push(row, &challenge, &before, None, now)?;
    }
    judged.write(connection).await?;
    moves.write(connection, now).await
}

async fn read_late(
    connection: &mut PgConnection,
    locked: &[LockedChallenge],
) -> Result<BTreeMap<Key, Vec<Late>>> {
    let users: Vec<_> = locked.iter().map(|row| row.user_id).collect();
    let promotions: Vec<_> = locked.iter().map(|row| row.promotion_id).collect();
    let months: Vec<_> = locked.iter().map(|row| row.receipts_month).collect();
    let deadlines: Vec<_> = locked.iter().map(|row| row.challenge_deadline).collect();
    // Of rides that were recorded together before their places were kept, the order of completion is the likely one.
    let rows = sqlx::query_as!(
        Late,
        r#"select r.user_id, r.promotion_id, r.ride_id, r.completed_at as "completed_at!", r.amount_cents as "amount_cents!",
                  r.currency_code as "currency_code!", r.distance_m,
                  r.late_ride
             from unnest($1::bigint[], $2::bigint[], $3::date[], $4::timestamptz[])
                  v (user_id, promotion_id, receipts_month, deadline)
             join ride_receipt r using (user_id, promotion_id, receipts_month)
            where r.verdict = $5 and r.completed_at < v.deadline
            order by r.user_id, r.promotion_id, r.recorded_at, (r.late_ride ->> 'place')::bigint, r.completed_at, r.ride_id"#,
        &users,
        &promotions,
        &months,
        &deadlines,
        Verdict::AfterDeadline as Verdict
    )
    .fetch_all(connection)
    .await?;
    let mut late: BTreeMap<Key, Vec<Late>> = BTreeMap::new();
    for row in rows {
        let key = (row.user_id, row.promotion_id);
        late.entry(key).or_default().push(row);
    }
    Ok(late)
}

/// Receipts that get another verdict, a column each.
#[derive(Default)]
struct Judged {
    users: Vec<i64>,
    promotions: Vec<i64>,
    months: Vec<NaiveDate>,
    rides: Vec<Uuid>,
    verdicts: Vec<Verdict>,
    details: Vec<Option<Value>>,
    days: Vec<Option<NaiveDate>>,
    versions: Vec<Option<i32>>,
}

impl Judged {
    fn push(
        &mut self,
        row: &LockedChallenge,
        ride_id: Uuid,
        Judgement { verdict, details }: Judgement,
        day: Option<NaiveDate>,
        version: Option<i32>,
    ) {
        self.users.push(row.user_id);
        self.promotions.push(row.promotion_id);
        self.months.push(row.receipts_month);
        self.rides.push(ride_id);
        self.verdicts.push(verdict);
        self.details.push(details);
        self.days.push(day);
        self.versions.push(version);
    }

    async fn write(&self, connection: &mut PgConnection) -> Result<()> {
        if self.users.is_empty() {
            return Ok(());
        }
        let written = sqlx::query!(
            "update ride_receipt r set verdict = v.verdict, details = v.details, version = v.version, ride_day = v.ride_day,
                                       late_ride = null
               from unnest($1::bigint[], $2::bigint[], $3::date[], $4::uuid[], $5::text[], $6::jsonb[], $7::int[], $9::date[])
                    v (user_id, promotion_id, receipts_month, ride_id, verdict, details, version, ride_day)
              where r.user_id = v.user_id and r.promotion_id = v.promotion_id and r.receipts_month = v.receipts_month
                and r.ride_id = v.ride_id and r.verdict = $8",
            &self.users,
            &self.promotions,
            &self.months,
            &self.rides,
            &self.verdicts as &[Verdict],
            &self.details as &[Option<Value>],
            &self.versions as &[Option<i32>],
            Verdict::AfterDeadline as Verdict,
            &self.days as &[Option<NaiveDate>]
        )
        .execute(connection)
        .await?
        .rows_affected();
        must_be_all(
            written,
            self.users.len(),
            "late receipts could be judged again",
        )
    }
}
