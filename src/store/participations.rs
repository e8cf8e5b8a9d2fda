//! Reads participations and their receipts, and puts their events into the outbox.

use std::sync::Arc;

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::extensions::is_any_running;
use super::state::state_of;
use super::{Result, Store};
use crate::domain::goals::FurtherGoals;
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::promotion::Verdict;
use crate::domain::reward::Reward;
use crate::domain::ride::RideSource;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::participation::{Participation, State};
use crate::wire::promotion_status::EventType;

/// A participation as stored, read with the database's clock of that moment.
#[derive(Clone, Debug)]
pub struct StoredParticipation {
    /// Its state.
    pub state: Arc<State>,
    /// The frozen conditions.
    pub conditions: Arc<Value>,
    /// The database's clock.
    pub now: Instant,
}

impl StoredParticipation {
    /// Whether it is live and the deadline of its status has passed.
    pub fn is_overdue(&self) -> bool {
        self.state.is_overdue(self.now)
    }

    /// As the client sees it.
    pub fn view(&self) -> Participation {
        Participation::at(
            Arc::clone(&self.state),
            Arc::clone(&self.conditions),
            self.now,
        )
    }
}

/// One receipt, with its place in the client's list.
#[derive(Clone, Debug)]
pub struct StoredReceipt {
    /// The ride.
    pub ride_id: Uuid,
    /// When it was completed; `None`, like the fare, if only its reversal was read.
    pub completed_at: Option<Instant>,
    /// Its fare in cents.
    pub amount_cents: Option<i64>,
    /// The fare's currency.
    pub currency_code: Option<String>,
    /// The verdict.
    pub verdict: Verdict,
    /// The values that were compared; `None` for a ride that counted.
    pub details: Option<Value>,
    /// When it was recorded.
    pub recorded_at: Instant,
    /// The ride's distance in metres, if its record had one.
    pub distance_m: Option<i64>,
    /// When its reversal was recorded, if there was one.
    pub reversed_at: Option<Instant>,
    /// Where the ride came from; `None` for receipts of a release before 0.2.0.
    pub source: Option<RideSource>,
    /// The version of the participation that the ride made, alone or with others.
    pub version: Option<i32>,
}

impl StoredReceipt {
    /// Its instant in the client's list. A ride of which only the reversal was read is listed at the reversal's.
    pub fn listed_at(&self) -> Instant {
        self.completed_at.unwrap_or(self.recorded_at)
    }

    /// As clients and operators see it.
    pub fn view(self) -> crate::wire::receipt::Receipt {
        crate::wire::receipt::Receipt {
            ride_id: self.ride_id,
            completed_at: self.completed_at,
            amount_cents: self.amount_cents,
            currency_code: self.currency_code,
            counted: self.details.is_none(),
            verdict: self.verdict,
            details: self.details,
            recorded_at: self.recorded_at,
            distance_m: self.distance_m,
            reversed_at: self.reversed_at,
            source: self.source,
            version: self.version,
        }
    }
}

/// Reads one participation without a lock.
pub async fn load(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
) -> Result<Option<StoredParticipation>> {
    let row = sqlx::query!(
        r#"select p.user_id, p.promotion_id, m.promotion_key, p.status as "status: StatusName", p.version,
                  p.rides_completed, p.rides_target, p.further_goals as "further_goals: Json<FurtherGoals>", p.started_at, p.challenge_deadline, p.completed_at,
                  p.reward_deadline, p.rewarded_at, p.expired_at, p.expired_reason as "expired_reason: ExpiredReason",
                  p.reward as "reward: Json<Reward>", t.conditions, clock_ms() as "now!"
             from promotion_user p
             join promotion m using (promotion_id)
             join promotion_terms t using (terms_id)
            where p.user_id = $1 and p.promotion_id = $2"#,
        user_id,
        promotion_id
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(StoredParticipation {
            state: Arc::new(state_of!(row)?),
            conditions: Arc::new(row.conditions),
            now: row.now,
        })
    })
    .transpose()
}

impl Store {
    /// Reads one participation.
    pub async fn participation(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
    ) -> Result<Option<StoredParticipation>> {
        let found = load(&mut *self.acquire().await?, user_id, promotion_id).await?;
        self.extended(found).await
    }

    /// Returns the participation as read. If its deadline has passed and extensions are running, it applies
    /// them first, because a read may come before the sweeper.
    async fn extended(
        &self,
        found: Option<StoredParticipation>,
    ) -> Result<Option<StoredParticipation>> {
        let stored = match found {
            Some(stored) if stored.is_overdue() => stored,
            found => return Ok(found),
        };
        let (user_id, promotion_id) = (stored.state.user_id, stored.state.promotion_id);
        if is_any_running(&mut *self.acquire().await?).await? {
            self.apply_extensions(user_id).await?;
        }
        // Reads again in any case: another process may have applied and finished an extension since the
        // first read.
        load(&mut *self.acquire().await?, user_id, promotion_id).await
    }

    /// A page of a participation's receipts by completion, newest first: those after the place
    /// ([`StoredReceipt::listed_at`], `ride_id`), at most `limit`.
    pub async fn receipts(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
        after: Option<(Instant, Uuid)>,
        limit: i64,
    ) -> Result<Vec<StoredReceipt>> {
        let (after_at, after_id) = after.unzip();
        // The month is fetched first, so that one partition is read and not all.
        Ok(sqlx::query_as!(
            StoredReceipt,
            r#"select ride_id, completed_at, amount_cents, currency_code, verdict as "verdict: Verdict", details,
                      recorded_at, distance_m, reversed_at, source as "source: RideSource", version
                 from ride_receipt
                where user_id = $1 and promotion_id = $2
                  and receipts_month = (select receipts_month from promotion_user where user_id = $1 and promotion_id = $2)
                  and ($3::timestamptz is null or (coalesce(completed_at, recorded_at), ride_id) < ($3, $4::uuid))
                order by coalesce(completed_at, recorded_at) desc, ride_id desc
                limit $5"#,
            user_id,
            promotion_id,
            after_at,
            after_id,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }
}

/// Puts the participation's present state into the outbox, and records the event with the participation,
/// so that it can be published again. The caller holds the row lock.
pub(super) async fn enqueue_event(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    event_type: EventType,
    previous_status: Option<StatusName>,
    occurred_at: Instant,
    traceparent: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "with present as (
             update promotion_user
                set last_event_id = $3, last_event_version = version, last_event_type = $4, last_event_previous_status = $5,
                    last_event_at = $6
              where user_id = $1 and promotion_id = $2
          returning *)
         insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                   rides_target, started_at, challenge_deadline, completed_at, reward_deadline, rewarded_at,
                                   expired_at, expired_reason, reward, further_goals, occurred_at, traceparent)
         select last_event_id, last_event_type, user_id, promotion_id, status, last_event_previous_status, version, rides_completed,
                rides_target, started_at, challenge_deadline, completed_at, reward_deadline, rewarded_at, expired_at,
                expired_reason, reward, further_goals, last_event_at, $7
           from present",
        user_id,
        promotion_id,
        Uuid::now_v7(),
        event_type as EventType,
        previous_status as Option<StatusName>,
        occurred_at,
        traceparent
    )
    .execute(connection)
    .await?;
    Ok(())
}
