//! The dry run of an import: it judges every line as an import would, but locks and writes nothing.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::{
    ImportAudit, ImportedBatch, NumberedLine, StoredPreOffer, counts, fold, promotions, stored,
};
use crate::domain::PromotionId;
use crate::postgres::Settings;
use crate::store::{Result, Store};
use crate::wire::pre_offer::PreOfferLine;

/// The dry run of an import: a session with a temporary table of what the earlier lines would have stored, so that memory
/// does not grow with the file.
#[derive(Debug)]
pub struct DryRunImport(PgConnection);

impl Store {
    /// Begins a dry run.
    pub async fn try_import(&self) -> Result<DryRunImport> {
        let mut connection = self.connect(&Settings::new("import --dry-run")).await?;
        sqlx::raw_sql(
            "create temporary table pre_offer_tried (
                 external_id  text primary key,
                 line         jsonb not null,
                 promotion_id bigint)",
        )
        .execute(&mut connection)
        .await?;
        Ok(DryRunImport(connection))
    }
}

impl DryRunImport {
    /// What [`Store::import_pre_offers`] would return for these lines, after the earlier ones.
    pub async fn import(
        &mut self,
        lines: &[NumberedLine],
        journal: &ImportAudit,
    ) -> Result<ImportedBatch> {
        let connection = &mut self.0;
        let products = products(connection, lines).await?;
        let promotions = promotions(connection, lines).await?;
        let mut known = stored(connection, lines).await?;
        known.extend(tried(connection, lines).await?);
        let folded = fold(lines, &known, &products, &promotions);
        let external_ids: Vec<&str> = folded.changes.keys().copied().collect();
        let said: Vec<Json<&PreOfferLine>> = folded
            .changes
            .values()
            .map(|change| Json(change.line))
            .collect();
        let promotion_ids: Vec<Option<PromotionId>> = folded
            .changes
            .values()
            .map(|change| change.promotion_id)
            .collect();
        // Not checked at compile time: the table exists only in this session.
        sqlx::query(
            "insert into pre_offer_tried select * from unnest($1::text[], $2::jsonb[], $3::bigint[])
             on conflict (external_id) do update set line = excluded.line, promotion_id = excluded.promotion_id",
        )
        .bind(external_ids)
        .bind(said)
        .bind(promotion_ids)
        .execute(connection)
        .await?;
        Ok(ImportedBatch {
            counts: counts(journal, &folded),
            audit_id: None,
            unknown_products: folded.unknown_products,
            unknown_promotion_keys: folded.unknown_promotion_keys,
        })
    }
}

/// Which of the products exist.
async fn products(connection: &mut PgConnection, lines: &[NumberedLine]) -> Result<HashSet<i64>> {
    let named: HashSet<i64> = lines.iter().map(|line| line.line.product_id).collect();
    let found = sqlx::query_scalar!(
        "select product_id from product where product_id = any($1)",
        &named.into_iter().collect::<Vec<_>>()
    )
    .fetch_all(connection)
    .await?;
    Ok(found.into_iter().collect())
}

/// What earlier lines would have stored of the pre-offers that these lines name.
async fn tried(
    connection: &mut PgConnection,
    lines: &[NumberedLine],
) -> Result<HashMap<String, (Uuid, StoredPreOffer)>> {
    let named: HashSet<&str> = lines
        .iter()
        .map(|line| line.line.external_id.as_str())
        .collect();
    let rows: Vec<(String, Json<PreOfferLine>, Option<PromotionId>)> = sqlx::query_as(
        "select external_id, line, promotion_id from pre_offer_tried where external_id = any($1)",
    )
    .bind(named.into_iter().collect::<Vec<_>>())
    .fetch_all(connection)
    .await?;
    let rows = rows.into_iter().map(|(external_id, line, promotion_id)| {
        let stored = StoredPreOffer {
            line: line.0,
            promotion_id,
        };
        // The id is never used or written.
        (external_id, (Uuid::nil(), stored))
    });
    Ok(rows.collect())
}
