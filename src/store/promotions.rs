//! Creates and changes promotions. Participations keep the conditions they started under, so these calls do not
//! change them.

use serde_json::{Value, json};
use sqlx::types::Json;

use super::audit::{self, Author};
use super::budget::{self, BudgetError};
use super::{Result, Store, check};
use crate::domain::budget::Budget;
use crate::domain::fields::FieldError;
use crate::domain::schedule::Schedule;
use crate::domain::split::MissingSplit;
use crate::domain::{Instant, PromotionId};
use crate::wire::admin::{NewPromotion, Promotion, PromotionPatch};
use crate::wire::revision::Precondition;

/// The result of creating a promotion.
#[derive(Clone, Debug, PartialEq)]
pub enum CreateOutcome {
    /// It was created.
    Created(Promotion),
    /// Another promotion has its key.
    KeyTaken,
}

/// The result of a patch.
#[derive(Clone, Debug, PartialEq)]
pub enum PatchOutcome {
    /// The promotion after the patch.
    Patched(Promotion),
    /// The promotion does not exist.
    NoSuchPromotion,
    /// The field does not fit the present promotion.
    Invalid(FieldError),
    /// It has had starts, but never a budget.
    BudgetTooLate,
}

/// A promotion's row.
struct Row {
    promotion_id: PromotionId,
    promotion_key: String,
    title: String,
    conditions: Value,
    missing_split: MissingSplit,
    active: bool,
    opens_at: Option<Instant>,
    closes_at: Option<Instant>,
    budget: Option<Json<Budget>>,
    created_at: Instant,
    updated_at: Instant,
}

impl From<Row> for Promotion {
    fn from(row: Row) -> Self {
        Self {
            promotion_id: row.promotion_id,
            promotion_key: row.promotion_key,
            title: row.title,
            conditions: row.conditions,
            missing_split: row.missing_split,
            active: row.active,
            opens_at: row.opens_at,
            closes_at: row.closes_at,
            budget: row.budget.map(|Json(budget)| budget),
            created_at: row.created_at,
            updated_at: row.updated_at,
        }
    }
}

impl Store {
    /// Promotions by number: those after `after`, at most `limit`.
    pub async fn promotions(
        &self,
        after: Option<PromotionId>,
        limit: i64,
    ) -> Result<Vec<Promotion>> {
        let rows = sqlx::query_as!(
            Row,
            r#"select promotion_id, promotion_key, title, conditions, missing_split as "missing_split: MissingSplit", active,
                      opens_at, closes_at, budget as "budget: Json<Budget>", created_at, updated_at
                 from promotion
                where $1::bigint is null or promotion_id > $1
                order by promotion_id
                limit $2"#,
            after,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        Ok(rows.into_iter().map(Promotion::from).collect())
    }

    /// One promotion.
    pub async fn promotion(&self, promotion_id: PromotionId) -> Result<Option<Promotion>> {
        let row = sqlx::query_as!(
            Row,
            r#"select promotion_id, promotion_key, title, conditions, missing_split as "missing_split: MissingSplit", active,
                      opens_at, closes_at, budget as "budget: Json<Budget>", created_at, updated_at
                 from promotion where promotion_id = $1"#,
            promotion_id
        )
        .fetch_optional(&mut *self.acquire().await?)
        .await?;
        Ok(row.map(Promotion::from))
    }

    /// Creates a promotion; with `dry_run` it only returns what would result. The caller must call
    /// [`NewPromotion::needs_finished_upgrade`] before.
    pub async fn create_promotion(
        &self,
        new: NewPromotion,
        author: &Author,
        dry_run: bool,
    ) -> Result<CreateOutcome> {
        let author = author.clone();
        self.run_or_try_tx("create_promotion", dry_run, move |connection| {
            let (new, author) = (new.clone(), author.clone());
            Box::pin(async move {
                let created = sqlx::query_as!(
                    Row,
                    r#"insert into promotion (promotion_key, title, conditions, missing_split, active, opens_at, closes_at, budget,
                                              has_budget_use)
                       values ($1, $2, $3, $4, $5, $6, $7, $8, $8::jsonb is not null)
                       on conflict (promotion_key) do nothing
                       returning promotion_id, promotion_key, title, conditions,
                                 missing_split as "missing_split: MissingSplit", active, opens_at, closes_at,
                                 budget as "budget: Json<Budget>", created_at, updated_at"#,
                    new.promotion_key,
                    new.title,
                    new.conditions,
                    new.missing_split as MissingSplit,
                    new.active,
                    new.opens_at,
                    new.closes_at,
                    new.budget.map(Json) as Option<Json<Budget>>
                )
                .fetch_optional(&mut *connection)
                .await?;
                let Some(created) = created.map(Promotion::from) else {
                    return Ok(CreateOutcome::KeyTaken);
                };
                audit::record(connection, &author, None, Some(json!(created))).await?;
                if let Some(budget) = &created.budget {
                    budget::open(connection, created.promotion_id, budget).await?;
                }
                Ok(CreateOutcome::Created(created))
            })
        })
        .await
    }

    /// Changes the fields of the patch if the precondition holds; with `dry_run` it only returns what would result.
    /// The caller must call [`PromotionPatch::needs_finished_upgrade`] before.
    pub async fn patch_promotion(
        &self,
        promotion_id: PromotionId,
        patch: PromotionPatch,
        precondition: &Precondition,
        author: &Author,
        dry_run: bool,
    ) -> Result<PatchOutcome> {
        if patch.is_empty() {
            let promotion = self.promotion(promotion_id).await?;
            if promotion.is_some() {
                check(precondition, promotion.as_ref())?;
            }
            return Ok(promotion.map_or(PatchOutcome::NoSuchPromotion, PatchOutcome::Patched));
        }
        let (precondition, author) = (precondition.clone(), author.clone());
        self.run_or_try_tx("patch_promotion", dry_run, move |connection| {
            let (patch, precondition) = (patch.clone(), precondition.clone());
            let author = author.clone();
            Box::pin(async move {
                // Waits for landings and starts that have read it; later ones wait for this. The lock is on
                // the table, because it has a queue: on the row, new readers could always go first.
                sqlx::query("lock table promotion in exclusive mode")
                    .execute(&mut *connection)
                    .await?;
                let before = sqlx::query_as!(
                    Row,
                    r#"select promotion_id, promotion_key, title, conditions, missing_split as "missing_split: MissingSplit",
                              active, opens_at, closes_at, budget as "budget: Json<Budget>", created_at, updated_at
                         from promotion where promotion_id = $1 for no key update"#,
                    promotion_id
                )
                .fetch_optional(&mut *connection)
                .await?;
                let Some(before) = before.map(Promotion::from) else {
                    return Ok(PatchOutcome::NoSuchPromotion);
                };
                check(&precondition, Some(&before))?;
                let schedule = match patch.schedule(Schedule {
                    opens_at: before.opens_at,
                    closes_at: before.closes_at,
                }) {
                    Ok(schedule) => schedule,
                    Err(error) => return Ok(PatchOutcome::Invalid(error)),
                };
                let new_budget = patch.budget.flatten();
                if let Some(budget) = &new_budget {
                    match budget::check(connection, promotion_id, budget).await? {
                        Ok(()) => {}
                        Err(BudgetError::TooLate) => return Ok(PatchOutcome::BudgetTooLate),
                        Err(BudgetError::CurrencyFixed(currency)) => {
                            let reason = format!("never changes, it is {currency}");
                            let error = FieldError::invalid("budget.currency_code", reason);
                            return Ok(PatchOutcome::Invalid(error));
                        }
                    }
                }
                let after = sqlx::query_as!(
                    Row,
                    r#"update promotion
                          set title = coalesce($2, title), conditions = coalesce($3, conditions),
                              missing_split = coalesce($4, missing_split), active = coalesce($5, active), opens_at = $6,
                              closes_at = $7, budget = $8, has_budget_use = has_budget_use or $8::jsonb is not null,
                              updated_at = clock_ms()
                        where promotion_id = $1
                       returning promotion_id, promotion_key, title, conditions,
                                 missing_split as "missing_split: MissingSplit", active, opens_at, closes_at,
                                 budget as "budget: Json<Budget>", created_at, updated_at"#,
                    promotion_id,
                    patch.title,
                    patch.conditions,
                    patch.missing_split as Option<MissingSplit>,
                    patch.active,
                    schedule.opens_at,
                    schedule.closes_at,
                    patch.budget.unwrap_or(before.budget).map(Json) as Option<Json<Budget>>
                )
                .fetch_one(&mut *connection)
                .await?;
                let after = Promotion::from(after);
                audit::record(connection, &author, Some(json!(before)), Some(json!(after))).await?;
                if let Some(budget) = &new_budget {
                    budget::open(connection, promotion_id, budget).await?;
                }
                Ok(PatchOutcome::Patched(after))
            })
        })
        .await
    }
}
