//! Starts that share a transaction. A statement for many rows costs Postgres a fraction of as many
//! statements: it reads the checks of a table, and prepares its triggers, once.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};

use sqlx::PgConnection;

use super::StartOutcome;
use super::facts::{Candidate, Decision, Eligible, find, plan_by_keys};
use super::write::{New, write};
use crate::domain::{PromotionId, UserId};
use crate::store::budget::{ReleasedUse, Reservation};
use crate::store::splits::{self, NewSplit};
use crate::store::{Result, StoreError};

/// Starts for these clients, each of whom is in `candidates` once. It waits for none of them: those that
/// are missing from the result have not started, and need a transaction of their own. They are locked by
/// another transaction, have taken part before, or need more to be written than a participation with its
/// event, split, reminder and reservation.
pub(super) async fn start_together(
    connection: &mut PgConnection,
    candidates: &[Candidate],
) -> Result<HashMap<UserId, StartOutcome>> {
    plan_by_keys(connection).await?;
    let users: Vec<UserId> = candidates.iter().map(|one| one.key.0).collect();
    let locked = splits::try_lock_pre_offers(connection, &users).await?;
    let candidates: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| locked.contains(&candidate.key.0))
        .collect();
    let mut results = HashMap::with_capacity(candidates.len());
    let mut plain = Vec::with_capacity(candidates.len());
    for found in find(connection, &candidates).await? {
        if found.has_participated || found.overdue {
            continue;
        }
        let (user_id, _) = found.key;
        match found.decide()? {
            Decision::NoSuchPromotion => {
                results.insert(user_id, StartOutcome::NoSuchPromotion);
            }
            Decision::NotEligible(failed) => {
                results.insert(user_id, StartOutcome::NotEligible(failed));
            }
            Decision::Eligible(eligible) => plain.extend(Plain::of(eligible)),
        }
    }
    // In one order, whatever the statement's plan is.
    plain.sort_by_key(|one| one.eligible.key);
    // Before their splits: one that is refused for the budget leaves none behind.
    reserve(&mut plain);
    make_splits(connection, &mut plain).await?;
    // Again, without those that a landing was faster for.
    let reservations = reserve(&mut plain);
    if plain.is_empty() {
        return Ok(results);
    }

    let traceparents: HashMap<UserId, Option<&str>> = candidates
        .iter()
        .map(|candidate| (candidate.key.0, candidate.traceparent.as_deref()))
        .collect();
    let mut new = Vec::with_capacity(plain.len());
    for one in &plain {
        let traceparent = traceparents.get(&one.eligible.key.0).copied().flatten();
        let product_terms_id = Some(one.product_terms_id);
        new.push(New::of(
            &one.eligible,
            one.terms_id,
            product_terms_id,
            traceparent,
        )?);
    }
    for participation in write(connection, &new).await? {
        let user_id = participation.state.user_id;
        let started = StartOutcome::Started {
            participation,
            expired_rewards: 0,
        };
        results.insert(user_id, started);
    }
    for reservation in reservations.into_values() {
        if !reservation.make(connection, ReleasedUse::default()).await? {
            return Err(StoreError::BudgetExhausted);
        }
    }
    Ok(results)
}

/// A start whose conditions and product are frozen already, and that finds no split or the right one.
struct Plain {
    eligible: Box<Eligible>,
    terms_id: i64,
    product_terms_id: i64,
}

impl Plain {
    fn of(eligible: Box<Eligible>) -> Option<Self> {
        if eligible.split_is_current == Some(false) {
            return None;
        }
        Some(Self {
            terms_id: eligible.promotion.terms_id?,
            product_terms_id: eligible.product_terms_id?,
            eligible,
        })
    }
}

/// Makes the splits that are missing. Drops the starts for which a landing has made one meanwhile.
async fn make_splits(connection: &mut PgConnection, plain: &mut Vec<Plain>) -> Result<()> {
    let missing: Vec<NewSplit<'_>> = plain
        .iter()
        .filter(|one| one.eligible.split_is_current.is_none())
        .map(|one| NewSplit {
            key: one.eligible.key,
            pre_offer: &one.eligible.pre_offer,
            now: one.eligible.now,
        })
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let made = splits::make(connection, &missing).await?;
    plain.retain(|one| one.eligible.split_is_current.is_some() || made.contains(&one.eligible.key));
    Ok(())
}

/// What the starts reserve of their promotions' budgets, in the order in which it must be written. Drops
/// those that do not fit beside the others.
fn reserve(plain: &mut Vec<Plain>) -> BTreeMap<PromotionId, Reservation> {
    let mut reservations = BTreeMap::new();
    plain.retain(|one| {
        let (promotion, reward) = (&one.eligible.promotion, &one.eligible.reward);
        if !promotion.has_budget_use {
            return true;
        }
        let (_, promotion_id) = one.eligible.key;
        match reservations.entry(promotion_id) {
            Entry::Vacant(place) => {
                place.insert(Reservation::of(promotion_id, promotion.budget, reward));
                true
            }
            Entry::Occupied(mut place) => {
                let more = place.get().with(reward);
                let more = more.filter(|more| more.fits(&promotion.used));
                more.map(|more| place.insert(more)).is_some()
            }
        }
    });
    reservations
}
