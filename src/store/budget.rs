//! The use of promotions' budgets (contract 2, Schedule and budget).
//!
//! A promotion that has, or once had, a budget has a row in `budget_use`. A start reserves, expiry gives
//! back and accepting spends, each in its own transaction. Every start of a promotion changes the same row.
//! So a transaction changes it in its last statement, and in the order of the promotions' numbers if there
//! are several: then the row is locked for the shortest time, and two transactions cannot deadlock. A
//! promotion that never had a budget has no row, and its transactions run no statement here.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::PgConnection;
use sqlx::types::Json;

use super::{Result, Store, must_be_all};
use crate::domain::PromotionId;
use crate::domain::budget::{Budget, BudgetUse};
use crate::domain::reward::{CurrencyCode, Reward};
use crate::wire::budget_use::{self, Used};

/// What participations give back when they end, by promotion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct ReleasedUse(BTreeMap<PromotionId, Sum>);

/// A number of participations and the sum of their rewards, by currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sum {
    participations: i64,
    cents: BTreeMap<CurrencyCode, i64>,
}

impl Sum {
    fn add(&mut self, reward: &Reward) {
        self.participations += 1;
        let cents = self.cents.entry(reward.currency_code).or_default();
        // In the row's currency the sum cannot overflow; other currencies are not counted.
        *cents = cents.saturating_add(reward.amount_cents);
    }

    /// `{"MXN": 200000}`: the statement picks the row's currency.
    fn cents(&self) -> Value {
        let cents = self.cents.iter();
        cents
            .map(|(currency, cents)| (currency.to_string(), json!(cents)))
            .collect::<serde_json::Map<_, _>>()
            .into()
    }
}

impl ReleasedUse {
    /// Adds a participation that has ended; `reward` is `None` if its promotion counts no use.
    pub(super) fn add(&mut self, promotion_id: PromotionId, reward: Option<&Reward>) {
        if let Some(reward) = reward {
            self.0.entry(promotion_id).or_default().add(reward);
        }
    }

    /// Gives it back, in the last statements of the transaction.
    pub(super) async fn give_back(self, connection: &mut PgConnection) -> Result<()> {
        for (promotion_id, sum) in self.0 {
            let changed = sqlx::query!(
                "update budget_use
                    set participations_reserved = participations_reserved - $2,
                        reward_cents_reserved = reward_cents_reserved - coalesce(($3::jsonb ->> currency_code)::bigint, 0)
                  where promotion_id = $1",
                promotion_id,
                sum.participations,
                sum.cents()
            )
            .execute(&mut *connection)
            .await?
            .rows_affected();
            must_be_all(changed, 1, "budget uses are there")?;
        }
        Ok(())
    }
}

/// What starts of one promotion reserve of its budget together. Their rewards have one currency.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    promotion_id: PromotionId,
    budget: Budget,
    currency_code: CurrencyCode,
    starts: i64,
    reward_cents: i64,
}

impl Reservation {
    /// What one start reserves. A budget that was removed has no maxima, but its use stays known.
    pub(super) fn of(promotion_id: PromotionId, budget: Option<Budget>, reward: &Reward) -> Self {
        Self {
            promotion_id,
            budget: budget.unwrap_or_default(),
            currency_code: reward.currency_code,
            starts: 1,
            reward_cents: reward.amount_cents,
        }
    }

    /// Together with another start of the promotion; `None` if their sums cannot be counted as one.
    pub(super) fn with(self, reward: &Reward) -> Option<Self> {
        if reward.currency_code != self.currency_code {
            return None;
        }
        Some(Self {
            starts: self.starts + 1,
            reward_cents: self.reward_cents.checked_add(reward.amount_cents)?,
            ..self
        })
    }

    /// Whether it fits in addition to this use.
    pub(super) fn fits(&self, used: &BudgetUse) -> bool {
        self.budget
            .has_room_for(used, self.starts, self.currency_code, self.reward_cents)
    }

    /// Reserves, and gives back what the same transaction has ended, in the last statements of the
    /// transaction. Returns whether it fits. If not, the caller must roll back.
    pub(super) async fn make(
        self,
        connection: &mut PgConnection,
        mut released: ReleasedUse,
    ) -> Result<bool> {
        let room = self
            .budget
            .room_for(self.starts, self.currency_code, self.reward_cents);
        let Some(room) = room else {
            return Ok(false);
        };
        let after = ReleasedUse(released.0.split_off(&self.promotion_id));
        released.give_back(connection).await?;
        let reserved = sqlx::query!(
            "update budget_use
                set participations_reserved = participations_reserved + $6,
                    reward_cents_reserved = reward_cents_reserved
                        + case when coalesce(currency_code, $5) = $5 then $4::bigint else 0 end,
                    currency_code = coalesce(currency_code, $5)
              where promotion_id = $1
                and participations_reserved + participations_spent <= $2
                and reward_cents_reserved + reward_cents_spent <= $3",
            self.promotion_id,
            room.participations,
            room.reward_cents,
            self.reward_cents,
            self.currency_code.as_str(),
            self.starts
        )
        .execute(&mut *connection)
        .await?
        .rows_affected();
        after.give_back(connection).await?;
        Ok(reserved == 1)
    }
}

/// Turns a reserved reward into a spent one, in the last statement of the transaction.
pub(super) async fn spend(
    connection: &mut PgConnection,
    promotion_id: PromotionId,
    reward: &Reward,
) -> Result<()> {
    let changed = sqlx::query!(
        "update budget_use
            set participations_reserved = participations_reserved - 1,
                participations_spent = participations_spent + 1,
                reward_cents_reserved = reward_cents_reserved - case when currency_code = $3 then $2::bigint else 0 end,
                reward_cents_spent = reward_cents_spent + case when currency_code = $3 then $2::bigint else 0 end
          where promotion_id = $1",
        promotion_id,
        reward.amount_cents,
        reward.currency_code.as_str()
    )
    .execute(connection)
    .await?
    .rows_affected();
    must_be_all(changed, 1, "budget uses are there")
}

/// A participation that uses its promotion's budget and whose client is erased.
#[derive(Clone, Debug)]
pub(super) struct ErasedUse {
    /// The promotion.
    pub(super) promotion_id: PromotionId,
    /// Whether it was rewarded.
    pub(super) is_spent: bool,
    /// The reward.
    pub(super) reward: Reward,
}

/// The last statement of an erasure: gives back what was reserved. What was spent stays spent, and is
/// recorded as erased, so that a recount knows that its participation does not exist any more.
pub(super) async fn erase(connection: &mut PgConnection, counted: ErasedUse) -> Result<()> {
    let ErasedUse {
        promotion_id,
        is_spent,
        reward,
    } = counted;
    if !is_spent {
        let mut released = ReleasedUse::default();
        released.add(promotion_id, Some(&reward));
        return released.give_back(connection).await;
    }
    let changed = sqlx::query!(
        "update budget_use
            set participations_erased = participations_erased + 1,
                reward_cents_erased = reward_cents_erased + case when currency_code = $3 then $2::bigint else 0 end
          where promotion_id = $1",
        promotion_id,
        reward.amount_cents,
        reward.currency_code.as_str()
    )
    .execute(connection)
    .await?
    .rows_affected();
    must_be_all(changed, 1, "budget uses are there")
}

/// Why a promotion cannot have this budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetError {
    /// It already had starts that were not counted.
    TooLate,
    /// Its currency is this one and never changes.
    CurrencyFixed(CurrencyCode),
}

/// Whether an existing promotion can have this budget. The caller holds the lock that excludes starts, so
/// the result is valid until [`open`].
pub(super) async fn check(
    connection: &mut PgConnection,
    promotion_id: PromotionId,
    budget: &Budget,
) -> Result<std::result::Result<(), BudgetError>> {
    let known = sqlx::query_scalar!(
        "select currency_code from budget_use where promotion_id = $1",
        promotion_id
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(currency) = known else {
        let has_had_starts = sqlx::query_scalar!(
            r#"select exists (select from promotion_user where promotion_id = $1) as "has!""#,
            promotion_id
        )
        .fetch_one(connection)
        .await?;
        return Ok(if has_had_starts {
            Err(BudgetError::TooLate)
        } else {
            Ok(())
        });
    };
    let fixed = currency.and_then(|currency| currency.parse().ok());
    Ok(match (fixed, budget.currency_code) {
        (Some(fixed), Some(wanted)) if fixed != wanted => Err(BudgetError::CurrencyFixed(fixed)),
        _ => Ok(()),
    })
}

/// Counts the use of a promotion from now on, and fixes its currency if the budget names one, in the last
/// statement of the transaction.
pub(super) async fn open(
    connection: &mut PgConnection,
    promotion_id: PromotionId,
    budget: &Budget,
) -> Result<()> {
    sqlx::query!(
        "insert into budget_use as u (promotion_id, currency_code) values ($1, $2)
         on conflict (promotion_id) do update set currency_code = coalesce(u.currency_code, excluded.currency_code)",
        promotion_id,
        budget.currency_code.as_ref().map(CurrencyCode::as_str)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The use of one promotion's budget, for the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromotionUse {
    /// The promotion's key.
    pub promotion_key: String,
    /// Participations.
    pub participations: Used,
    /// Cents.
    pub reward_cents: Used,
}

/// The most promotions with budget metrics, the newest ones. It bounds the number of series.
const MAX_SHOWN: i64 = 200;

impl Store {
    /// The use of a promotion's budget; `None` if it never had one.
    pub async fn budget_use(
        &self,
        promotion_id: PromotionId,
    ) -> Result<Option<budget_use::BudgetUse>> {
        let row = sqlx::query!(
            r#"select m.budget as "budget: Json<Budget>", u.currency_code, u.participations_reserved, u.participations_spent,
                      u.reward_cents_reserved, u.reward_cents_spent
                 from budget_use u join promotion m using (promotion_id)
                where promotion_id = $1"#,
            promotion_id
        )
        .fetch_optional(&mut *self.acquire().await?)
        .await?;
        Ok(row.map(|row| {
            let budget = row.budget.map(|Json(budget)| budget).unwrap_or_default();
            budget_use::BudgetUse {
                participations: Used {
                    reserved: row.participations_reserved,
                    spent: row.participations_spent,
                    max: budget.max_participations,
                },
                reward_cents: Used {
                    reserved: row.reward_cents_reserved,
                    spent: row.reward_cents_spent,
                    max: budget.max_reward_cents,
                },
                currency_code: row.currency_code,
            }
        }))
    }

    /// The use of the promotions that have a budget now and can still be started, at most 200 of them.
    pub async fn budget_uses(&self) -> Result<Vec<PromotionUse>> {
        let rows = sqlx::query!(
            r#"select m.promotion_key, m.budget as "budget!: Json<Budget>", u.participations_reserved, u.participations_spent,
                      u.reward_cents_reserved, u.reward_cents_spent
                 from budget_use u join promotion m using (promotion_id)
                where m.budget is not null and m.active and (m.closes_at is null or m.closes_at > clock_timestamp())
                order by promotion_id desc
                limit $1"#,
            MAX_SHOWN
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        let uses = rows.into_iter().map(|row| PromotionUse {
            promotion_key: row.promotion_key,
            participations: Used {
                reserved: row.participations_reserved,
                spent: row.participations_spent,
                max: row.budget.max_participations,
            },
            reward_cents: Used {
                reserved: row.reward_cents_reserved,
                spent: row.reward_cents_spent,
                max: row.budget.max_reward_cents,
            },
        });
        Ok(uses.collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_together_is_given_back_in_one_sum_for_each_promotion() {
        let reward = |amount_cents, currency: &str| Reward {
            product_id: 80,
            amount_cents,
            currency_code: currency.parse().expect("a code"),
            repayment_rate: "15".to_owned(),
        };
        let mut released = ReleasedUse::default();
        released.add(2, Some(&reward(1, "MXN")));
        released.add(1, Some(&reward(10, "COP")));
        released.add(3, None);
        released.add(2, Some(&reward(2, "MXN")));
        released.add(2, Some(&reward(5, "COP")));
        let sums: Vec<(PromotionId, i64, Value)> = released
            .0
            .iter()
            .map(|(promotion_id, sum)| (*promotion_id, sum.participations, sum.cents()))
            .collect();
        assert_eq!(
            sums,
            [
                (1, 1, json!({ "COP": 10 })),
                (2, 3, json!({ "COP": 5, "MXN": 3 }))
            ]
        );
    }
}
