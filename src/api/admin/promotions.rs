//! Promotions: listing, creating and changing them.

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::api::auth::Admin;
use crate::api::dry_run::{DryRun, DryRunParams};
use crate::api::error_responses::error_responses;
use crate::api::etag::{self, WithRevision};
use crate::api::extract::{JsonObject, PathParam};
use crate::api::params::PromotionPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{Page, PageParams, Paging};
use crate::domain::PromotionId;
use crate::store::Store;
use crate::store::promotions::{CreateOutcome, PatchOutcome};
use crate::wire::admin::{NewPromotion, Promotion, PromotionPatch};

error_responses!(ListPromotionsErrors = admin);

/// Lists promotions
///
/// By `promotion_id`.
#[utoipa::path(
    get,
    path = "/admin/v1/promotions",
    operation_id = "list_promotions",
    tag = "promotions",
    params(PageParams),
    responses(
        ListPromotionsErrors,
        (status = 200, description = "A page of promotions", body = Page<Promotion>),
    ),
)]
pub async fn list(
    Admin { query: paging, .. }: Admin<Paging<PromotionId>>,
    State(store): State<Store>,
) -> Result<Json<Page<Promotion>>> {
    let rows = store.promotions(paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |promotion| promotion.promotion_id,
        |promotion| promotion,
    )))
}

error_responses!(
    CreatePromotionErrors = admin, body, upgrade;
    Problem::promotion_key_taken()
);

/// Creates a promotion
///
/// Checks the conditions field by field. Unknown fields are an error, so that no rule is silently
/// ignored. Pre-offers that were imported before with its key are mapped by their next import. A
/// schedule or a budget is possible once the upgrade to this release is finished.
///
/// With `dry_run=true` the same checks are made and the same response is returned, with `"dry_run":
/// true` and without `Location` and `ETag`. Nothing is created, and no later promotion gets the
/// `promotion_id` of this response.
#[utoipa::path(
    post,
    path = "/admin/v1/promotions",
    operation_id = "create_promotion",
    tag = "promotions",
    params(DryRunParams),
    request_body = NewPromotion,
    responses(
        CreatePromotionErrors,
        (status = 201, description = "The promotion is created", body = Promotion, headers(("Location" = String, description = "The promotion's address"), ("ETag" = String, description = "The revision, a strong tag"))),
    ),
)]
pub async fn create(
    admin: Admin<DryRun>,
    State(store): State<Store>,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let new = NewPromotion::from_json(&body).map_err(Problem::invalid_request)?;
    if new.needs_finished_upgrade() {
        store.require_finished_upgrade().await?;
    }
    let dry_run = admin.query;
    match store
        .create_promotion(new, &admin.author("POST /promotions"), dry_run.0)
        .await?
    {
        CreateOutcome::Created(promotion) if dry_run.0 => {
            Ok((StatusCode::CREATED, Json(dry_run.response(promotion))).into_response())
        }
        CreateOutcome::Created(promotion) => {
            let address = format!("/admin/v1/promotions/{}", promotion.promotion_id);
            let answer = (
                StatusCode::CREATED,
                [(LOCATION, address)],
                WithRevision(promotion),
            );
            Ok(answer.into_response())
        }
        CreateOutcome::KeyTaken => Err(Problem::promotion_key_taken()),
    }
}

error_responses!(GetPromotionErrors = admin, path);

/// Reads a promotion
#[utoipa::path(
    get,
    path = "/admin/v1/promotions/{promotion_id}",
    operation_id = "get_promotion",
    tag = "promotions",
    params(PromotionPath, ("If-None-Match" = Option<String>, Header, description = "Returns `304` if the promotion still has one of these revisions")),
    responses(
        GetPromotionErrors,
        (status = 200, description = "The promotion", body = Promotion, headers(("ETag" = String, description = "The revision, a strong tag"))),
        (status = 304, description = "The caller's revision is current"),
    ),
)]
pub async fn get(
    _: Admin,
    State(store): State<Store>,
    PathParam(promotion_id): PathParam<PromotionId>,
    headers: HeaderMap,
) -> Result<Response> {
    let promotion = store.promotion(promotion_id).await?;
    let promotion = promotion.ok_or_else(Problem::not_found)?;
    Ok(WithRevision(promotion).unless_known(&headers))
}

error_responses!(
    PatchPromotionErrors = admin, path, body, conditional, upgrade;
    Problem::budget_too_late()
);

/// Changes a promotion
///
/// Takes a merge patch of the top level: fields that are left out stay, and `conditions` are replaced
/// as a whole. `promotion_key` never changes. Clients who have started keep the conditions they started
/// under, and closing a promotion ends no started challenge. If a maximum of the budget becomes lower
/// than what is in use, only new starts stop. With `If-Match`, the promotion is changed only if it has
/// not changed since it was read. With `dry_run=true` the same checks are made and the promotion is
/// returned as it would be, with `"dry_run": true` and without `ETag`.
#[utoipa::path(
    patch,
    path = "/admin/v1/promotions/{promotion_id}",
    operation_id = "patch_promotion",
    tag = "promotions",
    params(PromotionPath, DryRunParams, ("If-Match" = Option<String>, Header, description = "Changes the promotion only if it has one of these revisions; with `*`, only if it exists")),
    request_body = PromotionPatch,
    responses(
        PatchPromotionErrors,
        (status = 200, description = "The promotion as it is now", body = Promotion, headers(("ETag" = String, description = "The revision, a strong tag"))),
    ),
)]
pub async fn patch(
    admin: Admin<DryRun>,
    State(store): State<Store>,
    PathParam(promotion_id): PathParam<PromotionId>,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let patch = PromotionPatch::from_json(&body).map_err(Problem::invalid_request)?;
    if patch.needs_finished_upgrade() {
        store.require_finished_upgrade().await?;
    }
    let dry_run = admin.query;
    let author = admin.author(format!("PATCH /promotions/{promotion_id}"));
    let precondition = etag::precondition(&headers);
    let patched = store.patch_promotion(promotion_id, patch, &precondition, &author, dry_run.0);
    match patched.await? {
        PatchOutcome::Patched(promotion) if dry_run.0 => {
            Ok(Json(dry_run.response(promotion)).into_response())
        }
        PatchOutcome::Patched(promotion) => Ok(WithRevision(promotion).into_response()),
        PatchOutcome::NoSuchPromotion => Err(Problem::not_found()),
        PatchOutcome::Invalid(error) => Err(Problem::invalid_request(vec![error])),
        PatchOutcome::BudgetTooLate => Err(Problem::budget_too_late()),
    }
}
