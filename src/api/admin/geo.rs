//! The switch per country.

use axum::Json;
use axum::extract::State;

use crate::api::auth::Admin;
use crate::api::extract::{JsonObject, Page, Params, PathParam};
use crate::api::problem::{Problem, Result};
use crate::api::refusals::refusals;
use crate::domain::reward::{CodeError, CountryCode};
use crate::store::Store;
use crate::wire::admin::{GeoConfig, NewGeoConfig};

refusals!(ListGeoConfigRefusals = admin, query);

/// Lists countries
///
/// By `country_code`. A country that is not listed is off.
#[utoipa::path(
    get,
    path = "/admin/v1/geo-config",
    operation_id = "list_geo_config",
    tag = "geo-config",
    params(
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 200, description = "Most items of the page; 50 where not given"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]*$", description = "The `next_cursor` of the page before"),
    ),
    responses(
        ListGeoConfigRefusals,
        (status = 200, description = "A page of countries", body = Page<GeoConfig>),
    ),
)]
pub async fn list(
    _: Admin,
    State(store): State<Store>,
    params: Params,
) -> Result<Json<Page<GeoConfig>>> {
    let paging = params.paging::<CountryCode>()?;
    let after = paging.after.as_ref().map(CountryCode::as_str);
    let rows = store.geo_config(after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |country| country.country_code.clone(),
        |country| country,
    )))
}

refusals!(PutGeoConfigRefusals = admin, path, body, fields);

/// Switches a country
///
/// Off stops new splits and starts, and nothing else: who has started keeps progress, deadline and
/// reward.
#[utoipa::path(
    put,
    path = "/admin/v1/geo-config/{country_code}",
    operation_id = "put_geo_config",
    tag = "geo-config",
    params(("country_code" = String, Path, pattern = "^[A-Z]{2}$", example = "MX", description = "ISO 3166-1 alpha-2, two capital letters")),
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
