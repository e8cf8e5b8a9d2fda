//! What operators changed.

use axum::Json;
use axum::extract::State;

use crate::api::auth::Admin;
use crate::api::extract::{Page, Params};
use crate::api::problem::Result;
use crate::api::refusals::refusals;
use crate::store::Store;
use crate::wire::admin::AuditEntry;

refusals!(ListAuditRefusals = admin, query);

/// Lists changes
///
/// Every change made through this API or the command line, newest first.
#[utoipa::path(
    get,
    path = "/admin/v1/audit",
    operation_id = "list_audit",
    tag = "audit",
    params(
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 200, description = "Most items of the page; 50 where not given"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]*$", description = "The `next_cursor` of the page before"),
    ),
    responses(
        ListAuditRefusals,
        (status = 200, description = "A page of changes", body = Page<AuditEntry>),
    ),
)]
pub async fn list(
    _: Admin,
    State(store): State<Store>,
    params: Params,
) -> Result<Json<Page<AuditEntry>>> {
    let paging = params.paging::<i64>()?;
    let rows = store.audit(paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |entry| entry.audit_id,
        |entry| entry,
    )))
}
