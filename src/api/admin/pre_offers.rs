//! The import of pre-offers over HTTP (contract 7).

use std::io;
use std::pin::Pin;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::State;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use futures::{Stream, StreamExt, stream};
use tokio_util::io::StreamReader;
use utoipa::IntoParams;

use super::AdminState;
use crate::api::auth::Admin;
use crate::api::dry_run::{DryRun, DryRunParams};
use crate::api::encoding::require_plain_or_gzip;
use crate::api::error_responses::error_responses;
use crate::api::problem::{Problem, Result};
use crate::api::query::{FromQuery, Params};
use crate::import::{Format, ImportError, import_pre_offers};
use crate::wire::pre_offer::ImportReport;

/// The call's path.
pub const IMPORT_PATH: &str = "/admin/v1/pre-offers:import";

/// The longest name of a file, in characters.
const MAX_FILE_CHARS: usize = 200;

/// The query parameters.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
struct ImportParams {
    /// The file's name, for the audit: 1 to 200 printable characters
    #[param(
        min_length = 1,
        max_length = 200,
        pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]+$",
        example = "pre-offers-2026-12.csv"
    )]
    file: Option<String>,
}

/// The file's name, and whether the import is only tried.
pub struct ImportQuery {
    file: Option<String>,
    dry_run: DryRun,
}

impl FromQuery for ImportQuery {
    fn from_query(params: &mut Params) -> Result<Self> {
        let file = params.parsed("file", |name| {
            let is_name = (1..=MAX_FILE_CHARS).contains(&name.chars().count())
                && !name.chars().any(char::is_control);
            if is_name {
                Ok(name.to_owned())
            } else {
                Err(format!(
                    "must be 1 to {MAX_FILE_CHARS} printable characters"
                ))
            }
        })?;
        let dry_run = DryRun::from_query(params)?;
        Ok(Self { file, dry_run })
    }
}

error_responses!(
    ImportPreOffersErrors = admin;
    Problem::malformed_request("The body broke off."),
    Problem::request_timeout(),
    Problem::unsupported_encoding("gzip, identity")
);

/// Imports pre-offers
///
/// Takes a body of any size, and imports it while it arrives: NDJSON or CSV with a header, plain or
/// gzip. If `Content-Type` names no format, the first character decides. Bad lines are rejected, and
/// the others are imported. If the body breaks off, the lines imported before stay, and sending them
/// again changes nothing. With `dry_run=true` every line is judged as an import would judge it, the
/// report has `"dry_run": true`, and nothing is changed.
#[utoipa::path(
    post,
    path = "/admin/v1/pre-offers:import",
    operation_id = "import_pre_offers",
    tag = "pre-offers",
    params(ImportParams, DryRunParams, ("Content-Encoding" = Option<String>, Header, pattern = "^(gzip|x-gzip|identity)?$", description = "`gzip` for a compressed body; gzip is recognised without it too")),
    request_body(content(
        (Option<String> = "application/x-ndjson"),
        (Option<String> = "text/csv"),
    )),
    responses(
        ImportPreOffersErrors,
        (status = 200, description = "The counts, and why lines were rejected", body = ImportReport),
    ),
)]
pub async fn import(
    admin: Admin<ImportQuery>,
    State(state): State<AdminState>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<ImportReport>> {
    let format = headers
        .get(CONTENT_TYPE)
        .and_then(|value| Format::of_content_type(value.to_str().ok()?))
        .unwrap_or(Format::Detect);
    // Gzip is recognised by its first bytes. A body with any other encoding would be read as bad lines.
    require_plain_or_gzip(&headers)?;
    let chunks = unless_silent(body.into_data_stream(), state.import_body_timeout);
    let reader = StreamReader::new(Box::pin(chunks) as Pin<Box<dyn Stream<Item = _> + Send>>);
    let report = import_pre_offers(
        &state.store,
        reader,
        format,
        &admin.actor,
        admin.query.file.as_deref(),
        admin.query.dry_run.0,
        |_| (),
    )
    .await;
    report.map(Json).map_err(problem_of)
}

/// The chunks of a body; fails if no chunk arrives for `max_silence`. Time in which no chunk is requested,
/// because a batch is being written, does not count.
fn unless_silent(
    body: BodyDataStream,
    max_silence: Duration,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(body, move |mut body| async move {
        let chunk = match tokio::time::timeout(max_silence, body.next()).await {
            Ok(None) => return None,
            Ok(Some(chunk)) => chunk.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        };
        Some((chunk, body))
    })
}

fn problem_of(error: ImportError) -> Problem {
    match error {
        ImportError::Unreadable { source, .. } if source.kind() == io::ErrorKind::TimedOut => {
            Problem::request_timeout()
        }
        ImportError::Unreadable {
            line, ref report, ..
        } => Problem::malformed_request(format!(
            "{error}. The lines up to there were {}.",
            if report.dry_run { "tried" } else { "imported" }
        ))
        .with("line", line)
        .with("report", report),
        ImportError::BadHeader(reason) => Problem::invalid_field("header", reason),
        ImportError::Store { line, source } => Problem::from(source).with("line", line),
    }
}
