//! The service in figures.

use super::{Result, Store};
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::wire::stats::{ExpiredStats, PromotionStats};

impl Store {
    /// How many clients stand where, for every promotion by its number. Reads an index once, in the
    /// order of its groups.
    pub async fn promotion_stats(&self) -> Result<Vec<PromotionStats>> {
        let rows = sqlx::query!(
            r#"select m.promotion_id, m.promotion_key, c.status as "status?: StatusName",
                      c.expired_reason as "expired_reason?: ExpiredReason", coalesce(c.clients, 0) as "clients!"
                 from promotion m
                 left join (select promotion_id, status, expired_reason, count(*) as clients
                              from promotion_user group by promotion_id, status, expired_reason) c using (promotion_id)
                order by m.promotion_id"#
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        let mut all: Vec<PromotionStats> = Vec::new();
        for row in rows {
            if all.last().map(|last| last.promotion_id) != Some(row.promotion_id) {
                all.push(none(row.promotion_id, row.promotion_key));
            }
            if let (Some(stats), Some(status)) = (all.last_mut(), row.status) {
                stats.started += row.clients;
                *group(stats, status, row.expired_reason) += row.clients;
            }
        }
        Ok(all)
    }
}

/// A promotion that nobody has started.
fn none(promotion_id: i64, promotion_key: String) -> PromotionStats {
    PromotionStats {
        promotion_id,
        promotion_key,
        started: 0,
        in_progress: 0,
        completed: 0,
        rewarded: 0,
        expired: ExpiredStats {
            challenge_not_completed: 0,
            reward_not_claimed: 0,
        },
    }
}

/// Where such participations are counted.
fn group(
    stats: &mut PromotionStats,
    status: StatusName,
    expired: Option<ExpiredReason>,
) -> &mut i64 {
    match (status, expired) {
        (StatusName::InProgress, _) => &mut stats.in_progress,
        (StatusName::Completed, _) => &mut stats.completed,
        (StatusName::Rewarded, _) => &mut stats.rewarded,
        // The table's check has a reason wherever it is expired.
        (StatusName::Expired, Some(ExpiredReason::ChallengeNotCompleted) | None) => {
            &mut stats.expired.challenge_not_completed
        }
        (StatusName::Expired, Some(ExpiredReason::RewardNotClaimed)) => {
            &mut stats.expired.reward_not_claimed
        }
    }
}
