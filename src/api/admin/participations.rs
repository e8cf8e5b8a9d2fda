//! Lists and exports the participations of all clients.

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::DateTime;
use futures::stream;
use tokio::sync::mpsc;
use utoipa::IntoParams;

use crate::api::accept::{self, MediaType};
use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::problem::{Problem, Result};
use crate::api::query::{FromQuery, Page, PageParams, Paging, Params, bad_cursor};
use crate::domain::Instant;
use crate::domain::participation::StatusName;
use crate::store::listing::{ParticipationFilter, Place};
use crate::store::{Store, StoreError};
use crate::wire::listing::{CSV_HEADER, ListedParticipation};

/// How many participations of an export are read and held at a time.
const EXPORT_PAGE: i64 = 1_000;

/// The space reserved for a line of an export, in bytes.
const LINE_BYTES: usize = 512;

/// A place in the list: `started_at` in milliseconds since 1970, `user_id`, `promotion_id`.
type Cursor = (i64, i64, i64);

/// The query parameters of the list and the export.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct ParticipationParams {
    /// Only participations in this promotion
    #[param(minimum = 1)]
    promotion_id: Option<i64>,
    /// Only participations that have this status now
    status: Option<StatusName>,
    /// Only participations of this client
    #[param(minimum = 1)]
    user_id: Option<i64>,
    /// Only participations started at or after this instant, RFC 3339
    #[param(value_type = Option<String>, format = DateTime)]
    started_from: Option<String>,
    /// Only participations started before this instant, RFC 3339
    #[param(value_type = Option<String>, format = DateTime)]
    started_to: Option<String>,
}

impl FromQuery for ParticipationFilter {
    fn from_query(params: &mut Params) -> Result<Self> {
        let filter = Self {
            promotion_id: params.integer("promotion_id", 1..=i64::MAX)?,
            status: params.word("status")?,
            user_id: params.integer("user_id", 1..=i64::MAX)?,
            started_from: params.instant("started_from")?,
            started_to: params.instant("started_to")?,
        };
        if let Some(user_id) = filter.user_id {
            // The log records whose data was read.
            tracing::Span::current().record("user_id", user_id);
        }
        Ok(filter)
    }
}

/// The filter and the page.
pub struct ParticipationQuery {
    filter: ParticipationFilter,
    paging: Paging<Cursor>,
}

impl FromQuery for ParticipationQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        Ok(Self {
            filter: ParticipationFilter::from_query(params)?,
            paging: Paging::from_query(params)?,
        })
    }
}

error_responses!(ListParticipationsErrors = admin);

/// Lists participations
///
/// The newest start first. Each page shows one moment. A later page shows a later moment, and repeats no
/// participation of an earlier page.
#[utoipa::path(
    get,
    path = "/admin/v1/participations",
    operation_id = "list_participations",
    tag = "participations",
    params(ParticipationParams, PageParams),
    responses(
        ListParticipationsErrors,
        (status = 200, description = "A page of participations", body = Page<ListedParticipation>),
    ),
)]
pub async fn list(
    admin: Admin<ParticipationQuery>,
    State(store): State<Store>,
) -> Result<Json<Page<ListedParticipation>>> {
    let ParticipationQuery { filter, paging } = admin.query;
    let after = paging.after.map(place).transpose()?;
    let rows = store.participations(&filter, after, paging.fetch()).await?;
    Ok(Json(paging.page(rows, cursor, |row| row)))
}

fn cursor(row: &ListedParticipation) -> Cursor {
    let place = Place::of(row);
    (
        place.started_at.timestamp_millis(),
        place.user_id,
        place.promotion_id,
    )
}

fn place((started_at_ms, user_id, promotion_id): Cursor) -> Result<Place> {
    let started_at: Instant = DateTime::from_timestamp_millis(started_at_ms)
        .filter(|_| (0..=MAX_CURSOR_MS).contains(&started_at_ms))
        .ok_or_else(bad_cursor)?;
    Ok(Place {
        started_at,
        user_id,
        promotion_id,
    })
}

/// The end of the year 9999, which Postgres can represent too.
const MAX_CURSOR_MS: i64 = 253_402_300_799_999;

/// The format of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Ndjson,
    Csv,
}

const FORMS: [(MediaType, Form); 2] = [
    (("application", "x-ndjson"), Form::Ndjson),
    (("text", "csv"), Form::Csv),
];

error_responses!(
    ExportParticipationsErrors = admin;
    Problem::not_acceptable("application/x-ndjson, text/csv")
);

/// Exports participations
///
/// All participations of the filter, the newest start first. `Accept` chooses NDJSON (the default) or
/// CSV. The export is read and sent in pages, each of its own moment. If it fails on the way, the
/// response breaks off without the end of its chunked body. In the CSV, a text that a spreadsheet would
/// take for a formula has an apostrophe before it.
#[utoipa::path(
    get,
    path = "/admin/v1/participations:export",
    operation_id = "export_participations",
    tag = "participations",
    params(ParticipationParams),
    responses(
        ExportParticipationsErrors,
        (status = 200, description = "The participations", content(
            (String = "application/x-ndjson"),
            (String = "text/csv"),
        )),
    ),
)]
pub async fn export(
    admin: Admin<ParticipationFilter>,
    State(store): State<Store>,
    headers: HeaderMap,
) -> Result<Response> {
    let form = accept::choose(&headers, &FORMS)
        .ok_or_else(|| Problem::not_acceptable("application/x-ndjson, text/csv"))?;
    let filter = admin.query;
    // The first page decides the status: once the response has begun, it cannot report an error.
    let first = store.participations(&filter, None, EXPORT_PAGE).await?;
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(send_pages(store, filter, form, first, send));
    let chunks = stream::unfold(receive, async |mut receive| {
        receive.recv().await.map(|chunk| (chunk, receive))
    });
    let (kind, name) = match form {
        Form::Ndjson => ("application/x-ndjson", "participations.ndjson"),
        Form::Csv => (
            "text/csv; charset=utf-8; header=present",
            "participations.csv",
        ),
    };
    let disposition = format!("attachment; filename=\"{name}\"");
    let headers = [
        (CONTENT_TYPE, kind.to_owned()),
        (CONTENT_DISPOSITION, disposition),
    ];
    Ok((StatusCode::OK, headers, Body::from_stream(chunks)).into_response())
}

/// Reads page after page and sends each as a chunk. The next page is read while a chunk waits for the
/// receiver; no database session is held meanwhile. It ends when the receiver is gone.
async fn send_pages(
    store: Store,
    filter: ParticipationFilter,
    form: Form,
    first: Vec<ListedParticipation>,
    send: mpsc::Sender<std::result::Result<Bytes, StoreError>>,
) {
    if form == Form::Csv
        && send
            .send(Ok(Bytes::from_static(CSV_HEADER.as_bytes())))
            .await
            .is_err()
    {
        return;
    }
    let mut page = first;
    while let Some(last) = page.last() {
        let is_full = page.len() as i64 == EXPORT_PAGE;
        let (store, filter, after) = (store.clone(), filter.clone(), Place::of(last));
        let next = tokio::spawn(async move {
            if is_full {
                store
                    .participations(&filter, Some(after), EXPORT_PAGE)
                    .await
            } else {
                Ok(Vec::new())
            }
        });
        if send.send(Ok(written(&page, form))).await.is_err() {
            next.abort();
            return;
        }
        page = match next.await.map_err(StoreError::from).and_then(|read| read) {
            Ok(next) => next,
            Err(error) => {
                tracing::warn!(%error, "an export of participations failed");
                // The receiver may be gone too.
                let _ = send.send(Err(error)).await;
                return;
            }
        };
    }
}

fn written(page: &[ListedParticipation], form: Form) -> Bytes {
    match form {
        Form::Ndjson => {
            let mut lines = Vec::with_capacity(page.len() * LINE_BYTES * 2);
            page.iter().for_each(|row| row.write_ndjson(&mut lines));
            lines.into()
        }
        Form::Csv => {
            let mut lines = String::with_capacity(page.len() * LINE_BYTES);
            page.iter().for_each(|row| row.write_csv(&mut lines));
            lines.into()
        }
    }
}
