//! Ends a participation before its deadline: the client quits, or an operator cancels it (contract 2,
//! Deadlines and exceptions).

use serde_json::json;
use sqlx::PgConnection;

use super::audit::{self, Author};
use super::budget::ReleasedUse;
use super::extensions::apply_of_client;
use super::participations::{StoredParticipation, enqueue_event, load};
use super::{Result, Store, StoreError, must_be_all};
use crate::domain::participation::{ExpiredReason, Status, StatusName};
use crate::domain::reward::Reward;
use crate::domain::split::SplitStatus;
use crate::domain::{PromotionId, UserId};
use crate::wire::promotion_status::EventType;

/// The result of quitting.
#[derive(Clone, Debug)]
pub enum QuitOutcome {
    /// The challenge is over because the client quit.
    Quit {
        /// The participation.
        participation: StoredParticipation,
        /// Whether the client quit earlier.
        repeated: bool,
    },
    /// The challenge is not in progress.
    NotInProgress,
    /// The client does not participate.
    NotParticipating,
}

/// The result of cancelling.
#[derive(Clone, Debug)]
pub enum CancelOutcome {
    /// An operator cancelled the participation now.
    Cancelled(StoredParticipation),
    /// It is not in progress, and it has no reward that can still be accepted.
    NotLive,
    /// The client does not participate.
    NotParticipating,
}

impl Store {
    /// The client quits a challenge that is in progress. A repeat returns the result of the first call.
    pub async fn quit(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
        traceparent: Option<String>,
    ) -> Result<QuitOutcome> {
        let is_finished = self.upgrade_is_finished().await?;
        self.run_tx("quit", move |connection| {
            let traceparent = traceparent.clone();
            Box::pin(async move {
                let Some(locked) = lock(connection, user_id, promotion_id).await? else {
                    return Ok(QuitOutcome::NotParticipating);
                };
                let now = locked.found.now;
                let Ok(status) = locked.found.state.status.quit(now) else {
                    return Ok(match locked.found.state.status {
                        Status::Expired {
                            reason: ExpiredReason::Quit,
                            ..
                        } => QuitOutcome::Quit {
                            participation: locked.found,
                            repeated: true,
                        },
                        _ => QuitOutcome::NotInProgress,
                    });
                };
                require(is_finished)?;
                let (participation, released) =
                    end(connection, locked, status, traceparent.as_deref()).await?;
                released.give_back(connection).await?;
                Ok(QuitOutcome::Quit {
                    participation,
                    repeated: false,
                })
            })
        })
        .await
    }

    /// An operator cancels a live participation. The audit records the reason.
    pub async fn cancel(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
        reason: String,
        author: Author,
    ) -> Result<CancelOutcome> {
        let is_finished = self.upgrade_is_finished().await?;
        self.run_tx("cancel", move |connection| {
            let (reason, author) = (reason.clone(), author.clone());
            Box::pin(async move {
                let Some(mut locked) = lock(connection, user_id, promotion_id).await? else {
                    return Ok(CancelOutcome::NotParticipating);
                };
                // What an extension covers is live.
                if locked.found.is_overdue() && apply_of_client(connection, user_id).await? {
                    let again = load(connection, user_id, promotion_id).await?;
                    locked.found = again.ok_or_else(|| disappeared(user_id, promotion_id))?;
                }
                let Ok(status) = locked.found.state.status.cancel(locked.found.now) else {
                    return Ok(CancelOutcome::NotLive);
                };
                require(is_finished)?;
                let before = json!(&*locked.found.state);
                let (participation, released) = end(connection, locked, status, None).await?;
                let mut after = json!(&*participation.state);
                after["reason"] = json!(reason);
                audit::record(connection, &author, Some(before), Some(after)).await?;
                released.give_back(connection).await?;
                Ok(CancelOutcome::Cancelled(participation))
            })
        })
        .await
    }
}

/// The release before does not know these reasons.
fn require(is_finished: bool) -> Result<()> {
    if is_finished {
        Ok(())
    } else {
        Err(StoreError::UpgradeUnfinished)
    }
}

fn disappeared(user_id: UserId, promotion_id: PromotionId) -> StoreError {
    StoreError::Corrupt(format!(
        "participation ({user_id}, {promotion_id}) disappeared while it was ended"
    ))
}

/// A participation whose row is locked, read after the lock.
struct LockedParticipation {
    found: StoredParticipation,
    /// Whether its promotion counts the use of its budget.
    has_budget_use: bool,
}

async fn lock(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
) -> Result<Option<LockedParticipation>> {
    let has_budget_use = sqlx::query_scalar!(
        "select m.has_budget_use
           from promotion_user p join promotion m using (promotion_id)
          where p.user_id = $1 and p.promotion_id = $2
            for update of p",
        user_id,
        promotion_id
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(has_budget_use) = has_budget_use else {
        return Ok(None);
    };
    let found = load(connection, user_id, promotion_id).await?;
    Ok(found.map(|found| LockedParticipation {
        found,
        has_budget_use,
    }))
}

/// Ends the participation: its split, its status (acknowledged at once), and its event. Returns it with what
/// the caller must give back of the budget at the end of the transaction.
async fn end(
    connection: &mut PgConnection,
    locked: LockedParticipation,
    to: Status,
    traceparent: Option<&str>,
) -> Result<(StoredParticipation, ReleasedUse)> {
    let LockedParticipation {
        found,
        has_budget_use,
    } = locked;
    let (user_id, promotion_id) = (found.state.user_id, found.state.promotion_id);
    let from = found.state.status.name();
    let fields = to.fields();
    sqlx::query!(
        "update cash_loan_account set status = $4, updated_at = $3
          where user_id = $1 and promotion_id = $2 and status = 'ACTIVE'",
        user_id,
        promotion_id,
        found.now,
        SplitStatus::Expired as SplitStatus
    )
    .execute(&mut *connection)
    .await?;
    let written = sqlx::query!(
        "update promotion_user
            set status = $3, version = version + 1, expired_at = $4, expired_reason = $5, acknowledged_at = $4
          where user_id = $1 and promotion_id = $2 and status = $6",
        user_id,
        promotion_id,
        fields.status as StatusName,
        fields.expired_at,
        fields.expired_reason as Option<ExpiredReason>,
        from as StatusName
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    must_be_all(written, 1, "locked participations could be ended")?;
    enqueue_event(
        connection,
        user_id,
        promotion_id,
        EventType::Expired,
        Some(from),
        found.now,
        traceparent,
    )
    .await?;
    let Some(ended) = load(connection, user_id, promotion_id).await? else {
        return Err(disappeared(user_id, promotion_id));
    };
    let mut released = ReleasedUse::default();
    let reward: &Reward = &ended.state.reward;
    released.add(promotion_id, has_budget_use.then_some(reward));
    Ok((ended, released))
}
