//! What starts write: participations with their events, splits and reminders, each kind in one statement
//! for all of them.

use std::sync::Arc;

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::facts::Eligible;
use crate::domain::goals::{FurtherGoals, Tally};
use crate::domain::participation::{DeadlineOf, Status, StatusName};
use crate::domain::promotion::Conditions;
use crate::domain::reward::Reward;
use crate::domain::{Instant, ParticipationKey, PromotionId, UserId};
use crate::store::participations::StoredParticipation;
use crate::store::reminders::ReminderWindows;
use crate::store::{Result, StoreError, must_be_all};
use crate::wire::participation::State;
use crate::wire::promotion_status::EventType;

/// A participation that begins.
pub(super) struct New<'a> {
    eligible: &'a Eligible,
    terms_id: i64,
    /// `None` until the upgrade is finished.
    product_terms_id: Option<i64>,
    /// Whether days are counted beside it.
    counts_days: bool,
    conditions: Conditions,
    traceparent: Option<&'a str>,
}

impl<'a> New<'a> {
    /// A participation on these frozen terms. Without `product_terms_id` the upgrade is unfinished, and days
    /// are not counted.
    pub(super) fn of(
        eligible: &'a Eligible,
        terms_id: i64,
        product_terms_id: Option<i64>,
        traceparent: Option<&'a str>,
    ) -> Result<Self> {
        // As frozen ones are read: they were checked when they were written.
        let read = Conditions::from_frozen(&eligible.promotion.conditions);
        let (conditions, _) = read.map_err(|errors| {
            StoreError::Corrupt(format!(
                "conditions of promotion {}: {errors:?}",
                eligible.key.1
            ))
        })?;
        Ok(Self {
            eligible,
            terms_id,
            product_terms_id,
            counts_days: product_terms_id.is_some() && conditions.counts_days(),
            conditions,
            traceparent,
        })
    }

    /// The state that begins, with a version that is yet to be found.
    fn state(&self) -> State {
        let (user_id, promotion_id) = self.eligible.key;
        let started_at = self.eligible.now;
        State {
            user_id,
            promotion_id,
            promotion_key: self.eligible.promotion.promotion_key.clone(),
            status: Status::InProgress,
            version: 0,
            rides_completed: 0,
            rides_target: i32::try_from(self.conditions.target_rides).unwrap_or(i32::MAX),
            further_goals: self.conditions.further_goals(&Tally::default()),
            started_at,
            challenge_deadline: started_at + self.conditions.challenge_period.delta(),
            reward: self.eligible.reward.clone(),
        }
    }
}

/// Participations, a column each.
#[derive(Default)]
struct Columns<'a> {
    users: Vec<UserId>,
    promotions: Vec<PromotionId>,
    terms_ids: Vec<i64>,
    product_terms_ids: Vec<Option<i64>>,
    rides_targets: Vec<i32>,
    started_at: Vec<Instant>,
    challenge_deadlines: Vec<Instant>,
    rewards: Vec<Json<&'a Reward>>,
    pre_offer_ids: Vec<Uuid>,
    country_codes: Vec<&'a str>,
    further_goals: Vec<Option<Json<FurtherGoals>>>,
    counts_days: Vec<bool>,
    event_ids: Vec<Uuid>,
    traceparents: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, new: &New<'a>, state: &State) {
        self.users.push(state.user_id);
        self.promotions.push(state.promotion_id);
        self.terms_ids.push(new.terms_id);
        self.product_terms_ids.push(new.product_terms_id);
        self.rides_targets.push(state.rides_target);
        self.started_at.push(state.started_at);
        self.challenge_deadlines.push(state.challenge_deadline);
        self.rewards.push(Json(&new.eligible.reward));
        self.pre_offer_ids.push(new.eligible.pre_offer.pre_offer_id);
        self.country_codes
            .push(&new.eligible.pre_offer.country_code);
        self.further_goals.push(state.further_goals.map(Json));
        self.counts_days.push(new.counts_days);
        self.event_ids.push(Uuid::now_v7());
        self.traceparents.push(new.traceparent);
    }
}

/// Writes these participations, their events and when their first reminders are due. Each client is in
/// it once. Returns them in the same order.
pub(super) async fn write(
    connection: &mut PgConnection,
    participations: &[New<'_>],
) -> Result<Vec<StoredParticipation>> {
    let mut columns = Columns::default();
    let mut reminders = ReminderWindows::default();
    let mut states = Vec::with_capacity(participations.len());
    for new in participations {
        let state = new.state();
        columns.push(new, &state);
        let window = (state.started_at, state.challenge_deadline);
        let key: ParticipationKey = new.eligible.key;
        reminders.push(key, &new.conditions, DeadlineOf::Challenge, window);
        states.push(state);
    }
    let versions = sqlx::query!(
        // The version is above what subscribers have of a participation that was lost in a restore.
        r#"with v as (
               select v.*, coalesce((select f.version from version_floor f
                                      where f.user_id = v.user_id and f.promotion_id = v.promotion_id), 0) + 1 as version
                 from unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[], $6::timestamptz[], $7::timestamptz[],
                             $8::jsonb[], $9::uuid[], $10::text[], $11::jsonb[], $12::boolean[], $13::uuid[], $14::text[])
                      v (user_id, promotion_id, terms_id, product_terms_id, rides_target, started_at, challenge_deadline,
                         reward, pre_offer_id, country_code, further_goals, counts_days, event_id, traceparent)),
           made as (
               insert into promotion_user (user_id, promotion_id, terms_id, status, version, rides_target, started_at,
                                           challenge_deadline, reward, pre_offer_id, country_code, receipts_month,
                                           product_terms_id, further_goals, rides_counted, amount_counted, days_counted,
                                           last_event_id, last_event_version, last_event_type, last_event_at)
               select user_id, promotion_id, terms_id, $15, version, rides_target, started_at, challenge_deadline, reward,
                      pre_offer_id, country_code, date_trunc('month', started_at at time zone 'UTC')::date, product_terms_id,
                      further_goals, case when further_goals is not null then 0 end,
                      case when further_goals is not null then 0 end, case when counts_days then 0 end,
                      event_id, version, $16, started_at
                 from v)
           insert into event_outbox (event_id, type, user_id, promotion_id, status, version, rides_completed, rides_target,
                                     started_at, challenge_deadline, reward, further_goals, occurred_at, traceparent)
           select event_id, $16, user_id, promotion_id, $15, version, 0, rides_target, started_at, challenge_deadline,
                  reward, further_goals, started_at, traceparent
             from v
        returning user_id as "user_id!", version as "version!""#,
        &columns.users,
        &columns.promotions,
        &columns.terms_ids,
        &columns.product_terms_ids as &[Option<i64>],
        &columns.rides_targets,
        &columns.started_at,
        &columns.challenge_deadlines,
        &columns.rewards as &[Json<&Reward>],
        &columns.pre_offer_ids,
        &columns.country_codes as &[&str],
        &columns.further_goals as &[Option<Json<FurtherGoals>>],
        &columns.counts_days,
        &columns.event_ids,
        &columns.traceparents as &[Option<&str>],
        StatusName::InProgress as StatusName,
        EventType::Started as EventType
    )
    .fetch_all(&mut *connection)
    .await?;
    must_be_all(
        versions.len() as u64,
        states.len(),
        "participations could be written",
    )?;
    for row in versions {
        if let Some(state) = states.iter_mut().find(|state| state.user_id == row.user_id) {
            state.version = row.version;
        }
    }
    reminders.write(connection).await?;
    let stored = states.into_iter().zip(participations);
    Ok(stored
        .map(|(state, new)| StoredParticipation {
            now: state.started_at,
            state: Arc::new(state),
            conditions: Arc::new(new.eligible.promotion.conditions.clone()),
        })
        .collect())
}
