//! The times in which the API could not reach Postgres.

use axum::Json;
use axum::extract::State;

use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::problem::Result;
use crate::api::query::{Page, PageParams, Paging};
use crate::store::Store;
use crate::wire::extension::OutageView;

error_responses!(ListOutagesErrors = admin);

/// Lists outages
///
/// Times of more than 5 minutes in which no process with the role `api` reached Postgres, newest
/// first. The newest 1,000 are kept. An outage extends no deadline by itself: name it as `outage_id` in
/// an extension.
#[utoipa::path(
    get,
    path = "/admin/v1/outages",
    operation_id = "list_outages",
    tag = "extensions",
    params(PageParams),
    responses(
        ListOutagesErrors,
        (status = 200, description = "A page of outages", body = Page<OutageView>),
    ),
)]
pub async fn list(
    Admin { query: paging, .. }: Admin<Paging<i64>>,
    State(store): State<Store>,
) -> Result<Json<Page<OutageView>>> {
    let rows = store.outages(paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |(number, _)| *number,
        |(_, outage)| outage,
    )))
}
