//! All data of one client.

use axum::Json;
use axum::extract::State;

use super::{AdminState, quarantine};
use crate::api::auth::Admin;
use crate::api::dry_run::{DryRun, DryRunParams, DryRunResponse};
use crate::api::error_responses::error_responses;
use crate::api::extract::{JsonObject, PathParam};
use crate::api::params::UserPath;
use crate::api::problem::{Problem, Result};
use crate::domain::UserId;
use crate::store::Store;
use crate::store::credits::CreditOutcome;
use crate::wire::credit::RideCredit;
use crate::wire::quarantine::Replayed;
use crate::wire::user::User;

error_responses!(GetUserErrors = admin, path);

/// Shows all data of a client
///
/// Returns, as of one moment, what the client has, which screen the landing shows and why, and why rides
/// did not count. For an unknown client the lists are empty and `known` is false.
#[utoipa::path(
    get,
    path = "/admin/v1/users/{user_id}",
    operation_id = "get_user",
    tag = "users",
    params(UserPath),
    responses(
        GetUserErrors,
        (status = 200, description = "The client", body = User),
    ),
)]
pub async fn get(
    _: Admin,
    State(store): State<Store>,
    PathParam(user_id): PathParam<UserId>,
) -> Result<Json<User>> {
    // Client numbers begin at 1.
    if user_id < 1 {
        return Err(Problem::not_found());
    }
    // The log records whose data was read.
    tracing::Span::current().record("user_id", user_id);
    Ok(Json(store.user(user_id).await?))
}

error_responses!(CreditRideErrors = admin, path, body);

/// Credits a ride
///
/// For a ride whose record the platform lost. It is judged now, by its own `completed_at`, like a ride
/// from the topic. If its record arrives later, or arrived before, the two count as one ride.
/// With `dry_run=true` the call returns the same verdict with `"dry_run": true`, and records nothing.
#[utoipa::path(
    post,
    path = "/admin/v1/users/{user_id}/rides",
    operation_id = "credit_ride",
    tag = "users",
    params(UserPath, DryRunParams),
    request_body = RideCredit,
    responses(
        CreditRideErrors,
        (status = 200, description = "The ride's result", body = Replayed),
    ),
)]
pub async fn credit_ride(
    admin: Admin<DryRun>,
    State(state): State<AdminState>,
    PathParam(user_id): PathParam<UserId>,
    JsonObject(body): JsonObject,
) -> Result<Json<DryRunResponse<Replayed>>> {
    if user_id < 1 {
        return Err(Problem::not_found());
    }
    let credit = RideCredit::from_json(&body).map_err(Problem::invalid_request)?;
    let dry_run = admin.query;
    // The audit's entry names the client in its content only, where an erasure finds it.
    let author = admin.author("POST /users/{user_id}/rides");
    let ride = credit.ride.to_string().into_bytes();
    let credited = state
        .store
        .credit_ride(user_id, ride, &credit.reason, &author, dry_run.0)
        .await?;
    match credited {
        CreditOutcome::Judged(applied) => {
            state.outbox_wake.send_replace(());
            Ok(Json(dry_run.response(quarantine::answer(&applied))))
        }
        CreditOutcome::Bad(faults) => Err(quarantine::bad_ride("ride", &faults)),
        CreditOutcome::OtherClient => Err(Problem::invalid_field(
            "ride.user_id",
            format!("must be {user_id}, the client of the address"),
        )),
    }
}
