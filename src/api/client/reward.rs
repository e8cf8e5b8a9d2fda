//! The reward of a completed challenge: its terms, and accepting it.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;

use super::{ClientState, traceparent};
use crate::api::auth::Client;
use crate::api::error_responses::{self, error_responses};
use crate::api::extract::{OptionalJsonObject, PathParam};
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::domain::PromotionId;
use crate::store::origination::{AcceptOutcome, NoReward, ShownReward};
use crate::wire::reward::{AcceptedReward, OfferedReward};

error_responses!(
    GetRewardErrors = client, path;
    Problem::not_participating(),
    Problem::challenge_not_completed(),
    error_responses::already_rewarded(),
    error_responses::challenge_over(),
    Problem::reward_expired()
);

/// Reads the reward
///
/// The terms of the loan that can be accepted now, as they were frozen at the start.
#[utoipa::path(
    get,
    path = "/v1/promotions/{promotion_id}/get_reward",
    operation_id = "get_reward",
    tag = "reward",
    params(PromotionPath),
    responses(
        GetRewardErrors,
        (status = 200, description = "The reward", body = OfferedReward, headers(("Cache-Control" = String, description = "`no-store`"))),
    ),
)]
pub async fn get_reward(
    client: Client,
    PathParam(promotion_id): PathParam<PromotionId>,
    State(state): State<ClientState>,
) -> Result<Json<OfferedReward>> {
    match state.store.reward(client.user_id, promotion_id).await? {
        ShownReward::Ready {
            participation,
            product,
        } => Ok(Json(OfferedReward {
            promotion_id,
            reward: participation.state.reward.clone(),
            product,
            reward_deadline: participation
                .state
                .status
                .completion()
                .map(|completion| completion.reward_deadline),
            server_time: participation.now,
        })),
        ShownReward::AlreadyRewarded(origination) => Err(Problem::already_rewarded(origination)),
        ShownReward::None(why) => Err(refusal(why)),
    }
}

error_responses!(
    AcceptRewardErrors = client, path, body;
    Problem::not_participating(),
    Problem::challenge_not_completed(),
    Problem::split_missing(),
    Problem::reward_under_review(),
    error_responses::challenge_over(),
    Problem::reward_expired()
);

/// Accepts the reward
///
/// Creates the loan application and its session, in one transaction. Every repeat, however late,
/// returns the same except `server_time`.
#[utoipa::path(
    post,
    path = "/v1/promotions/{promotion_id}/accept_reward",
    operation_id = "accept_reward",
    tag = "reward",
    params(
        PromotionPath,
        ("Idempotency-Key" = Option<String>, Header, description = "Accepted and not needed: every repeat returns the same, with any key or none"),
        ("traceparent" = Option<String>, Header, description = "W3C Trace Context, carried on to the status event"),
    ),
    responses(
        AcceptRewardErrors,
        (status = 200, description = "The reward is accepted, now or earlier", body = AcceptedReward, headers(("Cache-Control" = String, description = "`no-store`"))),
    ),
)]
pub async fn accept_reward(
    client: Client,
    PathParam(promotion_id): PathParam<PromotionId>,
    State(state): State<ClientState>,
    headers: HeaderMap,
    _empty: OptionalJsonObject,
) -> Result<Json<AcceptedReward>> {
    let reading = state.model.begin((client.user_id, promotion_id));
    let accepted = state
        .store
        .accept_reward(client.user_id, promotion_id, traceparent(&headers))
        .await;
    state.metrics.api.accepts.add(outcome(&accepted), 1);
    match accepted? {
        AcceptOutcome::Rewarded {
            origination,
            participation,
            repeated: _,
        } => {
            // After a repeat too: the first response may have been lost before this line.
            state.outbox_wake.send_replace(());
            Ok(Json(AcceptedReward {
                origination,
                participation: reading.finish(participation).view(),
            }))
        }
        AcceptOutcome::Refused(why) => Err(refusal(why)),
    }
}

/// The label under which the accept is counted.
fn outcome(accepted: &crate::store::Result<AcceptOutcome>) -> &'static str {
    match accepted {
        Ok(AcceptOutcome::Rewarded {
            repeated: false, ..
        }) => "rewarded",
        Ok(AcceptOutcome::Rewarded { repeated: true, .. }) => "repeated",
        Ok(AcceptOutcome::Refused(_)) => "refused",
        Err(error) if error.is_unavailable() => "unavailable",
        Err(_) => "failed",
    }
}

fn refusal(why: NoReward) -> Problem {
    match why {
        NoReward::NotParticipating => Problem::not_participating(),
        NoReward::ChallengeNotCompleted => Problem::challenge_not_completed(),
        NoReward::ChallengeOver(reason) => Problem::challenge_over(reason),
        NoReward::RewardExpired => Problem::reward_expired(),
        NoReward::SplitMissing => Problem::split_missing(),
        NoReward::UnderReview => Problem::reward_under_review(),
    }
}
