//! Late reversals: rides that the platform took back after their challenge was completed.

use axum::Json;
use axum::extract::State;
use chrono::DateTime;
use uuid::Uuid;

use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::problem::Result;
use crate::api::query::{Page, PageParams, Paging, bad_cursor};
use crate::domain::{PromotionId, UserId};
use crate::store::Store;
use crate::store::rides::reversals;
use crate::wire::receipt::LateReversal;

/// A place in the list: `reversed_at` in milliseconds since 1970, client, promotion and ride.
type Cursor = (i64, UserId, PromotionId, Uuid);

error_responses!(ListReversalsErrors = admin);

/// Lists late reversals
///
/// Rides that the platform took back after their challenge had been completed, newest first. They
/// changed nothing; an operator decides what to do about the reward.
#[utoipa::path(
    get,
    path = "/admin/v1/reversals",
    operation_id = "list_reversals",
    tag = "users",
    params(PageParams),
    responses(
        ListReversalsErrors,
        (status = 200, description = "A page of reversals", body = Page<LateReversal>),
    ),
)]
pub async fn list(
    Admin { query: paging, .. }: Admin<Paging<Cursor>>,
    State(store): State<Store>,
) -> Result<Json<Page<LateReversal>>> {
    let after: Option<reversals::Place> = match paging.after {
        None => None,
        Some((at, user_id, promotion_id, ride_id)) => {
            let at = DateTime::from_timestamp_millis(at).ok_or_else(bad_cursor)?;
            Some((at, user_id, promotion_id, ride_id))
        }
    };
    let rows = store.late_reversals(after, paging.fetch()).await?;
    let place = |row: &LateReversal| -> Cursor {
        let at = row.reversed_at.timestamp_millis();
        (at, row.user_id, row.promotion_id, row.ride_id)
    };
    Ok(Json(paging.page(rows, place, |row| row)))
}
