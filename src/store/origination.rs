//! From a completed challenge to the loan: looking at the reward, accepting it in one transaction,
//! and acknowledging that it is over (contract 5).

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::budget;
use super::extensions::apply_of_client;
use super::participations::{StoredParticipation, enqueue_event, load};
use super::{Result, Store, StoreError, must_be_all};
use crate::domain::participation::{ExpiredReason, MoveError, Status, StatusName};
use crate::domain::reward::Reward;
use crate::domain::split::{MissingSplit, SplitStatus};
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::promotion_status::EventType;
pub use crate::wire::reward::{Origination, RewardProduct};

/// The standard origination flow.
const SEQUENCE_ID: i16 = 8;

/// Why there is no reward to show or accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoReward {
    /// The client does not take part.
    NotParticipating,
    /// Rides are still being counted.
    ChallengeNotCompleted,
    /// The challenge was not completed in time, or ended before its time, for this reason.
    ChallengeOver(ExpiredReason),
    /// The reward was not claimed in time. Its expiry may not be recorded yet.
    RewardExpired,
    /// The split is gone, and the promotion does not allow creating it again.
    SplitMissing,
    /// The client has a reward that only the status topic knows, and no operator has accepted that it is
    /// lost.
    UnderReview,
}

/// The result of reading the reward.
#[derive(Clone, Debug)]
pub enum ShownReward {
    /// It can be accepted.
    Ready {
        /// The participation.
        participation: StoredParticipation,
        /// The product behind the frozen reward.
        product: RewardProduct,
    },
    /// It was accepted.
    AlreadyRewarded(Origination),
    /// There is none.
    None(NoReward),
}

/// The result of accepting the reward.
#[derive(Clone, Debug)]
pub enum AcceptOutcome {
    /// It is accepted, now or earlier.
    Rewarded {
        /// What was created.
        origination: Origination,
        /// The participation after it.
        participation: StoredParticipation,
        /// Whether it was accepted by an earlier call.
        repeated: bool,
    },
    /// It is not accepted, for this reason. Nothing was changed.
    Refused(NoReward),
}

/// The result of acknowledging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcknowledgeOutcome {
    /// Noted, now or earlier.
    Noted,
    /// The participation has not expired.
    NotExpired,
    /// The client does not take part.
    NotParticipating,
}

impl Store {
    /// The reward as frozen at the start, with its product.
    pub async fn reward(&self, user_id: UserId, promotion_id: PromotionId) -> Result<ShownReward> {
        let Some(participation) = self.participation(user_id, promotion_id).await? else {
            return Ok(ShownReward::None(NoReward::NotParticipating));
        };
        let mut connection = self.acquire().await?;
        if is_rewarded(&participation.state.status) {
            return Ok(ShownReward::AlreadyRewarded(
                origination_of(&mut connection, user_id).await?,
            ));
        }
        if let Err(refused) = rewardable(participation.state.status, participation.now) {
            return Ok(ShownReward::None(refused));
        }
        let product = product_of(&mut connection, user_id, promotion_id).await?;
        Ok(ShownReward::Ready {
            participation,
            product,
        })
    }

    /// Accepts the reward: active pre-offer, application, session, used split, `REWARDED` and its
    /// event, all or nothing. A repeat returns what the first call created.
    pub async fn accept_reward(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
        traceparent: Option<String>,
    ) -> Result<AcceptOutcome> {
        // A repeat takes no lock, so that repeats do not wait for each other. That is safe because
        // `REWARDED` is final. Everything else is decided under the lock.
        if let Some(earlier) = self.earlier_acceptance(user_id, promotion_id).await? {
            return Ok(earlier);
        }
        self.run_tx("accept_reward", move |connection| {
            let traceparent = traceparent.clone();
            Box::pin(async move {
                accept_under_lock(connection, user_id, promotion_id, traceparent.as_deref()).await
            })
        })
        .await
    }

    /// The result of an earlier accept, read without a lock; `None` if there was none.
    async fn earlier_acceptance(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
    ) -> Result<Option<AcceptOutcome>> {
        let mut connection = self.acquire().await?;
        match load(&mut connection, user_id, promotion_id).await? {
            None => Ok(None),
            Some(found) => acceptance_of(&mut connection, &found).await,
        }
    }

    /// Records that the client has seen the end of the challenge or of the reward.
    pub async fn acknowledge(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
    ) -> Result<AcknowledgeOutcome> {
        // A running extension may move the passed deadline.
        self.participation(user_id, promotion_id).await?;
        let row = sqlx::query!(
            r#"with over as (
                   update promotion_user set acknowledged_at = coalesce(acknowledged_at, clock_ms())
                    where user_id = $1 and promotion_id = $2
                      and (status = $3 or (status = $4 and reward_deadline <= clock_timestamp()))
                returning 1)
               select exists (select from over) as "noted!",
                      exists (select from promotion_user where user_id = $1 and promotion_id = $2) as "participates!""#,
            user_id,
            promotion_id,
            StatusName::Expired as StatusName,
            StatusName::Completed as StatusName
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?;
        Ok(match (row.noted, row.participates) {
            (true, _) => AcknowledgeOutcome::Noted,
            (false, true) => AcknowledgeOutcome::NotExpired,
            (false, false) => AcknowledgeOutcome::NotParticipating,
        })
    }
}

/// The status that accepting at `now` leads to, by the status machine, or why it is not possible.
fn rewardable(status: Status, now: Instant) -> std::result::Result<Status, NoReward> {
    status.accept(now).map_err(|error| match (error, status) {
        (MoveError::TooLate, _) => NoReward::RewardExpired,
        (_, Status::InProgress) => NoReward::ChallengeNotCompleted,
        (_, Status::Expired { reason, .. }) => match reason {
            ExpiredReason::ChallengeNotCompleted
            | ExpiredReason::Quit
            | ExpiredReason::Cancelled => NoReward::ChallengeOver(reason),
            ExpiredReason::RewardNotClaimed => NoReward::RewardExpired,
        },
        (_, Status::Completed(_) | Status::Rewarded { .. }) => NoReward::RewardExpired,
    })
}

fn is_rewarded(status: &Status) -> bool {
    matches!(status, Status::Rewarded { .. })
}

/// The result of the earlier accept if the participation is already rewarded.
async fn acceptance_of(
    connection: &mut PgConnection,
    found: &StoredParticipation,
) -> Result<Option<AcceptOutcome>> {
    if !is_rewarded(&found.state.status) {
        return Ok(None);
    }
    Ok(Some(AcceptOutcome::Rewarded {
        origination: origination_of(connection, found.state.user_id).await?,
        participation: found.clone(),
        repeated: true,
    }))
}

/// Whether a reward of the client, in any promotion, is held for review. `reconcile` records that while
/// every process is stopped, so this read needs no lock.
async fn is_held(connection: &mut PgConnection, user_id: UserId) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from held_reward where user_id = $1 and loss_accepted_at is null) as "held!""#,
        user_id
    )
    .fetch_one(connection)
    .await?)
}

struct Split {
    split_id: Uuid,
    pre_offer_id: Uuid,
    country_code: String,
    valid_until: Instant,
}

async fn accept_under_lock(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    traceparent: Option<&str>,
) -> Result<AcceptOutcome> {
    let locked = sqlx::query!(
        "select p.pre_offer_id, p.country_code, m.has_budget_use
           from promotion_user p join promotion m using (promotion_id)
          where p.user_id = $1 and p.promotion_id = $2
            for update of p",
        user_id,
        promotion_id
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(locked) = locked else {
        return Ok(AcceptOutcome::Refused(NoReward::NotParticipating));
    };
    // Both are read after the lock, so that either this call or the sweeper decides the deadline's last
    // millisecond, never both.
    let mut found = must_be_there(load(connection, user_id, promotion_id).await?)?;
    if let Some(earlier) = acceptance_of(connection, &found).await? {
        return Ok(earlier);
    }
    // An extension that is running may move the deadline: apply it before judging.
    if found.is_overdue() && apply_of_client(connection, user_id).await? {
        found = must_be_there(load(connection, user_id, promotion_id).await?)?;
    }
    let rewarded = match rewardable(found.state.status, found.now) {
        Ok(rewarded) => rewarded.fields(),
        Err(refused) => return Ok(AcceptOutcome::Refused(refused)),
    };
    if is_held(connection, user_id).await? {
        return Ok(AcceptOutcome::Refused(NoReward::UnderReview));
    }
    let rewarded_at = found.now;
    let reward = &found.state.reward;

    let Some(split) = take_split(
        connection,
        &found,
        locked.pre_offer_id,
        &locked.country_code,
    )
    .await?
    else {
        return Ok(AcceptOutcome::Refused(NoReward::SplitMissing));
    };
    let origination = Origination {
        application_id: Uuid::now_v7(),
        session_id: Uuid::now_v7(),
        sequence_id: SEQUENCE_ID,
        active_pre_offer_id: Uuid::now_v7(),
    };
    // The terms are those frozen at the start; pre-offer and product may have changed since.
    let product = product_of(connection, user_id, promotion_id).await?;
    sqlx::query!(
        "insert into active_pre_offer (active_pre_offer_id, user_id, promotion_id, pre_offer_id, product_id, product_name, term_days,
                                       terms_url, amount_cents, currency_code, repayment_rate, created_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
        origination.active_pre_offer_id,
        user_id,
        promotion_id,
        locked.pre_offer_id,
        product.product_id,
        product.name,
        product.term_days,
        product.terms_url,
        reward.amount_cents,
        reward.currency_code.as_str(),
        reward.repayment_rate,
        rewarded_at
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "insert into application (application_id, user_id, active_pre_offer_id, created_at) values ($1, $2, $3, $4)",
        origination.application_id,
        user_id,
        origination.active_pre_offer_id,
        rewarded_at
    )
    .execute(&mut *connection)
    .await?;
    let parameters = json!({ "split_id": split.split_id, "pre_offer_id": split.pre_offer_id, "promotion_id": promotion_id,
        "country_code": split.country_code, "valid_until": crate::wire::format_instant(split.valid_until),
        "product_id": reward.product_id, "amount_cents": reward.amount_cents, "currency_code": reward.currency_code,
        "repayment_rate": reward.repayment_rate });
    sqlx::query!(
        "insert into session (session_id, user_id, application_id, split_id, sequence_id, parameters, created_at)
         values ($1, $2, $3, $4, $5, $6, $7)",
        origination.session_id,
        user_id,
        origination.application_id,
        split.split_id,
        SEQUENCE_ID,
        parameters,
        rewarded_at
    )
    .execute(&mut *connection)
    .await?;
    let used = sqlx::query!(
        "update cash_loan_account set status = $3, updated_at = $2 where split_id = $1 and status = 'ACTIVE'",
        split.split_id,
        rewarded_at,
        SplitStatus::Used as SplitStatus
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    must_be_all(used, 1, "locked splits could be used")?;
    let from = found.state.status.name();
    let written = sqlx::query!(
        "update promotion_user set status = $3, version = version + 1, rewarded_at = $4
          where user_id = $1 and promotion_id = $2 and status = $5",
        user_id,
        promotion_id,
        rewarded.status as StatusName,
        rewarded.rewarded_at,
        from as StatusName
    )
    .execute(&mut *connection)
    .await?
    .rows_affected();
    must_be_all(written, 1, "locked participations could be rewarded")?;
    enqueue_event(
        connection,
        user_id,
        promotion_id,
        EventType::Rewarded,
        Some(from),
        rewarded_at,
        traceparent,
    )
    .await?;
    let participation = must_be_there(load(connection, user_id, promotion_id).await?)?;
    if locked.has_budget_use {
        budget::spend(connection, promotion_id, reward).await?;
    }
    Ok(AcceptOutcome::Rewarded {
        origination,
        participation,
        repeated: false,
    })
}

/// The client's `ACTIVE` split for the promotion, locked. If it is gone, one is created from the frozen
/// reward, unless the promotion rejects that.
async fn take_split(
    connection: &mut PgConnection,
    found: &StoredParticipation,
    pre_offer_id: Uuid,
    country_code: &str,
) -> Result<Option<Split>> {
    let (user_id, promotion_id) = (found.state.user_id, found.state.promotion_id);
    let split = sqlx::query_as!(
        Split,
        "select split_id, pre_offer_id, country_code, valid_until from cash_loan_account
          where user_id = $1 and promotion_id = $2 and status = 'ACTIVE' for update",
        user_id,
        promotion_id
    )
    .fetch_optional(&mut *connection)
    .await?;
    // A split ends by the clock, also if its end is not recorded yet.
    let (valid, run_out): (Option<Split>, Option<Split>) = match split {
        Some(split) if found.now < split.valid_until => (Some(split), None),
        other => (None, other),
    };
    if valid.is_some() {
        return Ok(valid);
    }
    let missing_split = sqlx::query_scalar!(
        r#"select missing_split as "missing_split: MissingSplit" from promotion where promotion_id = $1"#,
        promotion_id
    )
    .fetch_one(&mut *connection)
    .await?;
    if missing_split == MissingSplit::Reject {
        return Ok(None);
    }
    if let Some(run_out) = run_out {
        sqlx::query!(
            "update cash_loan_account set status = $3, updated_at = $2 where split_id = $1",
            run_out.split_id,
            found.now,
            SplitStatus::Expired as SplitStatus
        )
        .execute(&mut *connection)
        .await?;
    }
    let reward: &Reward = &found.state.reward;
    let split = Split {
        split_id: Uuid::now_v7(),
        pre_offer_id,
        country_code: country_code.to_owned(),
        // Valid as long as the reward may be claimed. A completed participation has a reward deadline.
        valid_until: found
            .state
            .status
            .completion()
            .map_or(found.now, |completion| completion.reward_deadline),
    };
    sqlx::query!(
        "insert into cash_loan_account (split_id, user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents,
                                        currency_code, repayment_rate, valid_until, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
        split.split_id,
        user_id,
        promotion_id,
        split.pre_offer_id,
        split.country_code,
        reward.product_id,
        reward.amount_cents,
        reward.currency_code.as_str(),
        reward.repayment_rate,
        split.valid_until,
        found.now
    )
    .execute(connection)
    .await?;
    Ok(Some(split))
}

/// The product behind a participation's reward, as frozen at the start. Participations of older releases have
/// no frozen product; theirs is read as it is now.
async fn product_of(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
) -> Result<RewardProduct> {
    Ok(sqlx::query_as!(
        RewardProduct,
        r#"select p.product_id, coalesce(t.name, p.name) as "name!", coalesce(t.currency_code, p.currency_code) as "currency_code!",
                  coalesce(t.term_days, p.term_days) as "term_days!",
                  case when t.product_terms_id is null then p.terms_url else t.terms_url end as terms_url
             from promotion_user u
             join product p on p.product_id = (u.reward ->> 'product_id')::bigint
             left join product_terms t on t.product_terms_id = u.product_terms_id
            where u.user_id = $1 and u.promotion_id = $2"#,
        user_id,
        promotion_id
    )
    .fetch_one(connection)
    .await?)
}

/// The application and its rows that accepting created; a client has at most one.
async fn origination_of(connection: &mut PgConnection, user_id: UserId) -> Result<Origination> {
    Ok(sqlx::query_as!(
        Origination,
        "select a.application_id, s.session_id, s.sequence_id, a.active_pre_offer_id
           from application a join session s using (application_id) where a.user_id = $1",
        user_id
    )
    .fetch_one(connection)
    .await?)
}

fn must_be_there(stored: Option<StoredParticipation>) -> Result<StoredParticipation> {
    stored.ok_or_else(|| StoreError::Corrupt("a locked participation vanished".to_owned()))
}
