//! Cancels one client's participation.

use axum::Json;
use axum::extract::{Path, State};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::AdminState;
use crate::api::auth::{ADMIN_BASE, Admin, CANCEL_TEMPLATE};
use crate::api::error_responses::error_responses;
use crate::api::extract::JsonObject;
use crate::api::params::ParticipationPath;
use crate::api::problem::{Problem, Result};
use crate::domain::fields::{Fields, text};
use crate::domain::participation::ExpiredReason;
use crate::domain::{PromotionId, UserId};
use crate::store::early_end::CancelOutcome;
use crate::wire::participation::Participation;

/// The longest reason, in characters.
const MAX_REASON_CHARS: usize = 500;

/// Adds the calls of this file.
pub fn add_to(router: OpenApiRouter<AdminState>) -> OpenApiRouter<AdminState> {
    let (schemas, paths, cancel) = routes!(cancel);
    let mut router = router.route(&format!("{ADMIN_BASE}{CANCEL_TEMPLATE}"), cancel);
    let api = router.get_openapi_mut();
    api.paths.paths.extend(paths.paths);
    let components = api.components.get_or_insert_default();
    components.schemas.extend(schemas);
    router
}

/// Why a participation is cancelled.
#[derive(Clone, Debug, PartialEq, Eq, utoipa::ToSchema)]
pub struct Cancellation {
    /// For the audit: 1 to 500 characters.
    #[schema(
        min_length = 1,
        max_length = 500,
        example = "The client asked for it by phone",
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*[^\\s\\u0000-\\u001f\\u007f-\\u009f][^\\u0000-\\u001f\\u007f-\\u009f]*$"
    )]
    pub reason: String,
}

error_responses!(
    CancelErrors = admin, path, body, upgrade;
    Problem::not_participating(),
    Problem::not_live()
);

/// Cancels a participation
///
/// Ends a participation that is in progress (also while settling), or completed with a reward that can
/// still be accepted. Its status becomes `EXPIRED` with `expired_reason` `CANCELLED`. This cannot be
/// undone, and the client cannot start the promotion again. The end counts as acknowledged.
#[utoipa::path(
    post,
    path = "/admin/v1/users/{user_id}/participations/{promotion_id}:cancel",
    operation_id = "cancel_participation",
    tag = "users",
    params(ParticipationPath),
    request_body = Cancellation,
    responses(
        CancelErrors,
        (status = 200, description = "The participation as it is now", body = Participation),
    ),
)]
pub async fn cancel(
    admin: Admin,
    Path((user_id, action)): Path<(String, String)>,
    State(state): State<AdminState>,
    JsonObject(body): JsonObject,
) -> Result<Json<Participation>> {
    let (user_id, promotion_id) =
        participation(&user_id, &action).ok_or_else(Problem::not_found)?;
    let mut fields = Fields::of(&body);
    let reason = fields.required("reason", text(MAX_REASON_CHARS));
    let reason = fields.finish(reason).map_err(Problem::invalid_request)?;
    // The audit entry names the client only in its content, where an erasure finds it.
    let author = admin.author(format!(
        "POST /users/{{user_id}}/participations/{promotion_id}:cancel"
    ));
    let cancelled = state.store.cancel(user_id, promotion_id, reason, author);
    match cancelled.await? {
        CancelOutcome::Cancelled(stored) => {
            let reason = ExpiredReason::Cancelled.as_str();
            state.metrics.sweep.expired.add(reason, 1);
            state.outbox_wake.send_replace(());
            Ok(Json(stored.view()))
        }
        CancelOutcome::NotLive => Err(Problem::not_live()),
        CancelOutcome::NotParticipating => Err(Problem::not_participating()),
    }
}

/// The participation that a path names, in plain decimals.
fn participation(user_id: &str, action: &str) -> Option<(UserId, PromotionId)> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|_| !text.starts_with('+'));
    let promotion_id = number(action.strip_suffix(":cancel")?)?;
    let user_id = number(user_id).filter(|user_id| *user_id >= 1)?;
    Some((user_id, promotion_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_names_one_participation_and_what_to_do_with_it() {
        assert_eq!(participation("48151", "1:cancel"), Some((48_151, 1)));
        for (user_id, action) in [
            ("48151", "1"),
            ("48151", "1:accept"),
            ("48151", "+1:cancel"),
            ("48151", ":cancel"),
            ("0", "1:cancel"),
            ("+1", "1:cancel"),
            ("x", "1:cancel"),
        ] {
            assert_eq!(participation(user_id, action), None, "{user_id} {action}");
        }
    }
}
