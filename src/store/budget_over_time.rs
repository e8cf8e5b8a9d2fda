//! The use of a budget in the past: the present use, from which the changes since are taken away. The work
//! grows with the changes since `from`, not with the table.

use super::stats::boundaries;
use super::{Result, Store};
use crate::domain::participation::StatusName;
use crate::domain::period::Period;
use crate::domain::{Instant, PromotionId};
use crate::wire::budget_use::{BudgetPoint, BudgetUseOverTime, UsedThen};

/// Participations and their cents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Use {
    participations: UsedThen,
    reward_cents: UsedThen,
}

impl Use {
    /// The use before these changes.
    const fn without(self, changes: Self) -> Self {
        const fn before(now: UsedThen, changed: UsedThen) -> UsedThen {
            UsedThen {
                reserved: now.reserved - changed.reserved,
                spent: now.spent - changed.spent,
            }
        }
        Self {
            participations: before(self.participations, changes.participations),
            reward_cents: before(self.reward_cents, changes.reward_cents),
        }
    }
}

impl Store {
    /// The use of a promotion's budget at `from`, every `interval` after it, and at `to`; `None` if the
    /// promotion never had a budget. It is one statement, so it has one snapshot.
    pub async fn budget_use_over_time(
        &self,
        promotion_id: PromotionId,
        from: Instant,
        to: Instant,
        interval: Period,
    ) -> Result<Option<BudgetUseOverTime>> {
        let at = boundaries(from, to, interval.delta());
        let after_all = at.len() - 1;
        // A change is in the interval after the boundary of its number; those at `to` or later have the last.
        let rows = sqlx::query!(
            r#"with used as (select * from budget_use where promotion_id = $1)
               select u.currency_code, u.participations_reserved, u.participations_spent, u.reward_cents_reserved,
                      u.reward_cents_spent, c.interval as "interval?", c.reserved as "reserved?", c.spent as "spent?",
                      c.cents_reserved as "cents_reserved?", c.cents_spent as "cents_spent?"
                 from used u
                 left join (
                      select case when at >= $3 then $5 else (extract(epoch from at - $2) * 1000)::bigint / $4 end as interval,
                             sum(reserved)::bigint as reserved, sum(spent)::bigint as spent,
                             sum(reserved * cents)::bigint as cents_reserved, sum(spent * cents)::bigint as cents_spent
                        from (select at, reserved, spent,
                                     case when reward ->> 'currency_code' = (select currency_code from used)
                                          then (reward ->> 'amount_cents')::bigint else 0 end as cents
                                from (select started_at as at, 1 as reserved, 0 as spent, reward from promotion_user
                                       where promotion_id = $1 and status = any($6) and started_at >= $2
                                      union all
                                      select rewarded_at, -1, 1, reward from promotion_user
                                       where promotion_id = $1 and rewarded_at >= $2
                                      union all
                                      select expired_at, -1, 0, reward from promotion_user
                                       where promotion_id = $1 and expired_at >= $2) changes) valued
                       group by 1) c on true"#,
            promotion_id,
            from,
            to,
            interval.delta().num_milliseconds(),
            i64::try_from(after_all).unwrap_or(i64::MAX),
            &StatusName::ALL as &[StatusName]
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        let Some(now) = rows.first() else {
            return Ok(None);
        };
        let currency_code = now.currency_code.clone();
        let mut used = Use {
            participations: UsedThen {
                reserved: now.participations_reserved,
                spent: now.participations_spent,
            },
            reward_cents: UsedThen {
                reserved: now.reward_cents_reserved,
                spent: now.reward_cents_spent,
            },
        };
        let mut changes = vec![Use::default(); at.len()];
        for row in rows {
            // A promotion without changes has one row without a change.
            let change = row
                .interval
                .and_then(|number| changes.get_mut(usize::try_from(number).ok()?));
            if let Some(change) = change {
                change.participations = UsedThen {
                    reserved: row.reserved.unwrap_or(0),
                    spent: row.spent.unwrap_or(0),
                };
                change.reward_cents = UsedThen {
                    reserved: row.cents_reserved.unwrap_or(0),
                    spent: row.cents_spent.unwrap_or(0),
                };
            }
        }
        let mut points: Vec<BudgetPoint> = at
            .into_iter()
            .zip(changes)
            .rev()
            .map(|(at, since)| {
                used = used.without(since);
                BudgetPoint {
                    at,
                    participations: used.participations,
                    reward_cents: used.reward_cents,
                }
            })
            .collect();
        points.reverse();
        Ok(Some(BudgetUseOverTime {
            promotion_id,
            currency_code,
            interval,
            points,
        }))
    }
}
