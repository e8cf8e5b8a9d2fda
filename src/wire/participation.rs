//! A participation as the client sees it (contract 5).

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::domain::Instant;
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::reward::Reward;

/// The state of a participation as of one version: what status events carry and clients read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, serde::Deserialize, utoipa::ToSchema)]
pub struct State {
    /// The client.
    pub user_id: i64,
    /// The promotion.
    pub promotion_id: i64,
    /// The promotion's verbal key.
    pub promotion_key: String,
    /// Where it stands.
    pub status: StatusName,
    /// 1 at the start, one more per event.
    pub version: i32,
    /// Rides counted.
    pub rides_completed: i32,
    /// Rides needed.
    pub rides_target: i32,
    /// The start, by the database's clock.
    #[serde(with = "crate::wire::instant")]
    pub started_at: DateTime<Utc>,
    /// The end of the challenge, exclusive.
    #[serde(with = "crate::wire::instant")]
    pub challenge_deadline: DateTime<Utc>,
    /// When completion was recorded.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub completed_at: Option<DateTime<Utc>>,
    /// The end of the claim, exclusive.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub reward_deadline: Option<DateTime<Utc>>,
    /// When the reward was accepted.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub rewarded_at: Option<DateTime<Utc>>,
    /// When expiry was recorded.
    #[serde(with = "crate::wire::optional_instant")]
    #[schema(required)]
    pub expired_at: Option<DateTime<Utc>>,
    /// Why it expired.
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
    #[schema(value_type = Object)]
    pub conditions: Arc<Value>,
    /// The deadline has passed, and it is not yet proven that every ride was read.
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
