//! From rides to receipts, progress and events: what is locked and read, in which order, and the
//! judging by the domain's rules.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::NaiveDate;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::rows::{Changes, Receipts};
use super::{AppliedOne, Carry, Cause, IncomingRide};
use crate::domain::participation::{Challenge, Outcome};
use crate::domain::promotion::{Conditions, Verdict};
use crate::domain::ride::{Ride, RideSource};
use crate::domain::{Instant, PromotionId, UserId};
use crate::store::extensions::{self, Moment};
use crate::store::participations::Receipt;
use crate::store::{Result, StoreError};
use crate::wire::traceparent::Traceparent;

/// How many distinct frozen conditions are kept at hand; more are read again when needed.
const MAX_TERMS: usize = 10_000;

/// Frozen conditions by their row; immutable, so never stale.
#[derive(Debug, Default)]
pub(super) struct Terms(HashMap<i64, Arc<Conditions>>);

impl Terms {
    pub(super) async fn load(
        &mut self,
        connection: &mut PgConnection,
        needed: impl Iterator<Item = i64>,
    ) -> Result<()> {
        if self.0.len() > MAX_TERMS {
            self.0.clear();
        }
        let mut missing: Vec<i64> = needed.filter(|id| !self.0.contains_key(id)).collect();
        missing.sort_unstable();
        missing.dedup();
        if missing.is_empty() {
            return Ok(());
        }
        for row in sqlx::query!(
            "select terms_id, conditions from promotion_terms where terms_id = any($1)",
            &missing
        )
        .fetch_all(connection)
        .await?
        {
            let (conditions, unknown) =
                Conditions::from_frozen(&row.conditions).map_err(|errors| {
                    StoreError::Corrupt(format!("promotion_terms {}: {errors:?}", row.terms_id))
                })?;
            if !unknown.is_empty() {
                tracing::warn!(
                    terms_id = row.terms_id,
                    fields = unknown.join(", "),
                    "frozen conditions have fields that this release does not know: it ignores them"
                );
            }
            self.0.insert(row.terms_id, Arc::new(conditions));
        }
        Ok(())
    }

    pub(super) fn get(&self, terms_id: i64) -> Result<Arc<Conditions>> {
        self.0
            .get(&terms_id)
            .cloned()
            .ok_or_else(|| StoreError::Corrupt(format!("promotion_terms {terms_id} is missing")))
    }
}

/// A participation in progress, its row locked.
pub(super) struct LockedChallenge {
    pub(super) user_id: UserId,
    pub(super) promotion_id: PromotionId,
    pub(super) terms_id: i64,
    pub(super) version: i32,
    pub(super) rides_completed: i32,
    pub(super) started_at: Instant,
    pub(super) challenge_deadline: Instant,
    pub(super) receipts_month: NaiveDate,
}

impl LockedChallenge {
    pub(super) fn key(&self) -> Key {
        (self.user_id, self.promotion_id)
    }
}

/// The challenges of these clients that are in progress, their rows locked in key order.
async fn lock(connection: &mut PgConnection, users: &[UserId]) -> Result<Vec<LockedChallenge>> {
    Ok(sqlx::query_as!(
        LockedChallenge,
        "select user_id, promotion_id, terms_id, version, rides_completed, started_at, challenge_deadline, receipts_month
           from promotion_user
          where user_id = any($1) and status = 'IN_PROGRESS'
          order by user_id, promotion_id
            for update",
        users
    )
    .fetch_all(connection)
    .await?)
}

/// Applies rides, sorted by client, to the challenges that are in progress: locks them in key
/// order, judges what was not recorded before, writes receipts, progress and events. Returns what
/// became of each ride, `None` where its client has no challenge in progress.
pub(super) async fn judge_and_record(
    connection: &mut PgConnection,
    terms: &mut Terms,
    rides: &[&IncomingRide],
    source: RideSource,
    carry: &mut Carry<'_>,
) -> Result<Vec<Option<Outcome>>> {
    let mut users: Vec<UserId> = rides.iter().map(|incoming| incoming.ride.user_id).collect();
    users.dedup();
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let mut locked = lock(connection, &users).await?;
    if locked.is_empty() {
        return Ok(vec![None; rides.len()]);
    }
    // After the locks: what is recorded now may not carry an earlier instant than what the locks
    // were waited for, and no ride is judged by a deadline that was moved.
    let Moment { now, is_extending } = extensions::moment(connection).await?;
    if is_extending {
        let keys: Vec<Key> = locked.iter().map(LockedChallenge::key).collect();
        if extensions::apply_running(connection, &keys, now, None)
            .await?
            .all
            > 0
        {
            locked = lock(connection, &users).await?;
        }
    }
    terms
        .load(connection, locked.iter().map(|row| row.terms_id))
        .await?;

    // A client has at most one live participation (a unique index), so rides and locked rows,
    // both sorted by client, are walked together.
    let mut work: Vec<Work<'_>> = Vec::with_capacity(locked.len());
    let mut next = 0;
    for row in locked {
        while next < rides.len() && rides[next].ride.user_id < row.user_id {
            next += 1;
        }
        let first = next;
        while next < rides.len() && rides[next].ride.user_id == row.user_id {
            next += 1;
        }
        work.push(Work {
            conditions: terms.get(row.terms_id)?,
            row,
            first,
            rides: &rides[first..next],
        });
    }
    let mut recorded = read_recorded(connection, &work).await?;
    let mut counted_per_day = read_counted_per_day(connection, &work).await?;
    let mut outcomes = vec![None; rides.len()];
    let mut receipts = Receipts::new(source);
    let mut judged = Vec::new();
    let mut changes = Changes::default();
    for Work {
        row,
        conditions,
        first,
        rides,
    } in &work
    {
        let key = (row.user_id, row.promotion_id);
        let mut challenge = Challenge {
            conditions,
            started_at: row.started_at,
            challenge_deadline: row.challenge_deadline,
            rides_completed: row.rides_completed.cast_unsigned(),
            recorded: recorded.remove(&key).unwrap_or_default(),
            counted_per_day: counted_per_day.remove(&key).unwrap_or_default(),
        };
        let mut traceparent = None;
        for (place, incoming) in rides.iter().enumerate() {
            let outcome = challenge.take(&incoming.ride);
            if let Outcome::Judged(judgement) = &outcome {
                judged.push((&incoming.ride, judgement.clone()));
                if judgement.verdict == Verdict::Counted {
                    traceparent = incoming.traceparent.as_ref().map(Traceparent::as_str);
                }
            }
            outcomes[first + place] = Some(outcome);
        }
        let moved = challenge.rides_completed.cast_signed() > row.rides_completed;
        let version = moved.then_some(row.version + 1);
        for (ride, judgement) in judged.drain(..) {
            receipts.push(row, conditions, ride, judgement, version);
        }
        if moved {
            let traceparent = traceparent.map(|came| {
                carry(&Cause {
                    traceparent: came,
                    user_id: row.user_id,
                    promotion_id: row.promotion_id,
                })
                .unwrap_or_else(|| came.to_owned())
            });
            changes.push(row, &challenge, traceparent, now)?;
        }
    }
    receipts.insert(connection, now).await?;
    changes.write(connection, now).await?;
    Ok(outcomes)
}

/// A locked participation and its rides.
struct Work<'a> {
    row: LockedChallenge,
    conditions: Arc<Conditions>,
    /// The index of the first of `rides` in the batch's sorted rides.
    first: usize,
    rides: &'a [&'a IncomingRide],
}

pub(super) type Key = (UserId, PromotionId);

/// Which of the rides are recorded already, with their fingerprints.
async fn read_recorded(
    connection: &mut PgConnection,
    work: &[Work<'_>],
) -> Result<HashMap<Key, HashMap<Uuid, i64>>> {
    let (mut users, mut promotions, mut months, mut rides) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for work in work {
        for incoming in work.rides {
            users.push(work.row.user_id);
            promotions.push(work.row.promotion_id);
            months.push(work.row.receipts_month);
            rides.push(incoming.ride.ride_id);
        }
    }
    let rows = sqlx::query!(
        r#"select r.user_id, r.promotion_id, r.ride_id, r.fingerprint
             from unnest($1::bigint[], $2::bigint[], $3::date[], $4::uuid[]) v (user_id, promotion_id, receipts_month, ride_id)
             join ride_receipt r using (user_id, promotion_id, receipts_month, ride_id)"#,
        &users,
        &promotions,
        &months,
        &rides
    )
    .fetch_all(connection)
    .await?;
    let mut recorded: HashMap<Key, HashMap<Uuid, i64>> = HashMap::new();
    for row in rows {
        recorded
            .entry((row.user_id, row.promotion_id))
            .or_default()
            .insert(row.ride_id, row.fingerprint);
    }
    Ok(recorded)
}

/// How many rides counted on the days of these rides, where the conditions cap them.
async fn read_counted_per_day(
    connection: &mut PgConnection,
    work: &[Work<'_>],
) -> Result<HashMap<Key, HashMap<NaiveDate, u32>>> {
    let mut wanted = Vec::new();
    for work in work {
        for incoming in work.rides {
            if let Some(day) = work.conditions.day_of(&incoming.ride) {
                wanted.push((work.row.key(), work.row.receipts_month, day));
            }
        }
    }
    counted_per_day(connection, wanted).await
}

/// How many rides counted on these days, each with its participation and the month of its receipts.
pub(super) async fn counted_per_day(
    connection: &mut PgConnection,
    mut wanted: Vec<(Key, NaiveDate, NaiveDate)>,
) -> Result<HashMap<Key, HashMap<NaiveDate, u32>>> {
    wanted.sort_unstable();
    wanted.dedup();
    let mut counted: HashMap<Key, HashMap<NaiveDate, u32>> = HashMap::new();
    if wanted.is_empty() {
        return Ok(counted);
    }
    let users: Vec<_> = wanted.iter().map(|(key, ..)| key.0).collect();
    let promotions: Vec<_> = wanted.iter().map(|(key, ..)| key.1).collect();
    let months: Vec<_> = wanted.iter().map(|(_, month, _)| *month).collect();
    let days: Vec<_> = wanted.iter().map(|(.., day)| *day).collect();
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
        let count = u32::try_from(row.counted).unwrap_or(u32::MAX);
        counted
            .entry((row.user_id, row.promotion_id))
            .or_default()
            .insert(row.ride_day, count);
    }
    Ok(counted)
}
/// Applies one ride outside the topic, in the caller's transaction. `source` says how it came.
pub async fn apply_one(
    connection: &mut PgConnection,
    ride: &Ride,
    source: RideSource,
    traceparent: Option<&str>,
) -> Result<AppliedOne> {
    let incoming = IncomingRide {
        ride: ride.clone(),
        traceparent: traceparent.map(Into::into),
    };
    let outcome = judge_and_record(
        connection,
        &mut Terms::default(),
        &[&incoming],
        source,
        &mut |_| None,
    )
    .await?
    .pop()
    .flatten();
    let receipt = sqlx::query_as!(
        Receipt,
        r#"select ride_id, completed_at, amount_cents, currency_code, verdict as "verdict: Verdict", details, recorded_at,
                  distance_m, reversed_at, source as "source: RideSource", version
             from ride_receipt where user_id = $1 and ride_id = $2
            order by recorded_at desc limit 1"#,
        ride.user_id,
        ride.ride_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(match (outcome, receipt) {
        (Some(Outcome::Judged(_)), Some(receipt)) => AppliedOne::Applied(receipt),
        // Recorded in this challenge, or in one that has ended since.
        (_, Some(receipt)) => AppliedOne::Duplicate(receipt),
        (_, None) => AppliedOne::NoParticipation,
    })
}
