//! What operators changed.

use axum::Json;
use axum::extract::State;

use crate::api::auth::Admin;
use crate::api::problem::Result;
use crate::api::query::{Page, PageParams, Paging};
use crate::api::refusals::refusals;
use crate::store::Store;
use crate::wire::admin::AuditEntry;

refusals!(ListAuditRefusals = admin);

/// Lists changes
///
/// Every change made through this API or the command line, newest first.
#[utoipa::path(
    get,
    path = "/admin/v1/audit",
    operation_id = "list_audit",
    tag = "audit",
    params(PageParams),
    responses(
        ListAuditRefusals,
        (status = 200, description = "A page of changes", body = Page<AuditEntry>),
    ),
)]
pub async fn list(
    Admin { query: paging, .. }: Admin<Paging<i64>>,
    State(store): State<Store>,
) -> Result<Json<Page<AuditEntry>>> {
    let rows = store.audit(paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |entry| entry.audit_id,
        |entry| entry,
    )))
}
