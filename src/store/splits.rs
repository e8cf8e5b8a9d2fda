//! Splits: the decision to show a client a promotion, with the terms of the pre-offer it was made from.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Result, StoreError};
use crate::domain::eligibility;
use crate::domain::reward::Reward;
use crate::domain::split::SplitStatus;
use crate::domain::{Instant, PromotionId, UserId};

/// What a split is made of.
pub(super) struct PreOffer {
    pub(super) pre_offer_id: Uuid,
    pub(super) product_id: i64,
    pub(super) amount_cents: i64,
    pub(super) currency_code: String,
    pub(super) repayment_rate: String,
    pub(super) country_code: String,
    pub(super) valid_until: Instant,
}

impl PreOffer {
    /// The loan terms that a participation freezes.
    pub(super) fn reward(&self) -> Result<Reward> {
        Ok(Reward {
            product_id: self.product_id,
            amount_cents: self.amount_cents,
            currency_code: self.currency_code.parse().map_err(|error| {
                StoreError::Corrupt(format!("pre-offer {}: {error}", self.pre_offer_id))
            })?,
            repayment_rate: self.repayment_rate.clone(),
        })
    }
}

impl From<&eligibility::PreOffer> for PreOffer {
    fn from(pre_offer: &eligibility::PreOffer) -> Self {
        Self {
            pre_offer_id: pre_offer.pre_offer_id,
            product_id: pre_offer.reward.product_id,
            amount_cents: pre_offer.reward.amount_cents,
            currency_code: pre_offer.reward.currency_code.to_string(),
            repayment_rate: pre_offer.reward.repayment_rate.clone(),
            country_code: pre_offer.country_code.to_string(),
            valid_until: pre_offer.valid_until,
        }
    }
}

/// Locks the client's pre-offers, before anything else of theirs: it makes starts, landings and erasures of
/// a client take turns. What they guard is read by later statements, which see what others have committed.
pub(super) async fn lock_pre_offers(connection: &mut PgConnection, user_id: UserId) -> Result<()> {
    sqlx::query!(
        "select from pre_offer where user_id = $1 order by pre_offer_id for update",
        user_id
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

/// The most recently imported newbie pre-offer of the client for this promotion: a valid one where there
/// is one, else one that has run out.
pub(super) async fn newest_newbie(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
) -> Result<Option<PreOffer>> {
    Ok(sqlx::query_as!(
        PreOffer,
        r#"select pre_offer_id, product_id, amount_cents, currency_code, repayment_rate, country_code, valid_until
             from (select * from pre_offer where user_id = $1 offset 0) of_client
            where promotion_id = $2 and segment = 'newbie'
            order by valid_until > clock_timestamp() desc, import_seq desc
            limit 1"#,
        user_id,
        promotion_id
    )
    .fetch_optional(connection)
    .await?)
}

/// Leaves exactly one `ACTIVE` split, valid now and saying what this pre-offer says: the one there
/// is, or a new one.
pub(super) async fn ensure_active_split(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    pre_offer: &PreOffer,
    now: Instant,
) -> Result<()> {
    expire_others(connection, user_id, promotion_id, pre_offer, now).await?;
    make(connection, user_id, promotion_id, pre_offer, now).await?;
    Ok(())
}

/// Ends the `ACTIVE` split that is over, or says something else than this pre-offer.
async fn expire_others(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    pre_offer: &PreOffer,
    now: Instant,
) -> Result<()> {
    sqlx::query!(
        "update cash_loan_account set status = $11, updated_at = $3
          where user_id = $1 and promotion_id = $2 and status = 'ACTIVE'
            and (valid_until <= $3
                 or (pre_offer_id, product_id, amount_cents, currency_code, repayment_rate, country_code, valid_until)
                    is distinct from ($4, $5, $6, $7, $8, $9, $10))",
        user_id,
        promotion_id,
        now,
        pre_offer.pre_offer_id,
        pre_offer.product_id,
        pre_offer.amount_cents,
        pre_offer.currency_code,
        pre_offer.repayment_rate,
        pre_offer.country_code,
        pre_offer.valid_until,
        SplitStatus::Expired as SplitStatus
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes an `ACTIVE` split, unless there is one. Returns whether it did.
pub(super) async fn make(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    pre_offer: &PreOffer,
    now: Instant,
) -> Result<bool> {
    let made = sqlx::query!(
        "insert into cash_loan_account (split_id, user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents,
                                        currency_code, repayment_rate, valid_until, created_at, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)
         on conflict (user_id, promotion_id) where status = 'ACTIVE' do nothing",
        Uuid::now_v7(),
        user_id,
        promotion_id,
        pre_offer.pre_offer_id,
        pre_offer.country_code,
        pre_offer.product_id,
        pre_offer.amount_cents,
        pre_offer.currency_code,
        pre_offer.repayment_rate,
        pre_offer.valid_until,
        now
    )
    .execute(connection)
    .await?
    .rows_affected();
    Ok(made == 1)
}

/// Whether the client has an `ACTIVE` split that is not over, whatever it says.
pub(super) async fn has_valid_split(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    now: Instant,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from cash_loan_account
                           where user_id = $1 and promotion_id = $2 and status = 'ACTIVE' and valid_until > $3) as "is_valid!""#,
        user_id,
        promotion_id,
        now
    )
    .fetch_one(connection)
    .await?)
}

/// Whether the client has an `ACTIVE` split that is not over and says what this pre-offer says, so that
/// [`ensure_active_split`] would change nothing.
pub(super) async fn is_current(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    pre_offer: &PreOffer,
    now: Instant,
) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (
              select from cash_loan_account
               where user_id = $1 and promotion_id = $2 and status = 'ACTIVE' and valid_until > $3
                 and (pre_offer_id, product_id, amount_cents, currency_code, repayment_rate, country_code, valid_until)
                     is not distinct from ($4, $5, $6, $7, $8, $9, $10)) as "is_current!""#,
        user_id,
        promotion_id,
        now,
        pre_offer.pre_offer_id,
        pre_offer.product_id,
        pre_offer.amount_cents,
        pre_offer.currency_code,
        pre_offer.repayment_rate,
        pre_offer.country_code,
        pre_offer.valid_until
    )
    .fetch_one(connection)
    .await?)
}
