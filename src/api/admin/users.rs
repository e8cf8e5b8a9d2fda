//! Everything about one client.

use axum::Json;
use axum::extract::State;

use crate::api::auth::Admin;
use crate::api::extract::PathParam;
use crate::api::params::UserPath;
use crate::api::problem::{Problem, Result};
use crate::api::refusals::refusals;
use crate::domain::UserId;
use crate::store::Store;
use crate::wire::user::User;

refusals!(GetUserRefusals = admin, path);

/// Shows everything known of a client
///
/// As of one moment: what they have, what they see on landing and why, why a ride did not count.
/// The lists of a stranger are empty, and `known` is false.
#[utoipa::path(
    get,
    path = "/admin/v1/users/{user_id}",
    operation_id = "get_user",
    tag = "users",
    params(UserPath),
    responses(
        GetUserRefusals,
        (status = 200, description = "The client", body = User),
    ),
)]
pub async fn get(
    _: Admin,
    State(store): State<Store>,
    PathParam(user_id): PathParam<UserId>,
) -> Result<Json<User>> {
    // What cannot be a client's number names nobody.
    if user_id < 1 {
        return Err(Problem::not_found());
    }
    // Whose data was read is in the log.
    tracing::Span::current().record("user_id", user_id);
    Ok(Json(store.user(user_id).await?))
}
