//! The audit: every change that operators made.

use axum::Json;
use axum::extract::State;
use utoipa::IntoParams;

use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::problem::Result;
use crate::api::query::{FromQuery, Page, PageParams, Paging, Params};
use crate::store::Store;
use crate::store::audit::AuditFilter;
use crate::wire::admin::AuditEntry;

/// The query parameters of the list, besides those of paging.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct AuditParams {
    /// Only changes by this operator
    actor: Option<String>,
    /// Only changes by this call, such as `PATCH /promotions/7`; `PATCH /promotions` matches every promotion
    call: Option<String>,
    /// Only changes at or after this instant, RFC 3339
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
    /// Only changes before this instant, RFC 3339
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
    /// `false` omits the imports of pre-offers
    imports: Option<bool>,
}

/// The filter and the page.
pub struct AuditQuery {
    filter: AuditFilter,
    paging: Paging<i64>,
}

impl FromQuery for AuditQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        let filter = AuditFilter {
            actor: params.text("actor").map(str::to_owned),
            call: params.text("call").map(str::to_owned),
            from: params.instant("from")?,
            to: params.instant("to")?,
            without_imports: params.flag("imports")? == Some(false),
        };
        Ok(Self {
            filter,
            paging: Paging::from_query(params)?,
        })
    }
}

error_responses!(ListAuditErrors = admin);

/// Lists changes
///
/// Every change made through this API or the command line, newest first. An import is one entry with
/// its file and its counts.
#[utoipa::path(
    get,
    path = "/admin/v1/audit",
    operation_id = "list_audit",
    tag = "audit",
    params(AuditParams, PageParams),
    responses(
        ListAuditErrors,
        (status = 200, description = "A page of changes", body = Page<AuditEntry>),
    ),
)]
pub async fn list(
    admin: Admin<AuditQuery>,
    State(store): State<Store>,
) -> Result<Json<Page<AuditEntry>>> {
    let AuditQuery { filter, paging } = admin.query;
    let rows = store.audit(&filter, paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |entry| entry.audit_id,
        |entry| entry,
    )))
}
