//! Recounts the use of budgets from the participations, one promotion at a time.

use std::time::Duration;

use sqlx::Connection as _;

use super::recount::set_statement_timeout;
use super::{BEGIN_SNAPSHOT, Result, Store};
use crate::domain::PromotionId;
use crate::domain::participation::StatusName;

/// The recount of one promotion's budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetPage {
    /// The promotion.
    pub promotion_id: PromotionId,
    /// What is recorded and what the participations make, a sentence each.
    pub disagreements: Vec<String>,
}

/// The recorded use of a budget, and the sums of its participations. Erased clients' participations are
/// counted only in what was spent.
struct Row {
    promotion_id: PromotionId,
    participations_reserved: i64,
    participations_spent: i64,
    reward_cents_reserved: i64,
    reward_cents_spent: i64,
    live: i64,
    rewarded: i64,
    live_cents: i64,
    rewarded_cents: i64,
}

impl Store {
    /// Recounts the budget of the first promotion after `after`; `None` if none is left. It is one
    /// statement, which ends after `timeout`.
    pub async fn recount_budget(
        &self,
        after: Option<PromotionId>,
        timeout: Duration,
    ) -> Result<Option<BudgetPage>> {
        let mut connection = self.acquire().await?;
        let mut tx = connection.begin_with(BEGIN_SNAPSHOT).await?;
        set_statement_timeout(&mut tx, timeout).await?;
        let row = sqlx::query_as!(
            Row,
            r#"select b.promotion_id, b.participations_reserved,
                      b.participations_spent - b.participations_erased as "participations_spent!",
                      b.reward_cents_reserved, b.reward_cents_spent - b.reward_cents_erased as "reward_cents_spent!",
                      p.live as "live!", p.rewarded as "rewarded!", p.live_cents as "live_cents!",
                      p.rewarded_cents as "rewarded_cents!"
                 from (select * from budget_use where promotion_id > $1 order by promotion_id limit 1) b
                cross join lateral (
                      select count(*) filter (where p.status = any($2)) as live,
                             count(*) filter (where p.status = $3) as rewarded,
                             coalesce(sum((p.reward->>'amount_cents')::bigint)
                                      filter (where p.status = any($2) and p.reward->>'currency_code' = b.currency_code), 0)::bigint
                                 as live_cents,
                             coalesce(sum((p.reward->>'amount_cents')::bigint)
                                      filter (where p.status = $3 and p.reward->>'currency_code' = b.currency_code), 0)::bigint
                                 as rewarded_cents
                        from promotion_user p where p.promotion_id = b.promotion_id) p"#,
            after.unwrap_or(0),
            &[StatusName::InProgress, StatusName::Completed] as &[StatusName],
            StatusName::Rewarded as StatusName
        )
        .fetch_optional(&mut *tx)
        .await?;
        tx.rollback().await?;
        Ok(row.map(|row| BudgetPage {
            promotion_id: row.promotion_id,
            disagreements: disagreements(&row),
        }))
    }
}

fn disagreements(row: &Row) -> Vec<String> {
    let compared = [
        (
            "participations reserved",
            row.participations_reserved,
            row.live,
        ),
        (
            "participations spent",
            row.participations_spent,
            row.rewarded,
        ),
        (
            "reward cents reserved",
            row.reward_cents_reserved,
            row.live_cents,
        ),
        (
            "reward cents spent",
            row.reward_cents_spent,
            row.rewarded_cents,
        ),
    ];
    let differing = compared
        .into_iter()
        .filter(|(_, noted, counted)| noted != counted);
    differing
        .map(|(what, noted, counted)| {
            format!("the budget's use has {noted} {what}, its participations make {counted}")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_figure_that_differs_is_named() {
        let row = Row {
            promotion_id: 1,
            participations_reserved: 2,
            participations_spent: 1,
            reward_cents_reserved: 200,
            reward_cents_spent: 100,
            live: 2,
            rewarded: 1,
            live_cents: 200,
            rewarded_cents: 100,
        };
        assert_eq!(disagreements(&row), Vec::<String>::new());
        let off = Row {
            live: 3,
            rewarded_cents: 0,
            ..row
        };
        let found = disagreements(&off);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("2 participations reserved") && found[0].ends_with("make 3"));
        assert!(found[1].contains("100 reward cents spent") && found[1].ends_with("make 0"));
    }
}
