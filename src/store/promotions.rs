//! Promotions, as operators write them. Participations keep the conditions they started under, so
//! nothing here touches them.

use serde_json::json;

use super::audit::{self, Author};
use super::{Result, Store, check};
use crate::domain::PromotionId;
use crate::domain::split::MissingSplit;
use crate::wire::admin::{NewPromotion, Promotion, PromotionPatch};
use crate::wire::revision::Precondition;

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
        Ok(sqlx::query_as!(
            Promotion,
            r#"select promotion_id, promotion_key, title, conditions, missing_split as "missing_split: MissingSplit", active, created_at,
                 updated_at
               from promotion
              where $1::bigint is null or promotion_id > $1
              order by promotion_id
              limit $2"#,
            after,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }

    /// One promotion.
    pub async fn promotion(&self, promotion_id: PromotionId) -> Result<Option<Promotion>> {
        Ok(sqlx::query_as!(
            Promotion,
            r#"select promotion_id, promotion_key, title, conditions, missing_split as "missing_split: MissingSplit", active, created_at,
                 updated_at
               from promotion where promotion_id = $1"#,
            promotion_id
        )
        .fetch_optional(&mut *self.acquire().await?)
        .await?)
    }

    /// Creates a promotion.
    pub async fn create_promotion(&self, new: NewPromotion, author: &Author) -> Result<Created> {
        let author = author.clone();
        self.run_tx("create_promotion", move |connection| {
            let (new, author) = (new.clone(), author.clone());
            Box::pin(async move {
                let created = sqlx::query_as!(
                    Promotion,
                    r#"insert into promotion (promotion_key, title, conditions, missing_split, active) values ($1, $2, $3, $4, $5)
                     on conflict (promotion_key) do nothing
                     returning promotion_id, promotion_key, title, conditions, missing_split as "missing_split: MissingSplit", active, created_at,
                 updated_at"#,
                    new.promotion_key,
                    new.title,
                    new.conditions,
                    new.missing_split as MissingSplit,
                    new.active
                )
                .fetch_optional(&mut *connection)
                .await?;
                let Some(created) = created else {
                    return Ok(Created::KeyTaken);
                };
                audit::record(connection, &author, None, Some(json!(created))).await?;
                Ok(Created::Created(created))
            })
        })
        .await
    }

    /// Changes what the patch names, where the precondition holds; `None` where there is no such
    /// promotion.
    pub async fn patch_promotion(
        &self,
        promotion_id: PromotionId,
        patch: PromotionPatch,
        precondition: &Precondition,
        author: &Author,
    ) -> Result<Option<Promotion>> {
        if patch.is_empty() {
            let promotion = self.promotion(promotion_id).await?;
            if promotion.is_some() {
                check(precondition, promotion.as_ref())?;
            }
            return Ok(promotion);
        }
        let (precondition, author) = (precondition.clone(), author.clone());
        self.run_tx("patch_promotion", move |connection| {
            let (patch, precondition) = (patch.clone(), precondition.clone());
            let author = author.clone();
            Box::pin(async move {
                // Waits for landings and starts that have read it, and they for this. By the table's
                // lock, which has a queue: on the row alone, ever new readers would go first.
                sqlx::query("lock table promotion in exclusive mode")
                    .execute(&mut *connection)
                    .await?;
                let before = sqlx::query_as!(
                    Promotion,
                    r#"select promotion_id, promotion_key, title, conditions, missing_split as "missing_split: MissingSplit", active, created_at,
                 updated_at
                       from promotion where promotion_id = $1 for no key update"#,
                    promotion_id
                )
                .fetch_optional(&mut *connection)
                .await?;
                let Some(before) = before else {
                    return Ok(None);
                };
                check(&precondition, Some(&before))?;
                let after = sqlx::query_as!(
                    Promotion,
                    r#"update promotion
                        set title = coalesce($2, title), conditions = coalesce($3, conditions),
                            missing_split = coalesce($4, missing_split), active = coalesce($5, active), updated_at = clock_ms()
                      where promotion_id = $1
                     returning promotion_id, promotion_key, title, conditions, missing_split as "missing_split: MissingSplit", active, created_at,
                 updated_at"#,
                    promotion_id,
                    patch.title,
                    patch.conditions,
                    patch.missing_split as Option<MissingSplit>,
                    patch.active
                )
                .fetch_one(&mut *connection)
                .await?;
                audit::record(connection, &author, Some(json!(before)), Some(json!(after))).await?;
                Ok(Some(after))
            })
        })
        .await
    }
}
