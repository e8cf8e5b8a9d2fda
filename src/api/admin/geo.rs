//! The per-country flags.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::etag::{self, WithRevision};
use crate::api::extract::{JsonObject, PathParam};
use crate::api::params::CountryPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{Page, PageParams, Paging};
use crate::domain::reward::{CodeError, CountryCode};
use crate::store::Store;
use crate::wire::admin::{GeoConfig, NewGeoConfig};

error_responses!(ListGeoConfigErrors = admin);

/// Lists countries
///
/// By `country_code`. Promotions are disabled in a country that is not listed.
#[utoipa::path(
    get,
    path = "/admin/v1/geo-config",
    operation_id = "list_geo_config",
    tag = "geo-config",
    params(PageParams),
    responses(
        ListGeoConfigErrors,
        (status = 200, description = "A page of countries", body = Page<GeoConfig>),
    ),
)]
pub async fn list(
    Admin { query: paging, .. }: Admin<Paging<CountryCode>>,
    State(store): State<Store>,
) -> Result<Json<Page<GeoConfig>>> {
    let after = paging.after.as_ref().map(CountryCode::as_str);
    let rows = store.geo_config(after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |country| country.country_code.clone(),
        |country| country,
    )))
}

error_responses!(GetGeoConfigErrors = admin, path);

/// Reads a country
///
/// A country whose flag was never set is not found; promotions are disabled there.
#[utoipa::path(
    get,
    path = "/admin/v1/geo-config/{country_code}",
    operation_id = "get_geo_config",
    tag = "geo-config",
    params(CountryPath, ("If-None-Match" = Option<String>, Header, description = "Returns `304` if the country still has one of these revisions")),
    responses(
        GetGeoConfigErrors,
        (status = 200, description = "The country", body = GeoConfig, headers(("ETag" = String, description = "The revision, a strong tag"))),
        (status = 304, description = "The caller's revision is current"),
    ),
)]
pub async fn get(
    _: Admin,
    State(store): State<Store>,
    PathParam(country_code): PathParam<CountryCode>,
    headers: HeaderMap,
) -> Result<Response> {
    let country = store.country(country_code).await?;
    let country = country.ok_or_else(Problem::not_found)?;
    Ok(WithRevision(country).unless_known(&headers))
}

error_responses!(PutGeoConfigErrors = admin, path, body, conditional);

/// Sets a country's flag
///
/// Disabling a country stops new splits and starts, and nothing else: clients who have started keep
/// their progress, deadline and reward. With `If-Match`, the flag is set only if it has not changed since
/// it was read.
#[utoipa::path(
    put,
    path = "/admin/v1/geo-config/{country_code}",
    operation_id = "put_geo_config",
    tag = "geo-config",
    params(CountryPath, ("If-Match" = Option<String>, Header, description = "Sets the flag only if it has one of these revisions; with `*`, only if it exists")),
    request_body = NewGeoConfig,
    responses(
        PutGeoConfigErrors,
        (status = 200, description = "The country as it is now", body = GeoConfig, headers(("ETag" = String, description = "The revision, a strong tag"))),
    ),
)]
pub async fn put(
    admin: Admin,
    State(store): State<Store>,
    PathParam(country_code): PathParam<String>,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<WithRevision<GeoConfig>> {
    let country_code: CountryCode = country_code
        .parse()
        .map_err(|error: CodeError| Problem::invalid_field("country_code", error.to_string()))?;
    let new = NewGeoConfig::from_json(&body).map_err(Problem::invalid_request)?;
    Ok(WithRevision(
        store
            .put_geo_config(
                country_code,
                new,
                &etag::precondition(&headers),
                &admin.author(format!("PUT /geo-config/{country_code}")),
            )
            .await?,
    ))
}
