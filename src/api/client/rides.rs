//! The receipts of a participation.

use axum::Json;
use axum::extract::State;
use chrono::DateTime;
use uuid::Uuid;

use super::ClientState;
use crate::api::auth::Client;
use crate::api::error_responses::error_responses;
use crate::api::extract::PathParam;
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{Page, PageParams, Paging, bad_cursor};
use crate::domain::{Instant, PromotionId};
use crate::store::participations;
use crate::wire::receipt::Receipt;

/// A place in the list: [`listed_at`](participations::StoredReceipt::listed_at) in milliseconds since 1970,
/// and `ride_id`.
type Cursor = (i64, Uuid);

error_responses!(
    RidesErrors = client, path;
    Problem::not_participating()
);

/// Lists the client's rides
///
/// Returns every ride that was judged for this participation, the newest `completed_at` first, with
/// whether it counted, or why not.
#[utoipa::path(
    get,
    path = "/v1/promotions/{promotion_id}/rides",
    operation_id = "rides",
    tag = "promotions",
    params(
        PromotionPath,
        PageParams,
    ),
    responses(
        RidesErrors,
        (status = 200, description = "A page of receipts", body = Page<Receipt>),
    ),
)]
pub async fn rides(
    client: Client<Paging<Cursor>>,
    PathParam(promotion_id): PathParam<PromotionId>,
    State(state): State<ClientState>,
) -> Result<Json<Page<Receipt>>> {
    let paging = client.query;
    let after = match paging.after {
        None => None,
        Some((at, ride_id)) => Some((instant(at)?, ride_id)),
    };
    let receipts = state
        .store
        .receipts(client.user_id, promotion_id, after, paging.fetch())
        .await?;
    // A client with a receipt participates; only an empty page leaves the question open.
    if receipts.is_empty() {
        let participation = state.store.participation(client.user_id, promotion_id);
        if participation.await?.is_none() {
            return Err(Problem::not_participating());
        }
    }
    let place = |receipt: &participations::StoredReceipt| -> Cursor {
        (receipt.listed_at().timestamp_millis(), receipt.ride_id)
    };
    Ok(Json(paging.page(
        receipts,
        place,
        participations::StoredReceipt::view,
    )))
}

/// Rides are of this millennium; another time was never part of a cursor.
fn instant(at_ms: i64) -> Result<Instant> {
    DateTime::from_timestamp_millis(at_ms)
        .filter(|_| at_ms >= 0)
        .ok_or_else(bad_cursor)
}
