//! The switch per country.

use axum::Json;
use axum::extract::State;

use crate::api::auth::Admin;
use crate::api::extract::{JsonObject, PathParam};
use crate::api::params::CountryPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{Page, PageParams, Paging};
use crate::api::refusals::refusals;
use crate::domain::reward::{CodeError, CountryCode};
use crate::store::Store;
use crate::wire::admin::{GeoConfig, NewGeoConfig};

refusals!(ListGeoConfigRefusals = admin);

/// Lists countries
///
/// By `country_code`. A country that is not listed is off.
#[utoipa::path(
    get,
    path = "/admin/v1/geo-config",
    operation_id = "list_geo_config",
    tag = "geo-config",
    params(PageParams),
    responses(
        ListGeoConfigRefusals,
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

refusals!(PutGeoConfigRefusals = admin, path, body);

/// Switches a country
///
/// Off stops new splits and starts, and nothing else: who has started keeps progress, deadline and
/// reward.
#[utoipa::path(
    put,
    path = "/admin/v1/geo-config/{country_code}",
    operation_id = "put_geo_config",
    tag = "geo-config",
    params(CountryPath),
    request_body = NewGeoConfig,
    responses(
        PutGeoConfigRefusals,
        (status = 200, description = "The country as it is now", body = GeoConfig),
    ),
)]
pub async fn put(
    admin: Admin,
    State(store): State<Store>,
    PathParam(country_code): PathParam<String>,
    JsonObject(body): JsonObject,
) -> Result<Json<GeoConfig>> {
    let country_code: CountryCode = country_code
        .parse()
        .map_err(|error: CodeError| Problem::invalid_field("country_code", error.to_string()))?;
    let new = NewGeoConfig::from_json(&body).map_err(Problem::invalid_request)?;
    Ok(Json(
        store
            .put_geo_config(
                country_code,
                new,
                &admin.author(format!("PUT /geo-config/{country_code}")),
            )
            .await?,
    ))
}
