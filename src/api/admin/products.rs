//! Loan products.

use axum::Json;
use axum::extract::State;

use crate::api::auth::Admin;
use crate::api::extract::{JsonObject, Page, Params, PathParam};
use crate::api::problem::{Problem, Result};
use crate::api::refusals::refusals;
use crate::store::Store;
use crate::wire::admin::{NewProduct, Product};

refusals!(ListProductsRefusals = admin, query);

/// Lists products
///
/// By `product_id`.
#[utoipa::path(
    get,
    path = "/admin/v1/products",
    operation_id = "list_products",
    tag = "products",
    params(
        ("limit" = Option<i64>, Query, minimum = 1, maximum = 200, description = "Most items of the page; 50 where not given"),
        ("cursor" = Option<String>, Query, pattern = "^[A-Za-z0-9_-]*$", description = "The `next_cursor` of the page before"),
    ),
    responses(
        ListProductsRefusals,
        (status = 200, description = "A page of products", body = Page<Product>),
    ),
)]
pub async fn list(
    _: Admin,
    State(store): State<Store>,
    params: Params,
) -> Result<Json<Page<Product>>> {
    let paging = params.paging::<i64>()?;
    let rows = store.products(paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |product| product.product_id,
        |product| product,
    )))
}

refusals!(PutProductRefusals = admin, path, body, fields);

/// Writes a product
///
/// New or not. What was accepted before keeps the product as it was then.
#[utoipa::path(
    put,
    path = "/admin/v1/products/{product_id}",
    operation_id = "put_product",
    tag = "products",
    params(("product_id" = i64, Path, minimum = 1, example = 80, description = "The product")),
    request_body = NewProduct,
    responses(
        PutProductRefusals,
        (status = 200, description = "The product as it is now", body = Product),
    ),
)]
pub async fn put(
    admin: Admin,
    State(store): State<Store>,
    PathParam(product_id): PathParam<i64>,
    JsonObject(body): JsonObject,
) -> Result<Json<Product>> {
    if product_id < 1 {
        return Err(Problem::invalid_field("product_id", "must be at least 1"));
    }
    let new = NewProduct::from_json(&body).map_err(Problem::invalid_request)?;
    Ok(Json(
        store
            .put_product(
                product_id,
                new,
                &admin.author(format!("PUT /products/{product_id}")),
            )
            .await?,
    ))
}
