//! Loan products.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;

use crate::api::auth::Admin;
use crate::api::error_responses::error_responses;
use crate::api::etag::{self, WithRevision};
use crate::api::extract::{JsonObject, PathParam};
use crate::api::params::ProductPath;
use crate::api::problem::{Problem, Result};
use crate::api::query::{Page, PageParams, Paging};
use crate::store::Store;
use crate::wire::admin::{NewProduct, Product};

error_responses!(ListProductsErrors = admin);

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
        ListProductsErrors,
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

error_responses!(GetProductErrors = admin, path);

/// Reads a product
#[utoipa::path(
    get,
    path = "/admin/v1/products/{product_id}",
    operation_id = "get_product",
    tag = "products",
    params(ProductPath, ("If-None-Match" = Option<String>, Header, description = "Returns `304` if the product still has one of these revisions")),
    responses(
        GetProductErrors,
        (status = 200, description = "The product", body = Product, headers(("ETag" = String, description = "The revision, a strong tag"))),
        (status = 304, description = "The caller's revision is current"),
    ),
)]
pub async fn get(
    _: Admin,
    State(store): State<Store>,
    PathParam(product_id): PathParam<i64>,
    headers: HeaderMap,
) -> Result<Response> {
    let product = store.product(product_id).await?;
    let product = product.ok_or_else(Problem::not_found)?;
    Ok(WithRevision(product).unless_known(&headers))
}

error_responses!(PutProductErrors = admin, path, body, conditional);

/// Creates or replaces a product
///
/// A reward that was accepted before keeps the product as it was then. With `If-Match`, the product is
/// written only if it has not changed since it was read.
#[utoipa::path(
    put,
    path = "/admin/v1/products/{product_id}",
    operation_id = "put_product",
    tag = "products",
    params(ProductPath, ("If-Match" = Option<String>, Header, description = "Writes the product only if it has one of these revisions; with `*`, only if it exists")),
    request_body = NewProduct,
    responses(
        PutProductErrors,
        (status = 200, description = "The product as it is now", body = Product, headers(("ETag" = String, description = "The revision, a strong tag"))),
    ),
)]
pub async fn put(
    admin: Admin,
    State(store): State<Store>,
    PathParam(product_id): PathParam<i64>,
    headers: HeaderMap,
    JsonObject(body): JsonObject,
) -> Result<WithRevision<Product>> {
    if product_id < 1 {
        return Err(Problem::invalid_field("product_id", "must be at least 1"));
    }
    let new = NewProduct::from_json(&body).map_err(Problem::invalid_request)?;
    Ok(WithRevision(
        store
            .put_product(
                product_id,
                new,
                &etag::precondition(&headers),
                &admin.author(format!("PUT /products/{product_id}")),
            )
            .await?,
    ))
}
