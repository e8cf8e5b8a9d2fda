//! Promotions, as operators write them. Participations keep the conditions they started under, so
//! nothing here touches them.

use serde_json::{Value, json};

use super::{Result, Store, StoreError, audit};
use crate::domain::split::MissingSplitError;
use crate::domain::{Instant, PromotionId};
use crate::wire::admin::{NewPromotion, Promotion, PromotionPatch};

struct Row {
    promotion_id: i64,
    promotion_key: String,
    title: String,
    conditions: Value,
    missing_split: String,
    active: bool,
    created_at: Instant,
    updated_at: Instant,
}

impl TryFrom<Row> for Promotion {
    type Error = StoreError;

    fn try_from(row: Row) -> Result<Self> {
        let corrupt = |error: MissingSplitError| {
            StoreError::Corrupt(format!("promotion {}: {error}", row.promotion_id))
        };
        Ok(Self {
            promotion_id: row.promotion_id,
            promotion_key: row.promotion_key,
            title: row.title,
            conditions: row.conditions,
            missing_split: row.missing_split.parse().map_err(corrupt)?,
            active: row.active,
            created_at: row.created_at,
            updated_at: row.updated_at,
        })
    }
}

/// What became of a promotion to be created.
#[derive(Clone, Debug, PartialEq)]
pub enum Created {
    /// It is there now.
    Created(Promotion),
    /// Another one has its key.
    KeyTaken,
}

impl Store {
    /// Promotions by number: those after `after`, at most `limit`.
    pub async fn promotions(
        &self,
        after: Option<PromotionId>,
        limit: i64,
    ) -> Result<Vec<Promotion>> {
        sqlx::query_as!(
            Row,
            "select promotion_id, promotion_key, title, conditions, missing_split, active, created_at, updated_at
               from promotion
              where $1::bigint is null or promotion_id > $1
              order by promotion_id
              limit $2",
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?
        .into_iter()
        .map(Promotion::try_from)
        .collect()
    }

    /// One promotion.
    pub async fn promotion(&self, promotion_id: PromotionId) -> Result<Option<Promotion>> {
        sqlx::query_as!(
            Row,
            "select promotion_id, promotion_key, title, conditions, missing_split, active, created_at, updated_at
               from promotion where promotion_id = $1",
            promotion_id
        )
        .fetch_optional(self.pool())
        .await?
        .map(Promotion::try_from)
        .transpose()
    }

    /// Creates a promotion.
    pub async fn create_promotion(&self, new: NewPromotion, actor: &str) -> Result<Created> {
        let actor = actor.to_owned();
        self.run_tx("create_promotion", move |connection| {
            let (new, actor) = (new.clone(), actor.clone());
            Box::pin(async move {
                let row = sqlx::query_as!(
                    Row,
                    "insert into promotion (promotion_key, title, conditions, missing_split, active) values ($1, $2, $3, $4, $5)
                     on conflict (promotion_key) do nothing
                     returning promotion_id, promotion_key, title, conditions, missing_split, active, created_at, updated_at",
                    new.promotion_key,
                    new.title,
                    new.conditions,
                    new.missing_split.as_str(),
                    new.active
                )
                .fetch_optional(&mut *connection)
                .await?;
                let Some(row) = row else {
                    return Ok(Created::KeyTaken);
                };
                let created = Promotion::try_from(row)?;
                audit::record(connection, &actor, "POST /promotions", None, Some(json!(created))).await?;
                Ok(Created::Created(created))
            })
        })
        .await
    }

    /// Changes what the patch names; `None` where there is no such promotion.
    pub async fn patch_promotion(
        &self,
        promotion_id: PromotionId,
        patch: PromotionPatch,
        actor: &str,
    ) -> Result<Option<Promotion>> {
        if patch.is_empty() {
            return self.promotion(promotion_id).await;
        }
        let actor = actor.to_owned();
        self.run_tx("patch_promotion", move |connection| {
            let (patch, actor) = (patch.clone(), actor.clone());
            Box::pin(async move {
                // Waits for landings and starts that have read it, and they for this. By the table's
                // lock, which has a queue: on the row alone, ever new readers would go first.
                sqlx::query("lock table promotion in exclusive mode")
                    .execute(&mut *connection)
                    .await?;
                let before = sqlx::query_as!(
                    Row,
                    "select promotion_id, promotion_key, title, conditions, missing_split, active, created_at, updated_at
                       from promotion where promotion_id = $1 for no key update",
                    promotion_id
                )
                .fetch_optional(&mut *connection)
                .await?;
                let Some(before) = before else {
                    return Ok(None);
                };
                let before = Promotion::try_from(before)?;
                let after = sqlx::query_as!(
                    Row,
                    "update promotion
                        set title = coalesce($2, title), conditions = coalesce($3, conditions),
                            missing_split = coalesce($4, missing_split), active = coalesce($5, active), updated_at = clock_ms()
                      where promotion_id = $1
                     returning promotion_id, promotion_key, title, conditions, missing_split, active, created_at, updated_at",
                    promotion_id,
                    patch.title,
                    patch.conditions,
                    patch.missing_split.map(|missing_split| missing_split.as_str()),
                    patch.active
                )
                .fetch_one(&mut *connection)
                .await?;
                let after = Promotion::try_from(after)?;
                let call = format!("PATCH /promotions/{promotion_id}");
                audit::record(connection, &actor, &call, Some(json!(before)), Some(json!(after))).await?;
                Ok(Some(after))
            })
        })
        .await
    }
}
