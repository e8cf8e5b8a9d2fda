//! From rides to receipts, progress and events: what is locked and read, in which order, and the
//! judging by the domain's rules.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::NaiveDate;
use sqlx::postgres::PgConnection;

use super::changes::{Moves, Outbox};
use super::receipts::{Receipts, ReversedReceipts};
use super::recorded::{Key, read_counted_per_day, read_recorded};
use super::{AppliedOne, Carry, Cause, Incoming, reversals};
use crate::domain::goals::Tally;
use crate::domain::participation::{Challenge, RideOutcome};
use crate::domain::promotion::Conditions;
use crate::domain::ride::{Reversal, Ride, RideRecord, RideSource};
use crate::domain::verdict::Verdict;
use crate::domain::{Instant, PromotionId, UserId};
use crate::store::extensions::{self, Moment};
use crate::store::participations::StoredReceipt;
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
    pub(super) rides_target: i32,
    /// JSON, as Postgres writes it.
    pub(super) reward: String,
    pub(super) started_at: Instant,
    pub(super) challenge_deadline: Instant,
    pub(super) receipts_month: NaiveDate,
    /// All counted rides, where there are further goals.
    pub(super) rides_counted: Option<i32>,
    /// Not `None` where the counts of days are kept in `participation_day`.
    pub(super) days_counted: Option<i32>,
    /// Exact, as text, where there are further goals.
    pub(super) amount_counted: Option<String>,
}

impl LockedChallenge {
    pub(super) fn key(&self) -> Key {
        (self.user_id, self.promotion_id)
    }

    pub(super) fn tally(&self) -> Result<Tally> {
        let amount_cents = match &self.amount_counted {
            None => 0,
            Some(sum) => sum.parse().map_err(|error| {
                let (user_id, promotion_id) = (self.user_id, self.promotion_id);
                StoreError::Corrupt(format!(
                    "amount_counted of participation ({user_id}, {promotion_id}): {error}"
                ))
            })?,
        };
        Ok(Tally {
            rides: self
                .rides_counted
                .unwrap_or(self.rides_completed)
                .cast_unsigned(),
            days: self.days_counted.unwrap_or(0).cast_unsigned(),
            amount_cents,
        })
    }

    /// Whether more than `rides_completed` is kept of what counted.
    pub(super) const fn keeps_more(&self) -> bool {
        self.rides_counted.is_some() || self.days_counted.is_some()
    }
}

/// The challenges of these clients that are in progress, their rows locked in key order.
async fn lock(connection: &mut PgConnection, users: &[UserId]) -> Result<Vec<LockedChallenge>> {
    Ok(sqlx::query_as!(
        LockedChallenge,
        r#"select user_id, promotion_id, terms_id, version, rides_completed, rides_target, reward::text as "reward!", started_at,
                challenge_deadline, receipts_month, rides_counted, days_counted, amount_counted::text
           from promotion_user
          where user_id = any($1) and status = 'IN_PROGRESS'
          order by user_id, promotion_id
            for update"#,
        users
    )
    .fetch_all(connection)
    .await?)
}

/// Applies records, sorted by client, to the challenges that are in progress: locks them in key
/// order, judges what was not recorded before, writes receipts, progress and events. Returns what
/// became of each record, `None` where its client has no challenge in progress.
pub(super) async fn judge_and_record(
    connection: &mut PgConnection,
    terms: &mut Terms,
    records: &[&Incoming],
    source: RideSource,
    outbox: Outbox,
    carry: &mut Carry<'_>,
) -> Result<Vec<Option<RideOutcome>>> {
    let mut users: Vec<UserId> = records.iter().map(|record| record.user_id()).collect();
    users.dedup();
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let mut locked = lock(connection, &users).await?;
    if locked.is_empty() {
        return Ok(vec![None; records.len()]);
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

    // A client has at most one live participation (a unique index), so records and locked rows,
    // both sorted by client, are walked together.
    let mut work: Vec<Work<'_>> = Vec::with_capacity(locked.len());
    let mut next = 0;
    for row in locked {
        while next < records.len() && records[next].user_id() < row.user_id {
            next += 1;
        }
        let first = next;
        while next < records.len() && records[next].user_id() == row.user_id {
            next += 1;
        }
        work.push(Work {
            conditions: terms.get(row.terms_id)?,
            row,
            first,
            records: &records[first..next],
        });
    }
    let mut recorded = read_recorded(connection, &work).await?;
    let mut counted_per_day = read_counted_per_day(connection, &work, &recorded).await?;
    let mut outcomes = vec![None; records.len()];
    let mut written = Written::new(source, outbox);
    for work in &work {
        let key = work.row.key();
        let challenge = Challenge {
            conditions: &work.conditions,
            started_at: work.row.started_at,
            challenge_deadline: work.row.challenge_deadline,
            tally: work.row.tally()?,
            recorded: recorded.remove(&key).unwrap_or_default(),
            counted_per_day: counted_per_day.remove(&key).unwrap_or_default(),
        };
        let outcomes = &mut outcomes[work.first..work.first + work.records.len()];
        written.apply(work, challenge, outcomes, carry, now)?;
    }
    written.write(connection, now).await?;
    Ok(outcomes)
}

/// A locked participation and its records.
pub(super) struct Work<'a> {
    pub(super) row: LockedChallenge,
    pub(super) conditions: Arc<Conditions>,
    /// The index of the first of `records` in the batch's sorted records.
    first: usize,
    pub(super) records: &'a [&'a Incoming],
}

/// Everything that a batch writes.
struct Written {
    receipts: Receipts,
    reversed: ReversedReceipts,
    moves: Moves,
}

impl Written {
    fn new(source: RideSource, outbox: Outbox) -> Self {
        Self {
            receipts: Receipts::new(source),
            reversed: ReversedReceipts::new(source),
            moves: Moves::new(outbox),
        }
    }

    /// Applies the records of one client to their challenge, in order.
    fn apply(
        &mut self,
        work: &Work<'_>,
        mut challenge: Challenge<'_>,
        outcomes: &mut [Option<RideOutcome>],
        carry: &mut Carry<'_>,
        now: Instant,
    ) -> Result<()> {
        let row = &work.row;
        let before = challenge.tally;
        let mut traceparent = None;
        for (incoming, outcome) in work.records.iter().zip(&mut *outcomes) {
            let taken = match &incoming.record {
                RideRecord::Completed(ride) => challenge.take(ride),
                RideRecord::Reversed(reversal) => challenge.take_back(reversal),
            };
            if let RideOutcome::Judged { moved: true, .. }
            | RideOutcome::Reversed { moved: true, .. } = &taken
            {
                traceparent = incoming.traceparent.as_ref().map(Traceparent::as_str);
            }
            *outcome = Some(taken);
        }
        // Clients are told the net change, if there is one.
        let has_changed = work.conditions.tells_apart(&before, &challenge.tally);
        let version = has_changed.then_some(row.version + 1);
        for (incoming, outcome) in work.records.iter().zip(&*outcomes) {
            match (&incoming.record, outcome) {
                (
                    RideRecord::Completed(ride),
                    Some(RideOutcome::Judged {
                        judgement,
                        day,
                        moved,
                    }),
                ) => {
                    // Reversed within this batch, it made no version.
                    let is_kept = *moved
                        && challenge
                            .recorded
                            .get(&ride.ride_id)
                            .is_some_and(|recorded| recorded.verdict == Verdict::Counted);
                    let version = version.filter(|_| is_kept);
                    self.receipts
                        .push(row, ride, judgement.clone(), *day, version);
                    if judgement.verdict == Verdict::Counted {
                        self.moves.note_day(row, *day);
                    }
                }
                (RideRecord::Reversed(reversal), Some(RideOutcome::Reversed { before, .. })) => {
                    self.reversed.push(row, reversal.ride_id, *before);
                    let recorded = challenge.recorded.get(&reversal.ride_id);
                    if *before == Some(Verdict::Counted) {
                        self.moves.note_day(row, recorded.and_then(|ride| ride.day));
                    }
                }
                _ => {}
            }
        }
        let traceparent = traceparent.filter(|_| has_changed).map(|came| {
            carry(&Cause {
                traceparent: came,
                user_id: row.user_id,
                promotion_id: row.promotion_id,
            })
            .unwrap_or_else(|| came.to_owned())
        });
        self.moves.push(row, &challenge, &before, traceparent, now)
    }

    /// Each kind in a statement of its own, where there is any of it.
    async fn write(&self, connection: &mut PgConnection, now: Instant) -> Result<()> {
        self.receipts.insert(connection, now).await?;
        self.reversed.write(connection, now).await?;
        self.moves.write(connection, now).await
    }
}

/// Applies one ride outside the topic, in the caller's transaction. `source` says how it came.
pub async fn apply_one(
    connection: &mut PgConnection,
    ride: &Ride,
    source: RideSource,
    traceparent: Option<&str>,
) -> Result<AppliedOne> {
    let incoming = Incoming {
        record: RideRecord::Completed(ride.clone()),
        traceparent: traceparent.map(Into::into),
    };
    let outcome = apply_alone(connection, &incoming, source).await?;
    let receipt = newest_receipt(connection, &incoming).await?;
    Ok(match (outcome, receipt) {
        (Some(RideOutcome::Judged { .. }), Some(receipt)) => AppliedOne::Applied(receipt),
        // Recorded in this challenge, or in one that has ended since.
        (_, Some(receipt)) => AppliedOne::Duplicate(receipt),
        (_, None) => AppliedOne::NoParticipation,
    })
}

/// Applies one reversal outside the topic, in the caller's transaction.
pub async fn reverse_one(
    connection: &mut PgConnection,
    reversal: &Reversal,
    source: RideSource,
) -> Result<AppliedOne> {
    let incoming = Incoming {
        record: RideRecord::Reversed(*reversal),
        traceparent: None,
    };
    let outcome = apply_alone(connection, &incoming, source).await?;
    let is_late = reversals::mark_ended(connection, &[*reversal]).await? > 0;
    let receipt = newest_receipt(connection, &incoming).await?;
    let is_applied = is_late || matches!(outcome, Some(RideOutcome::Reversed { .. }));
    Ok(match receipt {
        Some(receipt) if is_applied => AppliedOne::Applied(receipt),
        Some(receipt) => AppliedOne::Duplicate(receipt),
        None => AppliedOne::NoParticipation,
    })
}

async fn apply_alone(
    connection: &mut PgConnection,
    incoming: &Incoming,
    source: RideSource,
) -> Result<Option<RideOutcome>> {
    let outcomes = judge_and_record(
        connection,
        &mut Terms::default(),
        &[incoming],
        source,
        Outbox::Rows,
        &mut |_| None,
    )
    .await?;
    Ok(outcomes.into_iter().flatten().next())
}

async fn newest_receipt(
    connection: &mut PgConnection,
    incoming: &Incoming,
) -> Result<Option<StoredReceipt>> {
    Ok(sqlx::query_as!(
        StoredReceipt,
        r#"select ride_id, completed_at, amount_cents, currency_code, verdict as "verdict: Verdict", details, recorded_at,
                  distance_m, reversed_at, source as "source: RideSource", version
             from ride_receipt where user_id = $1 and ride_id = $2
            order by recorded_at desc limit 1"#,
        incoming.user_id(),
        incoming.record.ride_id()
    )
    .fetch_optional(connection)
    .await?)
}
