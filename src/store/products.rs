//! The loan products behind offers.

use serde_json::json;
use sqlx::PgConnection;

use super::audit::{self, Author};
use super::{Result, Store, check};
use crate::wire::admin::{NewProduct, Product};
use crate::wire::revision::Precondition;

impl Store {
    /// Products by number: those after `after`, at most `limit`.
    pub async fn products(&self, after: Option<i64>, limit: i64) -> Result<Vec<Product>> {
        Ok(sqlx::query_as!(
            Product,
            "select product_id, name, currency_code, term_days, terms_url from product
              where $1::bigint is null or product_id > $1 order by product_id limit $2",
            after,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }

    /// One product.
    pub async fn product(&self, product_id: i64) -> Result<Option<Product>> {
        Ok(sqlx::query_as!(
            Product,
            "select product_id, name, currency_code, term_days, terms_url from product where product_id = $1",
            product_id
        )
        .fetch_optional(&mut *self.acquire().await?)
        .await?)
    }

    /// Creates or replaces a product if the precondition holds. A reward that was accepted before keeps the product
    /// as it was then.
    pub async fn put_product(
        &self,
        product_id: i64,
        new: NewProduct,
        precondition: &Precondition,
        author: &Author,
    ) -> Result<Product> {
        let (precondition, author) = (precondition.clone(), author.clone());
        self.run_tx("put_product", move |connection| {
            let (new, precondition) = (new.clone(), precondition.clone());
            let author = author.clone();
            Box::pin(async move {
                if precondition.is_some() {
                    check(&precondition, locked(&mut *connection, product_id).await?.as_ref())?;
                }
                // As in `put_geo_config`, inserting first tells a new row from an old one.
                let inserted = sqlx::query_as!(
                    Product,
                    "insert into product (product_id, name, currency_code, term_days, terms_url) values ($1, $2, $3, $4, $5)
                     on conflict (product_id) do nothing
                     returning product_id, name, currency_code, term_days, terms_url",
                    product_id,
                    new.name,
                    new.currency_code.as_str(),
                    new.term_days,
                    new.terms_url
                )
                .fetch_optional(&mut *connection)
                .await?;
                let (before, after) = match inserted {
                    Some(after) => (None, after),
                    None => {
                        let before = locked(&mut *connection, product_id).await?;
                        let after = sqlx::query_as!(
                            Product,
                            "update product set name = $2, currency_code = $3, term_days = $4, terms_url = $5, updated_at = clock_ms()
                              where product_id = $1
                             returning product_id, name, currency_code, term_days, terms_url",
                            product_id,
                            new.name,
                            new.currency_code.as_str(),
                            new.term_days,
                            new.terms_url
                        )
                        .fetch_one(&mut *connection)
                        .await?;
                        (before, after)
                    }
                };
                let before = before.map(|before| json!(before));
                audit::record(connection, &author, before, Some(json!(after))).await?;
                Ok(after)
            })
        })
        .await
    }
}

/// A product, if it exists, with its row locked.
async fn locked(connection: &mut PgConnection, product_id: i64) -> Result<Option<Product>> {
    Ok(sqlx::query_as!(
        Product,
        "select product_id, name, currency_code, term_days, terms_url from product
          where product_id = $1 for no key update",
        product_id
    )
    .fetch_optional(connection)
    .await?)
}
