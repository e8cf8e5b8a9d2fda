//! Extensions of deadlines: ordering one, and reading its progress.

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use super::AdminState;
use crate::api::auth::{Admin, Scope};
use crate::api::dry_run::{DryRun, DryRunParams};
use crate::api::error_responses::error_responses;
use crate::api::extract::{JsonObject, PathParam};
use crate::api::params::ExtensionPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{Page, PageParams, Paging};
use crate::domain::fields::shown;
use crate::store::Store;
use crate::store::extensions::ExtendOutcome;
use crate::wire::extension::{ExtensionView, NewExtension, NewExtensionBody};

/// The header that lets a repeated call have no second effect.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// The longest key, in characters.
const MAX_KEY_CHARS: usize = 255;

error_responses!(ListExtensionsErrors = admin);

/// Lists extensions
///
/// The newest first.
#[utoipa::path(
    get,
    path = "/admin/v1/extensions",
    operation_id = "list_extensions",
    tag = "extensions",
    params(PageParams),
    responses(
        ListExtensionsErrors,
        (status = 200, description = "A page of extensions", body = Page<ExtensionView>),
    ),
)]
pub async fn list(
    Admin { query: paging, .. }: Admin<Paging<i64>>,
    State(store): State<Store>,
) -> Result<Json<Page<ExtensionView>>> {
    let rows = store.extensions(paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |(number, _)| *number,
        |(_, extension)| extension,
    )))
}

error_responses!(CreateExtensionErrors = admin, body, upgrade);

/// Extends deadlines
///
/// Gives clients more time: it covers every participation that matches and is `IN_PROGRESS`
/// (`COMPLETED`) at the instant `at`, with the deadline after it or settling. From the response on,
/// none of them expires or gets an error response because of the old deadline. They are extended in the
/// background, each once, and each gets a `promotion.extended`. Rides that were too late only for the
/// old deadline are judged again. `matched` is the number covered at `at`, if it could be counted within
/// 3 s.
///
/// With `dry_run=true` the same checks are made and the same response is returned, with `"dry_run":
/// true` and without `Location`, and nothing is extended.
#[utoipa::path(
    post,
    path = "/admin/v1/extensions",
    operation_id = "create_extension",
    tag = "extensions",
    params(
        DryRunParams,
        ("Idempotency-Key" = String, Header, pattern = "^[!-~]{1,255}$", description = "1 to 255 visible ASCII characters. The same key with the same body returns the same extension; with another body the response is `422`"),
    ),
    request_body = NewExtensionBody,
    responses(
        CreateExtensionErrors,
        (status = 202, description = "The extension is in force, by this call or an earlier one with the same key", body = ExtensionView, headers(("Location" = String, description = "The extension's address"))),
    ),
)]
pub async fn create(
    admin: Admin<DryRun>,
    State(state): State<AdminState>,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<Response> {
    let key = idempotency_key(&headers)?;
    let new = NewExtension::from_json(&body).map_err(Problem::invalid_request)?;
    admin.require(Scope::of_extension(new.scope.user_id.is_some()))?;
    let dry_run = admin.query;
    let author = admin.author("POST /extensions");
    let extended = if dry_run.0 {
        state.store.try_extend(&new, &key).await?
    } else {
        state.store.extend(&new, &key, &author).await?
    };
    match extended {
        ExtendOutcome::Accepted(extension) if dry_run.0 => {
            Ok((StatusCode::ACCEPTED, Json(dry_run.response(extension))).into_response())
        }
        ExtendOutcome::Accepted(extension) => {
            state.outbox_wake.send_replace(());
            let address = format!("/admin/v1/extensions/{}", extension.extension_id);
            let answer = (StatusCode::ACCEPTED, [(LOCATION, address)], Json(extension));
            Ok(answer.into_response())
        }
        ExtendOutcome::OtherBody => Err(Problem::invalid_field(
            IDEMPOTENCY_KEY,
            "belongs to an earlier extension with another body",
        )),
        ExtendOutcome::NoSuchPromotion => Err(unknown("promotion_id", &body)),
        ExtendOutcome::NoSuchOutage => Err(unknown("outage_id", &body)),
        ExtendOutcome::TooMany => Err(Problem::temporarily_unavailable()),
    }
}

fn unknown(field: &str, body: &serde_json::Map<String, serde_json::Value>) -> Problem {
    let value = body.get(field).map(ToString::to_string).unwrap_or_default();
    Problem::invalid_field(field, format!("is not known, got {}", shown(&value)))
}

fn idempotency_key(headers: &HeaderMap) -> Result<String> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else {
        return Err(Problem::invalid_field(IDEMPOTENCY_KEY, "is required"));
    };
    let text = value.to_str().unwrap_or_default();
    let fits = (1..=MAX_KEY_CHARS).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if fits {
        Ok(text.to_owned())
    } else {
        Err(Problem::invalid_field(
            IDEMPOTENCY_KEY,
            format!("must be 1 to {MAX_KEY_CHARS} visible ASCII characters"),
        ))
    }
}

error_responses!(GetExtensionErrors = admin, path);

/// Reads an extension
#[utoipa::path(
    get,
    path = "/admin/v1/extensions/{extension_id}",
    operation_id = "get_extension",
    tag = "extensions",
    params(ExtensionPath),
    responses(
        GetExtensionErrors,
        (status = 200, description = "The extension", body = ExtensionView),
    ),
)]
pub async fn get(
    _: Admin,
    State(store): State<Store>,
    PathParam(extension_id): PathParam<Uuid>,
) -> Result<Json<ExtensionView>> {
    let extension = store.extension(extension_id).await?;
    extension.map(Json).ok_or_else(Problem::not_found)
}
