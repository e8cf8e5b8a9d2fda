//! A participation as the client sees it (contract 5).

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::domain::Instant;
use crate::domain::goals::{self, FurtherGoals, Goal, GoalProgress};
use crate::domain::participation::{BrokenStatus, ExpiredReason, Status, StatusFields, StatusName};
use crate::domain::promotion::Conditions;
use crate::domain::reward::Reward;

/// The state of a participation at one version, as status events and clients' responses have it. Its JSON
/// is flat, see `FlatState`.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(try_from = "FlatState<'_>")]
pub struct State {
    /// The client.
    pub user_id: i64,
    /// The promotion.
    pub promotion_id: i64,
    /// The promotion's key in words.
    pub promotion_key: String,
    /// Its status.
    pub status: Status,
    /// 1 at the start, and one more with every change of these fields.
    pub version: i32,
    /// Rides counted, never more than `rides_target`.
    pub rides_completed: i32,
    /// Rides needed.
    pub rides_target: i32,
    /// The goals beyond the number of rides, if the promotion has any.
    pub further_goals: Option<FurtherGoals>,
    /// The start, by the database's clock.
    pub started_at: DateTime<Utc>,
    /// The end of the challenge, exclusive.
    pub challenge_deadline: DateTime<Utc>,
    /// The frozen loan terms.
    pub reward: Reward,
}

/// The JSON of a [`State`], in the field order of the contract.
#[derive(Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(
    as = ParticipationState,
    description = "The state of a participation at one version, as status events and clients' responses have it."
)]
struct FlatState<'a> {
    /// The client.
    #[schema(minimum = 1, example = 48_151)]
    user_id: i64,
    /// The promotion.
    #[schema(example = 1)]
    promotion_id: i64,
    /// The promotion's key in words.
    #[schema(value_type = String, example = "mx-newbie-20")]
    promotion_key: Cow<'a, str>,
    /// Its status.
    status: StatusName,
    /// 1 at the start, and one more with every change of these fields.
    #[schema(minimum = 1, example = 7)]
    version: i32,
    /// Rides counted, never more than `rides_target`.
    #[schema(minimum = 0, example = 6)]
    rides_completed: i32,
    /// Rides needed.
    #[schema(minimum = 1, maximum = 10_000, example = 20)]
    rides_target: i32,
    /// Every goal, in the order `RIDES`, `DAYS`, `AMOUNT`; `RIDES` is always present. Events of a release
    /// before 0.2.0 do not have this field: their only goal is the rides.
    #[serde(default)]
    #[schema(required, min_items = 1, max_items = 3)]
    goals: Vec<Goal>,
    /// The start, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    started_at: DateTime<Utc>,
    /// The end of the challenge, exclusive.
    #[serde(with = "crate::wire::instant")]
    challenge_deadline: DateTime<Utc>,
    /// When completion was recorded; `null` before.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    completed_at: Option<DateTime<Utc>>,
    /// The end of the time to claim, exclusive; `null` before completion.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    reward_deadline: Option<DateTime<Utc>>,
    /// When the reward was accepted; `null` before.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    rewarded_at: Option<DateTime<Utc>>,
    /// When expiry was recorded; `null` before.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    expired_at: Option<DateTime<Utc>>,
    /// Why it expired; `null` if it has not.
    #[schema(required)]
    expired_reason: Option<ExpiredReason>,
    /// The frozen loan terms.
    #[schema(value_type = Reward)]
    reward: Cow<'a, Reward>,
}

impl<'a> From<&'a State> for FlatState<'a> {
    fn from(state: &'a State) -> Self {
        let fields = state.status.fields();
        Self {
            user_id: state.user_id,
            promotion_id: state.promotion_id,
            promotion_key: Cow::Borrowed(&state.promotion_key),
            status: fields.status,
            version: state.version,
            rides_completed: state.rides_completed,
            rides_target: state.rides_target,
            goals: state.goals(),
            started_at: state.started_at,
            challenge_deadline: state.challenge_deadline,
            completed_at: fields.completed_at,
            reward_deadline: fields.reward_deadline,
            rewarded_at: fields.rewarded_at,
            expired_at: fields.expired_at,
            expired_reason: fields.expired_reason,
            reward: Cow::Borrowed(&state.reward),
        }
    }
}

impl TryFrom<FlatState<'_>> for State {
    type Error = BrokenStatus;

    fn try_from(flat: FlatState<'_>) -> Result<Self, BrokenStatus> {
        let status = StatusFields {
            status: flat.status,
            completed_at: flat.completed_at,
            reward_deadline: flat.reward_deadline,
            rewarded_at: flat.rewarded_at,
            expired_at: flat.expired_at,
            expired_reason: flat.expired_reason,
        };
        Ok(Self {
            user_id: flat.user_id,
            promotion_id: flat.promotion_id,
            promotion_key: flat.promotion_key.into_owned(),
            status: status.try_into()?,
            version: flat.version,
            rides_completed: flat.rides_completed,
            rides_target: flat.rides_target,
            further_goals: goals::further_of(&flat.goals),
            started_at: flat.started_at,
            challenge_deadline: flat.challenge_deadline,
            reward: flat.reward.into_owned(),
        })
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        FlatState::from(self).serialize(serializer)
    }
}

impl PartialSchema for State {
    fn schema() -> RefOr<Schema> {
        FlatState::schema()
    }
}

impl ToSchema for State {
    fn name() -> Cow<'static, str> {
        FlatState::name()
    }

    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        FlatState::schemas(schemas);
    }
}

/// A participation as its client sees it. `settling` and `server_time` are those of the moment of the
/// response.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Participation {
    /// The same fields as in status events.
    #[serde(flatten)]
    pub state: Arc<State>,
    /// The frozen conditions.
    #[schema(value_type = Conditions)]
    pub conditions: Arc<Value>,
    /// The deadline has passed, and it is not yet proven that every ride published in time was read. A ride
    /// completed before the deadline still counts.
    pub settling: bool,
    /// The server's clock.
    #[serde(with = "crate::wire::instant")]
    pub server_time: DateTime<Utc>,
}

impl Participation {
    /// The participation at `now`.
    pub fn at(state: Arc<State>, conditions: Arc<Value>, now: Instant) -> Self {
        let settling = state.is_settling(now);
        Self {
            state,
            conditions,
            settling,
            server_time: now,
        }
    }
}

impl State {
    /// Whether it is live and past the deadline of its status.
    pub fn is_overdue(&self, now: Instant) -> bool {
        self.status
            .expiry(self.challenge_deadline)
            .is_some_and(|(_, deadline)| now >= deadline)
    }

    /// Every goal, in the order of the contract.
    pub fn goals(&self) -> Vec<Goal> {
        let rides = GoalProgress {
            completed: self.rides_completed.into(),
            target: self.rides_target.into(),
        };
        goals::told(rides, self.further_goals)
    }

    /// Whether it is past its deadline but not expired: a ride completed before the deadline may still arrive
    /// and count.
    pub fn is_settling(&self, now: Instant) -> bool {
        self.status == Status::InProgress && now >= self.challenge_deadline
    }
}
