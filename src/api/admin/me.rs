//! Who is calling, for a console that shows only what they may do.

use axum::Json;

use crate::api::auth::Admin;
use crate::api::problem::Result;
use crate::api::refusals::refusals;
use crate::wire::admin::Me;

refusals!(GetMeRefusals = admin);

/// Shows who is calling
///
/// The token's subject, what it may do, and until when. Any scope of this service opens it.
#[utoipa::path(
    get,
    path = "/admin/v1/me",
    operation_id = "get_me",
    tag = "me",
    responses(
        GetMeRefusals,
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
