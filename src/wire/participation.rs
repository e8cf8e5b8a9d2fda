//! A participation as the client sees it (contract 5).

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::domain::Instant;
use crate::domain::participation::{ExpiredReason, StatusName};
#[allow(unused_imports, reason = "named in the schema")]
use crate::domain::promotion::Conditions;
use crate::domain::reward::Reward;

/// The state of a participation as of one version: what status events carry and clients read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
#[schema(as = ParticipationState)]
pub struct State {
    /// The client.
    #[schema(minimum = 1, example = 48_151)]
    pub user_id: i64,
    /// The promotion.
    #[schema(example = 1)]
    pub promotion_id: i64,
    /// The promotion's verbal key.
    #[schema(example = "mx-newbie-20")]
    pub promotion_key: String,
    /// Where it stands.
    pub status: StatusName,
    /// 1 at the start, one more with every change of what is told here.
    #[schema(minimum = 1, example = 7)]
    pub version: i32,
    /// Rides counted, never more than `rides_target`.
    #[schema(minimum = 0, example = 6)]
    pub rides_completed: i32,
    /// Rides needed.
    #[schema(minimum = 1, maximum = 10_000, example = 20)]
    pub rides_target: i32,
    /// The start, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub started_at: DateTime<Utc>,
    /// The end of the challenge, exclusive.
    #[serde(with = "crate::wire::instant")]
    pub challenge_deadline: DateTime<Utc>,
    /// When completion was recorded; `null` before.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub completed_at: Option<DateTime<Utc>>,
    /// The end of the claim, exclusive; `null` before completion.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub reward_deadline: Option<DateTime<Utc>>,
    /// When the reward was accepted; `null` before.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub rewarded_at: Option<DateTime<Utc>>,
    /// When expiry was recorded; `null` before.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub expired_at: Option<DateTime<Utc>>,
    /// Why it expired; `null` unless it has.
    #[schema(required)]
    pub expired_reason: Option<ExpiredReason>,
    /// The frozen loan terms.
    pub reward: Reward,
}

/// A participation with what only its client sees. `settling` and `server_time` are of the moment
/// of the answer.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct Participation {
    /// Everything that status events carry too.
    #[serde(flatten)]
    pub state: Arc<State>,
    /// The frozen conditions.
    #[schema(value_type = Conditions)]
    pub conditions: Arc<Value>,
    /// The deadline has passed, and it is not yet proven that every ride published in time was
    /// read: a ride completed before the deadline still counts.
    pub settling: bool,
    /// The server's clock.
    #[serde(with = "crate::wire::instant")]
    pub server_time: DateTime<Utc>,
}

impl Participation {
    /// The participation as it is seen at `now`.
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
    /// Past the deadline but not expired: a ride completed before it may still arrive and count.
    pub fn is_settling(&self, now: Instant) -> bool {
        self.status == StatusName::InProgress && now >= self.challenge_deadline
    }

    /// The entity tag: `W/"7"`, or `W/"7s"` while settling.
    pub fn etag(&self, now: Instant) -> String {
        let settling = if self.is_settling(now) { "s" } else { "" };
        format!("W/\"{}{settling}\"", self.version)
    }
}
