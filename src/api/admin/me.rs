//! Returns the caller's scopes, for a console that shows only what they allow.

use axum::Json;

use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::problem::Result;
use crate::wire::admin::Me;

error_responses!(GetMeErrors = admin);

/// Shows the caller
///
/// The token's subject, its scopes and its expiry. Any scope of this service allows this call.
#[utoipa::path(
    get,
    path = "/admin/v1/me",
    operation_id = "get_me",
    tag = "me",
    responses(
        GetMeErrors,
        (status = 200, description = "The caller", body = Me),
    ),
)]
pub async fn get(admin: Admin) -> Result<Json<Me>> {
    Ok(Json(Me {
        subject: admin.actor,
        scopes: admin.scopes.iter().map(|scope| scope.as_str()).collect(),
        expires_at: admin.expires_at,
    }))
}
