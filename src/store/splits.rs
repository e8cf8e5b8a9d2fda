//! Splits: the decision to show a client a promotion, with the terms of the pre-offer it was made from.

use std::collections::HashSet;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Result, StoreError};
use crate::domain::eligibility;
use crate::domain::reward::Reward;
use crate::domain::split::SplitStatus;
use crate::domain::{Instant, ParticipationKey, PromotionId, UserId};

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

/// As [`lock_pre_offers`], of many clients and without waiting: returns the clients whose pre-offers are all
/// locked now. Another transaction holds, or has just deleted, some of the others' pre-offers.
pub(super) async fn try_lock_pre_offers(
    connection: &mut PgConnection,
    users: &[UserId],
) -> Result<HashSet<UserId>> {
    let locked = sqlx::query_scalar!(
        r#"select v.user_id as "user_id!" from unnest($1::bigint[]) v (user_id)
            where (select count(*) from (select from pre_offer where user_id = v.user_id for update skip locked) locked)
                = (select count(*) from pre_offer where user_id = v.user_id)"#,
        users
    )
    .fetch_all(connection)
    .await?;
    Ok(locked.into_iter().collect())
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
    let key = (user_id, promotion_id);
    let split = NewSplit {
        key,
        pre_offer,
        now,
    };
    make(connection, &[split]).await?;
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

/// A split to make.
pub(super) struct NewSplit<'a> {
    pub(super) key: ParticipationKey,
    pub(super) pre_offer: &'a PreOffer,
    pub(super) now: Instant,
}

/// Makes an `ACTIVE` split for each of these that has none. Returns for which it did.
pub(super) async fn make(
    connection: &mut PgConnection,
    splits: &[NewSplit<'_>],
) -> Result<HashSet<ParticipationKey>> {
    let (users, promotions): (Vec<UserId>, Vec<PromotionId>) =
        splits.iter().map(|split| split.key).unzip();
    let pre_offers = || splits.iter().map(|split| split.pre_offer);
    let split_ids: Vec<Uuid> = splits.iter().map(|_| Uuid::now_v7()).collect();
    let pre_offer_ids: Vec<Uuid> = pre_offers().map(|from| from.pre_offer_id).collect();
    let country_codes: Vec<&str> = pre_offers().map(|from| &*from.country_code).collect();
    let product_ids: Vec<i64> = pre_offers().map(|from| from.product_id).collect();
    let amounts_cents: Vec<i64> = pre_offers().map(|from| from.amount_cents).collect();
    let currency_codes: Vec<&str> = pre_offers().map(|from| &*from.currency_code).collect();
    let repayment_rates: Vec<&str> = pre_offers().map(|from| &*from.repayment_rate).collect();
    let valid_until: Vec<Instant> = pre_offers().map(|from| from.valid_until).collect();
    let now: Vec<Instant> = splits.iter().map(|split| split.now).collect();
    let made = sqlx::query!(
        "insert into cash_loan_account (split_id, user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents,
                                        currency_code, repayment_rate, valid_until, created_at, updated_at)
         select split_id, user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents,
                currency_code, repayment_rate, valid_until, now, now
           from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::uuid[], $5::text[], $6::bigint[], $7::bigint[], $8::text[],
                       $9::text[], $10::timestamptz[], $11::timestamptz[])
                v (split_id, user_id, promotion_id, pre_offer_id, country_code, product_id, amount_cents, currency_code,
                   repayment_rate, valid_until, now)
         on conflict (user_id, promotion_id) where status = 'ACTIVE' do nothing
         returning user_id, promotion_id",
        &split_ids,
        &users,
        &promotions,
        &pre_offer_ids,
        &country_codes as &[&str],
        &product_ids,
        &amounts_cents,
        &currency_codes as &[&str],
        &repayment_rates as &[&str],
        &valid_until,
        &now
    )
    .fetch_all(connection)
    .await?;
    Ok(made
        .into_iter()
        .map(|row| (row.user_id, row.promotion_id))
        .collect())
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
