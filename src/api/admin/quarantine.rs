//! Quarantined records: listing them, and replaying or dismissing one or many.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::DateTime;
use utoipa::IntoParams;
use uuid::Uuid;

use super::AdminState;
use crate::api::auth::Admin;
use crate::api::dry_run::{DryRun, DryRunParams, DryRunResponse};
use crate::api::error_responses::error_responses;
use crate::api::extract::{JsonObject, OptionalJsonObject, PathParam};
use crate::api::params::QuarantinePath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{FromQuery, Page, PageParams, Paging, Params, bad_cursor};
use crate::domain::fields::FieldError;
use crate::domain::{Instant, UserId};
use crate::store::Store;
use crate::store::participations;
use crate::store::quarantine::{
    BulkResolved, BulkSelection, Dismissal, QuarantineFilter, QuarantineRecord, ReplayResult,
};
use crate::store::rides::AppliedOne;
use crate::wire::quarantine::{
    BulkRequest, Correction, DismissalReason, QuarantineStatus, QuarantinedView, Replayed,
};
use crate::wire::ride_completed::{Fault, QuarantineReason};

/// The path of replaying many.
pub const REPLAY_ALL_PATH: &str = "/admin/v1/quarantine:replay";

/// The path of dismissing many.
pub const DISMISS_ALL_PATH: &str = "/admin/v1/quarantine:dismiss";

/// A place in the list: `received_at` in milliseconds since 1970, and `quarantine_id`.
type Cursor = (i64, Uuid);

/// The query parameters of the list, besides those of paging.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct QuarantineParams {
    /// Only records with this status
    status: Option<QuarantineStatus>,
    /// Only records of this client
    #[param(minimum = 1)]
    user_id: Option<i64>,
    /// Only records with this reason
    reason: Option<QuarantineReason>,
    /// Only records received at or after this instant, RFC 3339
    #[param(value_type = Option<String>, format = DateTime)]
    from: Option<String>,
    /// Only records received before this instant, RFC 3339
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<String>,
}

/// The filter and the page.
pub struct QuarantineQuery {
    filter: QuarantineFilter,
    paging: Paging<Cursor>,
}

impl FromQuery for QuarantineQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        let filter = QuarantineFilter {
            status: params.word("status")?,
            user_id: params.integer("user_id", 1..=i64::MAX)?,
            reason: params.word("reason")?,
            from: params.instant("from")?,
            to: params.instant("to")?,
        };
        if let Some(user_id) = filter.user_id {
            // The log records whose data was read.
            tracing::Span::current().record("user_id", user_id);
        }
        let paging = Paging::from_query(params)?;
        Ok(Self { filter, paging })
    }
}

error_responses!(ListQuarantineErrors = admin);

/// Lists quarantined records
///
/// The newest first. A page has fewer than `limit` records if their values are large; `next_cursor` says
/// whether there are more.
#[utoipa::path(
    get,
    path = "/admin/v1/quarantine",
    operation_id = "list_quarantine",
    tag = "quarantine",
    params(
        QuarantineParams,
        PageParams,
    ),
    responses(
        ListQuarantineErrors,
        (status = 200, description = "A page of records", body = Page<QuarantinedView>),
    ),
)]
pub async fn list(
    admin: Admin<QuarantineQuery>,
    State(store): State<Store>,
) -> Result<Json<Page<QuarantinedView>>> {
    let QuarantineQuery { filter, paging } = admin.query;
    let after = match paging.after {
        None => None,
        Some((at_ms, quarantine_id)) => Some((place_instant(at_ms)?, quarantine_id)),
    };
    let page = store.quarantined(filter, after, paging.limit).await?;
    let place = |record: &QuarantineRecord| -> Cursor {
        (record.received_at.timestamp_millis(), record.quarantine_id)
    };
    Ok(Json(Page::of(page.records, page.more, place, |record| {
        record.view()
    })))
}

/// The time in a cursor. Records are received now; a time out of range was never part of a cursor.
fn place_instant(at_ms: i64) -> Result<Instant> {
    DateTime::from_timestamp_millis(at_ms)
        .filter(|_| at_ms >= 0)
        .ok_or_else(bad_cursor)
}

error_responses!(
    ReplayQuarantinedErrors = admin, path, body;
    Problem::already_resolved()
);

/// Replays a record
///
/// Judges the record, or its correction, by its own `completed_at`, and resolves it in the same
/// transaction. A record that still is not a valid ride stays open.
/// With `dry_run=true` the call returns the same outcome with `"dry_run": true`, and changes nothing.
#[utoipa::path(
    post,
    path = "/admin/v1/quarantine/{quarantine_id}/replay",
    operation_id = "replay_quarantined",
    tag = "quarantine",
    params(QuarantinePath, DryRunParams),
    request_body = Option<Correction>,
    responses(
        ReplayQuarantinedErrors,
        (status = 200, description = "The record is resolved", body = Replayed),
    ),
)]
pub async fn replay(
    admin: Admin<DryRun>,
    State(state): State<AdminState>,
    PathParam(quarantine_id): PathParam<Uuid>,
    OptionalJsonObject(body): OptionalJsonObject,
) -> Result<Json<DryRunResponse<Replayed>>> {
    let correction = Correction::from_json(&body).map_err(Problem::invalid_request)?;
    // The store reads the correction as it reads a record of the topic, once the record is known to be
    // open.
    let corrected = correction.ride.map(|ride| ride.to_string().into_bytes());
    let is_corrected = corrected.is_some();
    let dry_run = admin.query;
    let replayed = state
        .store
        .replay_quarantined(
            quarantine_id,
            corrected,
            &admin.author(format!("POST /quarantine/{quarantine_id}/replay")),
            dry_run.0,
        )
        .await?;
    match replayed {
        ReplayResult::Resolved(applied) => {
            state.outbox_wake.send_replace(());
            Ok(Json(dry_run.response(answer(&applied))))
        }
        ReplayResult::StillBad(faults) if is_corrected => Err(bad_ride("ride", &faults)),
        ReplayResult::StillBad(faults) => Err(bad_ride("value", &faults)),
        ReplayResult::OtherClient(user_id) => Err(other_client(user_id)),
        ReplayResult::AlreadyResolved => Err(Problem::already_resolved()),
        ReplayResult::NotFound => Err(Problem::not_found()),
    }
}

/// The error response to an invalid ride. A wrong JSON type is a fault of the ride like any other; it
/// does not make the request malformed.
pub(super) fn bad_ride(of: &str, faults: &[Fault]) -> Problem {
    let errors = faults.iter().map(|fault| {
        let field = match fault.field {
            "" => of.to_owned(),
            field => format!("{of}.{field}"),
        };
        FieldError::invalid(field, fault.detail.as_str())
    });
    Problem::invalid_request(errors.collect())
}

fn selection(bulk: &BulkRequest) -> BulkSelection {
    BulkSelection {
        reason: bulk.reason,
        from: bulk.from,
        to: bulk.to,
    }
}

fn other_client(user_id: UserId) -> Problem {
    let reason = format!("must be {user_id}, the record's client");
    Problem::invalid_field("ride.user_id", reason)
}

/// The result of applying one ride.
pub(super) fn answer(applied: &AppliedOne) -> Replayed {
    Replayed {
        outcome: applied.outcome(),
        receipt: applied
            .receipt()
            .cloned()
            .map(participations::StoredReceipt::view),
    }
}

error_responses!(
    DismissQuarantinedErrors = admin, path, body;
    Problem::already_resolved()
);

/// Dismisses a record
#[utoipa::path(
    post,
    path = "/admin/v1/quarantine/{quarantine_id}/dismiss",
    operation_id = "dismiss_quarantined",
    tag = "quarantine",
    params(QuarantinePath),
    request_body = DismissalReason,
    responses(
        DismissQuarantinedErrors,
        (status = 204, description = "The record is resolved"),
    ),
)]
pub async fn dismiss(
    admin: Admin,
    State(store): State<Store>,
    PathParam(quarantine_id): PathParam<Uuid>,
    JsonObject(body): JsonObject,
) -> Result<StatusCode> {
    let dismissal = DismissalReason::from_json(&body).map_err(Problem::invalid_request)?;
    let dismissed = store
        .dismiss_quarantined(
            quarantine_id,
            &dismissal.reason,
            &admin.author(format!("POST /quarantine/{quarantine_id}/dismiss")),
        )
        .await?;
    match dismissed {
        Dismissal::Dismissed => Ok(StatusCode::NO_CONTENT),
        Dismissal::AlreadyResolved => Err(Problem::already_resolved()),
        Dismissal::NotFound => Err(Problem::not_found()),
    }
}

error_responses!(ReplayQuarantineErrors = admin, body);

/// Replays many records
///
/// Replays every open record of the selection that was received until now. Records that still are not
/// valid rides stay open.
/// With `dry_run=true` the call returns the same counts with `"dry_run": true`, and changes nothing.
#[utoipa::path(
    post,
    path = "/admin/v1/quarantine:replay",
    operation_id = "replay_quarantine",
    tag = "quarantine",
    params(DryRunParams),
    request_body = BulkRequest,
    responses(
        ReplayQuarantineErrors,
        (status = 200, description = "The counts", body = BulkResolved),
    ),
)]
pub async fn replay_all(
    admin: Admin<DryRun>,
    State(state): State<AdminState>,
    JsonObject(body): JsonObject,
) -> Result<Json<DryRunResponse<BulkResolved>>> {
    let bulk = BulkRequest::from_json(&body).map_err(Problem::invalid_request)?;
    let dry_run = admin.query;
    let done = state
        .store
        .replay_quarantine(
            &selection(&bulk),
            &bulk.note,
            &admin.author("POST /quarantine:replay"),
            dry_run.0,
        )
        .await?;
    state.outbox_wake.send_replace(());
    Ok(Json(dry_run.response(done)))
}

error_responses!(DismissQuarantineErrors = admin, body);

/// Dismisses many records
///
/// Dismisses every open record of the selection that was received until now.
/// With `dry_run=true` the call returns the same counts with `"dry_run": true`, and changes nothing.
#[utoipa::path(
    post,
    path = "/admin/v1/quarantine:dismiss",
    operation_id = "dismiss_quarantine",
    tag = "quarantine",
    params(DryRunParams),
    request_body = BulkRequest,
    responses(
        DismissQuarantineErrors,
        (status = 200, description = "The counts", body = BulkResolved),
    ),
)]
pub async fn dismiss_all(
    admin: Admin<DryRun>,
    State(store): State<Store>,
    JsonObject(body): JsonObject,
) -> Result<Json<DryRunResponse<BulkResolved>>> {
    let bulk = BulkRequest::from_json(&body).map_err(Problem::invalid_request)?;
    let (dry_run, author) = (admin.query, admin.author("POST /quarantine:dismiss"));
    let done = store
        .dismiss_quarantine(&selection(&bulk), &bulk.note, &author, dry_run.0)
        .await?;
    Ok(Json(dry_run.response(done)))
}
