//! The landing: which screen a client sees, and the split that goes with it (contract 5, Landing).

use sqlx::PgConnection;

use super::extensions::apply_of_client;
use super::participations::{StoredParticipation, load};
use super::splits::{
    PreOffer, ensure_active_split, has_valid_split, is_current, lock_pre_offers, newest_newbie,
};
use super::users::eligibility_facts;
use super::{Result, Store, StoreError};
use crate::domain::eligibility::{self, ClientFacts, Screen};
use crate::domain::participation::{Status, StatusName};
use crate::domain::reward::Reward;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::landing::{LandingApplication, LandingOffer, LandingPromotion};
use crate::wire::reward::Origination;

/// What the landing decided.
#[derive(Clone, Debug)]
pub struct Landing {
    /// The screen to show.
    pub screen: Screen,
    /// The promotion it is about.
    pub promotion: Option<LandingPromotion>,
    /// The participation it is about.
    pub participation: Option<StoredParticipation>,
    /// The offer it is about.
    pub offer: Option<LandingOffer>,
    /// The application of a client who was rewarded, on whichever screen.
    pub application: Option<LandingApplication>,
    /// The moment of the decision, by the database's clock.
    pub now: Instant,
}

impl Store {
    /// Decides the client's screen, and makes sure that the client's one `ACTIVE` split matches it.
    /// A repeat changes nothing.
    pub async fn landing(&self, user_id: UserId) -> Result<Landing> {
        let erased_name = self.erased_name(user_id)?;
        if let Some(landing) = self.settled_landing(user_id, erased_name.clone()).await? {
            return Ok(landing);
        }
        self.run_tx("landing", move |connection| {
            let erased_name = erased_name.clone();
            Box::pin(async move {
                let found = landing(connection, user_id, erased_name.as_deref()).await?;
                let settling = found
                    .participation
                    .as_ref()
                    .is_some_and(StoredParticipation::is_overdue);
                // A running extension may move the passed deadline.
                if settling && apply_of_client(connection, user_id).await? {
                    return landing(connection, user_id, erased_name.as_deref()).await;
                }
                Ok(found)
            })
        })
        .await
    }

    /// The landing when nothing has to be written, which is the usual case. It reads one snapshot and takes
    /// no lock. `None` if the split does not match the screen, or if a deadline has passed that an
    /// extension may move.
    async fn settled_landing(
        &self,
        user_id: UserId,
        erased_name: Option<String>,
    ) -> Result<Option<Landing>> {
        self.run_snapshot("landing", move |connection| {
            let erased_name = erased_name.clone();
            Box::pin(async move { settled(connection, user_id, erased_name.as_deref()).await })
        })
        .await
    }
}

/// What [`Store::settled_landing`] reads.
async fn settled(
    connection: &mut PgConnection,
    user_id: UserId,
    erased_name: Option<&str>,
) -> Result<Option<Landing>> {
    let facts = eligibility_facts(connection, user_id, erased_name).await?;
    let is_settled = !facts.has_overdue_reward()
        && match (facts.screen(), facts.latest, &facts.newbie) {
            (Screen::RewardReady | Screen::PromoProgress, Some(latest), _) => {
                let promotion_id = latest.promotion_id;
                has_valid_split(connection, user_id, promotion_id, facts.now).await?
                    // Without a valid pre-offer no new split can be created.
                    || newest_newbie(connection, user_id, promotion_id)
                        .await?
                        .is_none_or(|pre_offer| facts.now >= pre_offer.valid_until)
            }
            (Screen::PromoOffer, _, Some(newbie)) => match newbie.promotion_id {
                Some(promotion_id) => {
                    let of_split = PreOffer::from(newbie);
                    is_current(connection, user_id, promotion_id, &of_split, facts.now).await?
                }
                None => false,
            },
            _ => true,
        };
    if !is_settled {
        return Ok(None);
    }
    let landing = show(connection, user_id, facts).await?;
    let is_overdue = landing
        .participation
        .as_ref()
        .is_some_and(StoredParticipation::is_overdue);
    Ok((!is_overdue).then_some(landing))
}

/// Decides under the locks, and writes the one `ACTIVE` split.
async fn landing(
    connection: &mut PgConnection,
    user_id: UserId,
    erased_name: Option<&str>,
) -> Result<Landing> {
    let facts = locked_facts(connection, user_id, erased_name).await?;
    let screen = facts.screen();
    match screen {
        Screen::RewardReady | Screen::PromoProgress => {
            let latest = facts
                .latest
                .ok_or_else(|| broken(screen, "participation"))?;
            renew_split(connection, user_id, latest.promotion_id, facts.now).await?;
        }
        Screen::PromoOffer => {
            let newbie = facts.newbie.as_ref();
            let newbie = newbie.ok_or_else(|| broken(screen, "pre-offer"))?;
            let promotion_id = newbie
                .promotion_id
                .ok_or_else(|| broken(screen, "promotion"))?;
            let of_split = PreOffer::from(newbie);
            ensure_active_split(connection, user_id, promotion_id, &of_split, facts.now).await?;
        }
        _ => {}
    }
    show(connection, user_id, facts).await
}

/// The screen that follows from the facts, with its content.
async fn show(
    connection: &mut PgConnection,
    user_id: UserId,
    facts: ClientFacts,
) -> Result<Landing> {
    let screen = facts.screen();
    let was_rewarded = facts
        .latest
        .is_some_and(|latest| matches!(latest.status, Status::Rewarded { .. }));
    let application = if was_rewarded {
        application(connection, user_id).await?
    } else {
        None
    };
    let landing = Landing {
        screen,
        promotion: None,
        participation: None,
        offer: None,
        application,
        now: facts.now,
    };
    match screen {
        Screen::RewardReady
        | Screen::PromoProgress
        | Screen::ChallengeOver
        | Screen::RewardExpired => {
            let promotion_id = facts.latest.map(|latest| latest.promotion_id);
            let promotion_id = promotion_id.ok_or_else(|| broken(screen, "participation"))?;
            let stored = load(connection, user_id, promotion_id).await?;
            let mut stored = stored.ok_or_else(|| broken(screen, "participation"))?;
            // With the clock of the decision, so that screen and participation agree about deadlines.
            stored.now = facts.now;
            Ok(Landing {
                promotion: Some(promotion(connection, promotion_id, Some(&stored)).await?),
                participation: Some(stored),
                ..landing
            })
        }
        Screen::PromoOffer => {
            let newbie = facts.newbie.ok_or_else(|| broken(screen, "pre-offer"))?;
            let promotion_id = newbie
                .promotion_id
                .ok_or_else(|| broken(screen, "promotion"))?;
            Ok(Landing {
                promotion: Some(promotion(connection, promotion_id, None).await?),
                offer: Some(offer(newbie)),
                ..landing
            })
        }
        Screen::RegularOffer => Ok(Landing {
            offer: facts.regular.map(offer),
            ..landing
        }),
        Screen::NoOffer => Ok(landing),
    }
}

/// Locks everything that the decision depends on, and reads the facts. The locks, in order: the client's
/// pre-offers, so that landings and starts of one client run one after another; the flags of promotions and
/// countries, as a start locks them; the live participation, which an accept or the sweeper could end.
async fn locked_facts(
    connection: &mut PgConnection,
    user_id: UserId,
    erased_name: Option<&str>,
) -> Result<ClientFacts> {
    lock_pre_offers(connection, user_id).await?;
    sqlx::query!(
        r#"select exists (select from promotion where false for key share)
               or exists (select from geo_config where false for key share) as "guards!""#
    )
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query!(
        "select from promotion_user where user_id = $1 and status = any($2) for share",
        user_id,
        &[StatusName::InProgress, StatusName::Completed] as &[StatusName]
    )
    .fetch_all(&mut *connection)
    .await?;
    let facts = eligibility_facts(connection, user_id, erased_name).await?;
    // A reward past its deadline may not be the one that is shown.
    if facts.has_overdue_reward() && apply_of_client(connection, user_id).await? {
        return eligibility_facts(connection, user_id, erased_name).await;
    }
    Ok(facts)
}

/// Gives a live participant a new split if the present one has run out and a valid pre-offer for the
/// promotion exists. A split that is still valid stays unchanged, even if its pre-offer changed: the client
/// started what that split shows. The caller holds the participation's lock, so it cannot end meanwhile.
async fn renew_split(
    connection: &mut PgConnection,
    user_id: UserId,
    promotion_id: PromotionId,
    now: Instant,
) -> Result<()> {
    if has_valid_split(connection, user_id, promotion_id, now).await? {
        return Ok(());
    }
    if let Some(pre_offer) = newest_newbie(connection, user_id, promotion_id).await?
        && now < pre_offer.valid_until
    {
        ensure_active_split(connection, user_id, promotion_id, &pre_offer, now).await?;
    }
    Ok(())
}

async fn promotion(
    connection: &mut PgConnection,
    promotion_id: PromotionId,
    started: Option<&StoredParticipation>,
) -> Result<LandingPromotion> {
    let row = sqlx::query!(
        "select promotion_key, title, conditions from promotion where promotion_id = $1",
        promotion_id
    )
    .fetch_one(connection)
    .await?;
    Ok(LandingPromotion {
        promotion_id,
        promotion_key: row.promotion_key,
        title: row.title,
        conditions: started.map_or(row.conditions, |stored| (*stored.conditions).clone()),
    })
}

/// The application of a client whose participation is `REWARDED`. A client is rewarded at most once,
/// so there is at most one. Accepting writes it in the same transaction. If it is missing, for example after
/// a deletion by hand, the landing still returns a screen.
async fn application(
    connection: &mut PgConnection,
    user_id: UserId,
) -> Result<Option<LandingApplication>> {
    let row = sqlx::query!(
        "select a.application_id, s.session_id, s.sequence_id, a.active_pre_offer_id, a.status, a.created_at,
                o.product_id, o.amount_cents, o.currency_code, o.repayment_rate
           from application a
           join session s using (application_id)
           join active_pre_offer o using (active_pre_offer_id)
          where a.user_id = $1",
        user_id
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let currency_code = row
        .currency_code
        .parse()
        .map_err(|error| StoreError::Corrupt(format!("application of {user_id}: {error}")))?;
    Ok(Some(LandingApplication {
        origination: Origination {
            application_id: row.application_id,
            session_id: row.session_id,
            sequence_id: row.sequence_id,
            active_pre_offer_id: row.active_pre_offer_id,
        },
        status: row.status,
        created_at: row.created_at,
        reward: Reward {
            product_id: row.product_id,
            amount_cents: row.amount_cents,
            currency_code,
            repayment_rate: row.repayment_rate,
        },
    }))
}

fn offer(pre_offer: eligibility::PreOffer) -> LandingOffer {
    LandingOffer {
        pre_offer_id: pre_offer.pre_offer_id,
        promotion_id: pre_offer.promotion_id,
        product_id: pre_offer.reward.product_id,
        amount_cents: pre_offer.reward.amount_cents,
        currency_code: pre_offer.reward.currency_code.to_string(),
        repayment_rate: pre_offer.reward.repayment_rate,
        valid_until: pre_offer.valid_until,
    }
}

fn broken(screen: Screen, missing: &str) -> StoreError {
    StoreError::Corrupt(format!("{screen:?} without a {missing}"))
}
