//! The service in figures.

use super::{Result, Store};
use crate::wire::stats::{ExpiredStats, PromotionStats};

impl Store {
    /// How many clients stand where, for every promotion by its number. Reads an index once, in the
    /// order of its groups.
    pub async fn promotion_stats(&self) -> Result<Vec<PromotionStats>> {
        let rows = sqlx::query!(
            r#"select m.promotion_id, m.promotion_key,
                      coalesce(sum(c.clients), 0)::bigint as "started!",
                      coalesce(sum(c.clients) filter (where c.status = 'IN_PROGRESS'), 0)::bigint as "in_progress!",
                      coalesce(sum(c.clients) filter (where c.status = 'COMPLETED'), 0)::bigint as "completed!",
                      coalesce(sum(c.clients) filter (where c.status = 'REWARDED'), 0)::bigint as "rewarded!",
                      coalesce(sum(c.clients) filter (where c.expired_reason = 'CHALLENGE_NOT_COMPLETED'), 0)::bigint as "not_completed!",
                      coalesce(sum(c.clients) filter (where c.expired_reason = 'REWARD_NOT_CLAIMED'), 0)::bigint as "not_claimed!"
                 from promotion m
                 left join (select promotion_id, status, expired_reason, count(*) as clients
                              from promotion_user group by promotion_id, status, expired_reason) c using (promotion_id)
                group by m.promotion_id
                order by m.promotion_id"#
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| PromotionStats {
                promotion_id: row.promotion_id,
                promotion_key: row.promotion_key,
                started: row.started,
                in_progress: row.in_progress,
                completed: row.completed,
                rewarded: row.rewarded,
                expired: ExpiredStats {
                    challenge_not_completed: row.not_completed,
                    reward_not_claimed: row.not_claimed,
                },
            })
            .collect())
    }
}
