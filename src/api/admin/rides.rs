//! One ride: why it counted or not, or why that cannot be known.

use axum::Json;
use axum::extract::State;
use utoipa::IntoParams;
use uuid::Uuid;

use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::extract::PathParam;
use crate::api::problem::{Problem, Result};
use crate::api::query::{FromQuery, Params};
use crate::domain::UserId;
use crate::store::Store;
use crate::wire::ride_search::RideSearch;

/// The path parameter.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
#[expect(dead_code, reason = "only its description is used")]
struct RidePath {
    /// The ride
    ride_id: Uuid,
}

/// The query parameters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct RideParams {
    /// The client. Rides are stored by client and cannot be found without one
    #[param(minimum = 1, example = 48_151)]
    user_id: i64,
}

/// The client of the ride.
pub struct RideQuery {
    user_id: UserId,
}

impl FromQuery for RideQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        let user_id = params.integer("user_id", 1..=i64::MAX)?.ok_or_else(|| {
            let reason = "is required: rides are stored by client, and the same ride_id of two clients is two rides";
            Problem::invalid_field("user_id", reason)
        })?;
        // The log records whose data was read.
        tracing::Span::current().record("user_id", user_id);
        Ok(Self { user_id })
    }
}

error_responses!(GetRideErrors = admin, path);

/// Shows what is known of a ride
///
/// Returns the receipts of a client's ride, the quarantined records that name it, and in words what they
/// mean. If there are neither, it says what that leaves open.
#[utoipa::path(
    get,
    path = "/admin/v1/rides/{ride_id}",
    operation_id = "get_ride",
    tag = "users",
    params(RidePath, RideParams),
    responses(
        GetRideErrors,
        (status = 200, description = "What is known", body = RideSearch),
    ),
)]
pub async fn get(
    admin: Admin<RideQuery>,
    State(store): State<Store>,
    PathParam(ride_id): PathParam<Uuid>,
) -> Result<Json<RideSearch>> {
    Ok(Json(store.search_ride(admin.query.user_id, ride_id).await?))
}
