//! Participations: starting one, reading one, its receipts, and expiry.

use std::sync::Arc;

use serde_json::Value;
use sqlx::PgConnection;
use sqlx::types::Json;
use uuid::Uuid;

use super::budget::{self, Reservation};
use super::erasure::rewarded_elsewhere;
use super::expiry::expire_reward_of;
use super::extensions::{apply_of_client, is_any_running};
use super::reminders::Scheduled;
use super::state::state_of;
use super::{Result, Store, StoreError, timed_out};
use crate::domain::budget::Budget;
use crate::domain::eligibility::{self, EligibilityRule, Facts, PreOfferFound, failed_rules};
use crate::domain::goals::{FurtherGoals, Tally};
use crate::domain::participation::{DeadlineOf, ExpiredReason, Status, StatusName};
use crate::domain::promotion::{Conditions, Verdict};
use crate::domain::reward::Reward;
use crate::domain::ride::RideSource;
use crate::domain::schedule::Schedule;
use crate::domain::split::SplitStatus;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::participation::{Participation, State};
use crate::wire::promotion_status::EventType;

/// A client has at most one participation that is live or rewarded.
const ONE_LIVE_OR_REWARDED: &str = "promotion_user_one_live_or_rewarded";

/// A client takes part in a promotion once.
const ONCE: &str = "promotion_user_pkey";

/// How often a start is tried while the client's other participations come to be.
const MAX_TRIES: u32 = 5;

/// A participation as stored, read with the database's clock of that moment.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Its state.
    pub state: Arc<State>,
    /// The frozen conditions.
    pub conditions: Arc<Value>,
    /// The database's clock.
    pub now: Instant,
}

impl Stored {
    /// Live, and past the deadline that its status has.
    pub fn is_overdue(&self) -> bool {
        self.state.is_overdue(self.now)
    }

    /// As the client sees it.
    pub fn view(&self) -> Participation {
        Participation::at(
            Arc::clone(&self.state),
            Arc::clone(&self.conditions),
            self.now,
        )
    }
}

/// The answer to Get started.
#[derive(Clone, Debug)]
pub enum Started {
    /// It began now.
    Started {
        /// The participation.
        participation: Stored,
        /// How many rewards that were not claimed in time had to be expired first.
        expired_rewards: u64,
    },
    /// It runs already.
    AlreadyInProgress(Stored),
    /// It is past that.
    AlreadyParticipated(Stored),
    /// There is no such promotion.
    NoSuchPromotion,
    /// The rules that failed, in order; never empty.
    NotEligible(Vec<EligibilityRule>),
}

/// One receipt, with its place in the client's list.
#[derive(Clone, Debug)]
pub struct Receipt {
    /// The ride.
    pub ride_id: Uuid,
    /// When it was completed; `None`, as the fare, where only its reversal came.
    pub completed_at: Option<Instant>,
    /// Its fare in cents.
    pub amount_cents: Option<i64>,
    /// The fare's currency.
    pub currency_code: Option<String>,
    /// What was decided.
    pub verdict: Verdict,
    /// The values compared; `None` where it counted.
    pub details: Option<Value>,
    /// When it was recorded.
    pub recorded_at: Instant,
    /// How far the ride went, in metres, where it says so.
    pub distance_m: Option<i64>,
    /// When the platform took it back, where it did.
    pub reversed_at: Option<Instant>,
    /// How the ride came; `None` for receipts of a release before 0.2.0.
    pub source: Option<RideSource>,
    /// The version of the participation that the ride made, alone or with others.
    pub version: Option<i32>,
}

impl Receipt {
    /// Its instant in the client's list: a ride that was never seen is where its reversal came.
    pub fn listed_at(&self) -> Instant {
        self.completed_at.unwrap_or(self.recorded_at)
    }

    /// As clients and operators see it.
    pub fn view(self) -> crate::wire::receipt::Receipt {
        crate::wire::receipt::Receipt {
            ride_id: self.ride_id,
            completed_at: self.completed_at,
            amount_cents: self.amount_cents,
            currency_code: self.currency_code,
            counted: self.details.is_none(),
            verdict: self.verdict,
            details: self.details,
            recorded_at: self.recorded_at,
            distance_m: self.distance_m,
            reversed_at: self.reversed_at,
            source: self.source,
            version: self.version,
        }
    }
}

/// Reads one participation, and locks nothing.
pub async fn load(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
) -> Result<Option<Stored>> {
    let row = sqlx::query!(
        r#"select p.user_id, p.promotion_id, m.promotion_key, p.status as "status: StatusName", p.version,
                  p.rides_completed, p.rides_target, p.further_goals as "further_goals: Json<FurtherGoals>", p.started_at, p.challenge_deadline, p.completed_at,
                  p.reward_deadline, p.rewarded_at, p.expired_at, p.expired_reason as "expired_reason: ExpiredReason",
                  p.reward as "reward: Json<Reward>", t.conditions, clock_ms() as "now!"
             from promotion_user p
             join promotion m using (promotion_id)
             join promotion_terms t using (terms_id)
            where p.user_id = $1 and p.promotion_id = $2"#,
        user_id,
        promotion_id
    )
    .fetch_optional(connection)
    .await?;
    row.map(|row| {
        Ok(Stored {
            state: Arc::new(state_of!(row)?),
            conditions: Arc::new(row.conditions),
            now: row.now,
        })
    })
    .transpose()
}

impl Store {
    /// Reads one participation.
    pub async fn participation(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
    ) -> Result<Option<Stored>> {
        let found = load(&mut *self.acquire().await?, user_id, promotion_id).await?;
        self.extended(found).await
    }

    /// What was read, or what it is once the running extensions are applied: where its deadline has
    /// passed, that is judged by whoever reads it.
    async fn extended(&self, found: Option<Stored>) -> Result<Option<Stored>> {
        let stored = match found {
            Some(stored) if stored.is_overdue() => stored,
            found => return Ok(found),
        };
        let (user_id, promotion_id) = (stored.state.user_id, stored.state.promotion_id);
        if is_any_running(&mut *self.acquire().await?).await? {
            self.apply_extensions(user_id).await?;
        }
        // Again in any case: another process may have applied an extension, and finished it, since the
        // first read.
        load(&mut *self.acquire().await?, user_id, promotion_id).await
    }

    /// A page of a participation's receipts by completion, newest first: those after the place
    /// ([`Receipt::listed_at`], `ride_id`), at most `limit`.
    pub async fn receipts(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
        after: Option<(Instant, Uuid)>,
        limit: i64,
    ) -> Result<Vec<Receipt>> {
        let (after_at, after_id) = after.unzip();
        // The month is fetched first, so that one partition is read and not all.
        Ok(sqlx::query_as!(
            Receipt,
            r#"select ride_id, completed_at, amount_cents, currency_code, verdict as "verdict: Verdict", details,
                      recorded_at, distance_m, reversed_at, source as "source: RideSource", version
                 from ride_receipt
                where user_id = $1 and promotion_id = $2
                  and receipts_month = (select receipts_month from promotion_user where user_id = $1 and promotion_id = $2)
                  and ($3::timestamptz is null or (coalesce(completed_at, recorded_at), ride_id) < ($3, $4::uuid))
                order by coalesce(completed_at, recorded_at) desc, ride_id desc
                limit $5"#,
            user_id,
            promotion_id,
            after_at,
            after_id,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }

    /// Get started: begins the promotion for the client if every rule allows it. Running it again
    /// finds what the first run did.
    pub async fn start(
        &self,
        user_id: UserId,
        promotion_id: PromotionId,
        traceparent: Option<String>,
    ) -> Result<Started> {
        let erased_name = self.erased_name(user_id)?;
        // A process of the release before would accept on the product of the moment, and not keep
        // the counts of days.
        let upgraded = self.upgrade_is_finished().await?;
        let mut tries = 1;
        loop {
            let (traceparent, erased_name) = (traceparent.clone(), erased_name.clone());
            let result = self
                .run_tx("start", move |connection| {
                    let (traceparent, erased_name) = (traceparent.clone(), erased_name.clone());
                    Box::pin(async move {
                        start(
                            connection,
                            (user_id, promotion_id),
                            erased_name.as_deref(),
                            upgraded,
                            traceparent.as_deref(),
                        )
                        .await
                    })
                })
                .await;
            match result {
                // The client took part in something meanwhile, which the locks on pre-offers could
                // not tell: now it is known.
                Err(error)
                    if tries < MAX_TRIES
                        && [ONE_LIVE_OR_REWARDED, ONCE]
                            .into_iter()
                            .any(|constraint| error.is_duplicate_of(constraint)) =>
                {
                    tries += 1;
                }
                Err(StoreError::BudgetExhausted) => {
                    return Ok(Started::NotEligible(vec![EligibilityRule::BudgetExhausted]));
                }
                result => return result,
            }
        }
    }
}

/// What a split is made of.
pub(super) struct PreOffer {
    pre_offer_id: Uuid,
    product_id: i64,
    amount_cents: i64,
    currency_code: String,
    repayment_rate: String,
    country_code: String,
    pub(super) valid_until: Instant,
}

impl PreOffer {
    /// The loan terms that a participation freezes.
    fn reward(&self) -> Result<Reward> {
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

async fn start(
    connection: &mut PgConnection,
    (user_id, promotion_id): (UserId, PromotionId),
    erased_name: Option<&str>,
    upgraded: bool,
    traceparent: Option<&str>,
) -> Result<Started> {
    // Every lock first, always in this order; what they guard is read by the statements after.
    // A client's pre-offers are also what serializes two starts of the same client.
    sqlx::query!(
        "select from pre_offer where user_id = $1 order by pre_offer_id for update",
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    let promotion = sqlx::query!(
        r#"select conditions, active, opens_at, closes_at, budget as "budget: Json<Budget>", has_budget_use
             from promotion where promotion_id = $1 for share"#,
        promotion_id
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(existing) = load(connection, user_id, promotion_id).await? {
        return Ok(match existing.state.status {
            Status::InProgress => Started::AlreadyInProgress(existing),
            _ => Started::AlreadyParticipated(existing),
        });
    }
    let Some(promotion) = promotion else {
        return Ok(Started::NoSuchPromotion);
    };
    let newest = newest_newbie(connection, user_id, promotion_id).await?;
    let promotions_enabled = match &newest {
        None => None,
        Some(pre_offer) => Some(
            sqlx::query_scalar!(
                "select promotions_enabled from geo_config where country_code = $1 for share",
                pre_offer.country_code
            )
            .fetch_optional(&mut *connection)
            .await?
            .unwrap_or(false),
        ),
    };
    let mut standing = standing(connection, user_id).await?;
    // A reward that an extension covers is live again, whoever is the first to look.
    if standing.overdue {
        apply_of_client(connection, user_id).await?;
        // The sweeper may have applied it since the first read.
        standing = self::standing(connection, user_id).await?;
    }
    // It may have run out while the locks were waited for; the later clock decides.
    let found = match &newest {
        None => PreOfferFound::No,
        Some(pre_offer) if standing.now < pre_offer.valid_until => PreOfferFound::Valid,
        Some(_) => PreOfferFound::Expired,
    };
    let pre_offer = newest.filter(|_| found == PreOfferFound::Valid);
    let reward = pre_offer.as_ref().map(PreOffer::reward).transpose()?;
    let budget = promotion.budget.map(|Json(budget)| budget);
    let budget_has_room = match (&budget, &reward) {
        (_, None) => None,
        (None, Some(_)) => Some(true),
        (Some(budget), Some(reward)) => {
            let used = budget::used(connection, promotion_id).await?;
            Some(budget.has_room(&used.unwrap_or_default(), reward))
        }
    };
    let schedule = Schedule {
        opens_at: promotion.opens_at,
        closes_at: promotion.closes_at,
    };
    let failed = failed_rules(&Facts {
        rewarded: standing.rewarded || rewarded_elsewhere(connection, user_id, erased_name).await?,
        live: standing.live,
        pre_offer: found,
        promotion_mapped: Some(true),
        promotion_active: Some(promotion.active),
        promotion_open: Some(schedule.is_open(standing.now)),
        promotions_enabled: promotions_enabled.filter(|_| pre_offer.is_some()),
        budget_has_room,
    });
    let (Some(pre_offer), Some(reward), true) = (pre_offer, reward, failed.is_empty()) else {
        return Ok(Started::NotEligible(failed));
    };
    // As frozen ones are read: they were checked when they were written.
    let (conditions, _) = Conditions::from_frozen(&promotion.conditions).map_err(|errors| {
        StoreError::Corrupt(format!(
            "conditions of promotion {promotion_id}: {errors:?}"
        ))
    })?;
    // What the rules take for over is written to be over first; a client has one live participation.
    let (expired_rewards, released) = expire_reward_of(connection, user_id).await?;
    let started_at = standing.now;
    let terms_id = freeze_terms(connection, promotion_id, &promotion.conditions).await?;
    let product_terms_id = match upgraded {
        true => Some(freeze_product(connection, reward.product_id).await?),
        false => None,
    };
    let challenge_deadline = started_at + conditions.challenge_period.delta();
    let further_goals = conditions.further_goals(&Tally::default()).map(Json);
    sqlx::query!(
        // Above what subscribers have of one that was lost in a restore.
        r#"insert into promotion_user (user_id, promotion_id, terms_id, status, version, rides_target, started_at,
                                       challenge_deadline, reward, pre_offer_id, country_code, receipts_month, product_terms_id,
                                       further_goals, rides_counted, amount_counted, days_counted)
           values ($1, $2, $3, $10,
                   1 + coalesce((select version from version_floor where user_id = $1 and promotion_id = $2), 0),
                   $4, $5, $6, $7, $8, $9, date_trunc('month', $5::timestamptz at time zone 'UTC')::date, $11,
                   $12, case when $12::jsonb is not null then 0 end, case when $12::jsonb is not null then 0 end, $13)"#,
        user_id,
        promotion_id,
        terms_id,
        i32::try_from(conditions.target_rides).unwrap_or(i32::MAX),
        started_at,
        challenge_deadline,
        Json(&reward) as Json<&Reward>,
        pre_offer.pre_offer_id,
        pre_offer.country_code,
        StatusName::InProgress as StatusName,
        product_terms_id,
        further_goals as Option<Json<FurtherGoals>>,
        (upgraded && conditions.counts_days()).then_some(0)
    )
    .execute(&mut *connection)
    .await?;
    let mut reminders = Scheduled::default();
    reminders.push(
        (user_id, promotion_id),
        &conditions,
        DeadlineOf::Challenge,
        (started_at, challenge_deadline),
    );
    reminders.write(connection).await?;
    ensure_active_split(connection, user_id, promotion_id, &pre_offer, started_at).await?;
    enqueue_event(
        connection,
        user_id,
        promotion_id,
        EventType::Started,
        None,
        started_at,
        traceparent,
    )
    .await?;
    let Some(participation) = load(connection, user_id, promotion_id).await? else {
        return Err(StoreError::Corrupt(format!(
            "participation ({user_id}, {promotion_id}) vanished while it was started"
        )));
    };
    if promotion.has_budget_use {
        // Also where the budget was removed: the use stays known.
        let room = budget.unwrap_or_default().room_for(&reward);
        let reservation = Reservation {
            promotion_id,
            room: room.ok_or(StoreError::BudgetExhausted)?,
            reward: &reward,
        };
        if !reservation.make(connection, released).await? {
            return Err(StoreError::BudgetExhausted);
        }
    } else {
        released.give_back(connection).await?;
    }
    Ok(Started::Started {
        participation,
        expired_rewards,
    })
}

/// What the client's participations say about another start.
struct ClientStanding {
    /// One was rewarded.
    rewarded: bool,
    /// One is live, and not past its reward's deadline.
    live: bool,
    /// One is past its reward's deadline, and not expired.
    overdue: bool,
    /// Always false: the gate is empty.
    _gate: bool,
    now: Instant,
}

/// The gate of extensions is entered with the clock that the start is recorded with: an extension
/// that is ordered later waits for this transaction, and its instant is later.
async fn standing(connection: &mut PgConnection, user_id: UserId) -> Result<ClientStanding> {
    Ok(sqlx::query_as!(
        ClientStanding,
        r#"select coalesce(bool_or(status = $2), false) as "rewarded!",
                  coalesce(bool_or(status = $3 or (status = $4 and reward_deadline > clock_timestamp())), false) as "live!",
                  coalesce(bool_or(status = $4 and reward_deadline <= clock_timestamp()), false) as "overdue!",
                  exists (select from extension_gate for key share) as "_gate!", clock_ms() as "now!"
             from promotion_user where user_id = $1"#,
        user_id,
        StatusName::Rewarded as StatusName,
        StatusName::InProgress as StatusName,
        StatusName::Completed as StatusName
    )
    .fetch_one(connection)
    .await?)
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
             from pre_offer
            where user_id = $1 and promotion_id = $2 and segment = 'newbie'
            order by valid_until > clock_timestamp() desc, import_seq desc
            limit 1"#,
        user_id,
        promotion_id
    )
    .fetch_optional(connection)
    .await?)
}

/// The immutable row of these conditions, made if it is the first participation under them.
async fn freeze_terms(
    connection: &mut PgConnection,
    promotion_id: PromotionId,
    conditions: &Value,
) -> Result<i64> {
    sqlx::query!(
        "insert into promotion_terms (promotion_id, conditions) values ($1, $2) on conflict (promotion_id, md5(conditions::text)) do nothing",
        promotion_id,
        conditions
    )
    .execute(&mut *connection)
    .await?;
    Ok(sqlx::query_scalar!(
        "select terms_id from promotion_terms where promotion_id = $1 and md5(conditions::text) = md5($2::jsonb::text)",
        promotion_id,
        conditions
    )
    .fetch_one(connection)
    .await?)
}

/// The immutable row of this product as it is now, made if it is the first participation with it.
async fn freeze_product(connection: &mut PgConnection, product_id: i64) -> Result<i64> {
    for _ in 0..MAX_TRIES {
        // Nearly every start finds it.
        let found = sqlx::query_scalar!(
            "select t.product_terms_id
               from product p
               join product_terms t
                 on (t.product_id, t.name, t.currency_code, t.term_days) = (p.product_id, p.name, p.currency_code, p.term_days)
                and t.terms_url is not distinct from p.terms_url
              where p.product_id = $1",
            product_id
        )
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(found) = found {
            return Ok(found);
        }
        let made = sqlx::query_scalar!(
            "insert into product_terms (product_id, name, currency_code, term_days, terms_url)
             select product_id, name, currency_code, term_days, terms_url from product where product_id = $1
             on conflict do nothing
             returning product_terms_id",
            product_id
        )
        .fetch_optional(&mut *connection)
        .await?;
        if let Some(made) = made {
            return Ok(made);
        }
        // Another start has made it meanwhile.
    }
    Err(timed_out())
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
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
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
    .await?;
    Ok(())
}

/// Puts the participation's present state into the outbox and notes the event beside it, so that it
/// can be published again. The caller holds its row lock.
pub(super) async fn enqueue_event(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    event_type: EventType,
    previous_status: Option<StatusName>,
    occurred_at: Instant,
    traceparent: Option<&str>,
) -> Result<()> {
    sqlx::query!(
        "with present as (
             update promotion_user
                set last_event_id = $3, last_event_version = version, last_event_type = $4, last_event_previous_status = $5,
                    last_event_at = $6
              where user_id = $1 and promotion_id = $2
          returning *)
         insert into event_outbox (event_id, type, user_id, promotion_id, status, previous_status, version, rides_completed,
                                   rides_target, started_at, challenge_deadline, completed_at, reward_deadline, rewarded_at,
                                   expired_at, expired_reason, reward, further_goals, occurred_at, traceparent)
         select last_event_id, last_event_type, user_id, promotion_id, status, last_event_previous_status, version, rides_completed,
                rides_target, started_at, challenge_deadline, completed_at, reward_deadline, rewarded_at, expired_at,
                expired_reason, reward, further_goals, last_event_at, $7
           from present",
        user_id,
        promotion_id,
        Uuid::now_v7(),
        event_type as EventType,
        previous_status as Option<StatusName>,
        occurred_at,
        traceparent
    )
    .execute(connection)
    .await?;
    Ok(())
}
