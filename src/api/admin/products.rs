//! Loan products.

use axum::Json;
use axum::extract::State;

use crate::api::auth::Admin;
use crate::api::extract::{JsonObject, PathParam};
use crate::api::params::ProductPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{Page, PageParams, Paging};
use crate::api::refusals::refusals;
use crate::store::Store;
use crate::wire::admin::{NewProduct, Product};

refusals!(ListProductsRefusals = admin);

/// Lists products
///
/// By `product_id`.
#[utoipa::path(
    get,
    path = "/admin/v1/products",
    operation_id = "list_products",
    tag = "products",
    params(PageParams),
    responses(
        ListProductsRefusals,
        (status = 200, description = "A page of products", body = Page<Product>),
    ),
)]
pub async fn list(
    Admin { query: paging, .. }: Admin<Paging<i64>>,
    State(store): State<Store>,
) -> Result<Json<Page<Product>>> {
    let rows = store.products(paging.after, paging.fetch()).await?;
    Ok(Json(paging.page(
        rows,
        |product| product.product_id,
        |product| product,
    )))
}

refusals!(PutProductRefusals = admin, path, body);

/// Writes a product
///
/// New or not. What was accepted before keeps the product as it was then.
#[utoipa::path(
    put,
    path = "/admin/v1/products/{product_id}",
    operation_id = "put_product",
    tag = "products",
    params(ProductPath),
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
