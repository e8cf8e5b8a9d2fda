//! The per-country flags that allow new splits and starts.

use serde_json::json;
use sqlx::PgConnection;

use super::audit::{self, Author};
use super::{Result, Store, check};
use crate::domain::reward::CountryCode;
use crate::wire::admin::{GeoConfig, NewGeoConfig};
use crate::wire::revision::Precondition;

impl Store {
    /// Countries by code: those after `after`, at most `limit`.
    pub async fn geo_config(&self, after: Option<&str>, limit: i64) -> Result<Vec<GeoConfig>> {
        Ok(sqlx::query_as!(
            GeoConfig,
            "select country_code, promotions_enabled, updated_at from geo_config
              where $1::text is null or country_code > $1 order by country_code limit $2",
            after,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }

    /// One country.
    pub async fn country(&self, country_code: CountryCode) -> Result<Option<GeoConfig>> {
        Ok(sqlx::query_as!(
            GeoConfig,
            "select country_code, promotions_enabled, updated_at from geo_config where country_code = $1",
            country_code.as_str()
        )
        .fetch_optional(&mut *self.acquire().await?)
        .await?)
    }

    /// Sets a country's flag if the precondition holds. A start shares a lock on the table until it commits, so
    /// every start that commits after this call has seen the new flag.
    pub async fn put_geo_config(
        &self,
        country_code: CountryCode,
        new: NewGeoConfig,
        precondition: &Precondition,
        author: &Author,
    ) -> Result<GeoConfig> {
        let (precondition, author) = (precondition.clone(), author.clone());
        self.run_tx("put_geo_config", move |connection| {
            let (precondition, author) = (precondition.clone(), author.clone());
            Box::pin(async move {
                let country_code = country_code.as_str();
                // Waits for landings and starts that have read it; later ones wait for this. The lock is on
                // the table, because it has a queue: on the row, new readers could always go first.
                sqlx::query("lock table geo_config in exclusive mode")
                    .execute(&mut *connection)
                    .await?;
                if precondition.is_some() {
                    check(&precondition, locked(&mut *connection, country_code).await?.as_ref())?;
                }
                // Inserting first tells a new row from an old one under the row's lock. So two concurrent
                // writers of a country both record what they replaced.
                let inserted = sqlx::query_as!(
                    GeoConfig,
                    "insert into geo_config (country_code, promotions_enabled) values ($1, $2)
                     on conflict (country_code) do nothing
                     returning country_code, promotions_enabled, updated_at",
                    country_code,
                    new.promotions_enabled
                )
                .fetch_optional(&mut *connection)
                .await?;
                let (before, after) = match inserted {
                    Some(after) => (None, after),
                    None => {
                        let before = locked(&mut *connection, country_code).await?;
                        let after = sqlx::query_as!(
                            GeoConfig,
                            "update geo_config set promotions_enabled = $2, updated_at = clock_ms() where country_code = $1
                             returning country_code, promotions_enabled, updated_at",
                            country_code,
                            new.promotions_enabled
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

/// A country, if it exists, with its row locked.
async fn locked(connection: &mut PgConnection, country_code: &str) -> Result<Option<GeoConfig>> {
    Ok(sqlx::query_as!(
        GeoConfig,
        "select country_code, promotions_enabled, updated_at from geo_config
          where country_code = $1 for no key update",
        country_code
    )
    .fetch_optional(connection)
    .await?)
}
