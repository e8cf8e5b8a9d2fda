//! `erase` removes everything of a client; `erase --replay` does so again after a restore.

use std::collections::BTreeSet;

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::ledger;
use crate::config::Config;
use crate::domain::UserId;
use crate::kafka::Cluster;
use crate::store::Store;
use crate::store::audit::Author;
use crate::store::erasure::{EraseOutcome, ErasureKey, Order, RemovedRows};
use crate::wire::erasure::{ErasedLoan, Erasure};

/// How often erasing a client is tried again while they are being rewarded.
const MAX_TRIES: u32 = 5;

/// The reason in the audit for clients that `--replay` erases.
const REPLAYED: &str = "erased before, and back with a restored backup";

const LOAN_UNDECIDED: &str = "the client was rewarded: say --keep-loan (the participation and the origination stay, as long \
                              as the loan's records must be kept) or --forget-loan";

/// Erases a client. The ledger's entry is published first, so that the client stays erased after
/// any restore.
pub async fn erase(
    config: &Config,
    store: &Store,
    key: &ErasureKey,
    user_id: UserId,
    loan: Option<ErasedLoan>,
    author: &Author,
    reason: &str,
) -> anyhow::Result<RemovedRows> {
    store.require_finished_upgrade().await?;
    let cluster = Cluster::new(&config.kafka)?;
    let client = key.client(user_id)?;
    for _ in 0..MAX_TRIES {
        let earlier = store.erasure_of(&client).await?;
        let rewarded = store.was_rewarded(user_id).await?;
        if rewarded && loan.is_none() {
            bail!(LOAN_UNDECIDED);
        }
        let entry = Erasure {
            client: client.clone(),
            erasure_id: Uuid::now_v7(),
            key_id: key.id().to_owned(),
            erased_at: store.now().await?,
            rewarded: rewarded || earlier.as_ref().is_some_and(|earlier| earlier.rewarded),
            loan: loan
                .filter(|_| rewarded)
                .or_else(|| earlier.and_then(|earlier| earlier.loan)),
        };
        ledger::publish(&config.kafka, &cluster, &config.erase.topic, &entry).await?;
        let order = Order {
            user_id,
            loan,
            entry,
            naming: store.quarantined_naming(user_id).await?,
            author: author.clone(),
            reason: reason.to_owned(),
        };
        match store.erase(order).await? {
            EraseOutcome::Done(removed) => return Ok(removed),
            EraseOutcome::LoanUndecided => bail!(LOAN_UNDECIDED),
            EraseOutcome::RewardedMeanwhile => {}
        }
    }
    bail!("the client was being rewarded during every attempt; try again");
}

/// The result of `--replay`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErasureReplay {
    /// Entries of the ledger.
    pub entries: usize,
    /// Entries that this database did not have.
    pub missing: usize,
    /// Clients among them who existed here and are erased now.
    pub erased: usize,
}

/// After a restore, erases again the clients that are in the ledger's topic and not in the restored
/// database's ledger. Running it again changes nothing.
pub async fn replay(
    config: &Config,
    store: &Store,
    key: &ErasureKey,
    author: &Author,
    stop: &CancellationToken,
) -> anyhow::Result<ErasureReplay> {
    store.require_finished_upgrade().await?;
    let cluster = Cluster::new(&config.kafka)?;
    let topic = &config.erase.topic;
    let entries = ledger::read(&config.kafka, &cluster, topic, stop).await?;
    if let Some(other) = entries.iter().find(|entry| entry.key_id != key.id()) {
        bail!(
            "the ledger {topic} has entries of another erase.secret (key {}, this one is {}): those clients cannot be found",
            other.key_id,
            key.id()
        );
    }
    let ids: Vec<Uuid> = entries.iter().map(|entry| entry.erasure_id).collect();
    let known = store.known_erasures(&ids).await?;
    let mut replayed = ErasureReplay {
        entries: entries.len(),
        ..ErasureReplay::default()
    };
    let missing: Vec<Erasure> = entries
        .into_iter()
        .filter(|entry| !known.contains(&entry.erasure_id))
        .collect();
    replayed.missing = missing.len();
    let wanted: BTreeSet<String> = missing.iter().map(|entry| entry.client.clone()).collect();
    let found = if wanted.is_empty() {
        Default::default()
    } else {
        store.find_clients(key, &wanted).await?
    };
    let mut elsewhere = Vec::new();
    for entry in missing {
        let Some(user_id) = found.get(&entry.client).copied() else {
            elsewhere.push(entry);
            continue;
        };
        let order = Order {
            user_id,
            loan: entry.loan,
            naming: store.quarantined_naming(user_id).await?,
            author: author.clone(),
            reason: REPLAYED.to_owned(),
            entry,
        };
        match store.erase(order).await.context("erasing again")? {
            EraseOutcome::Done(_) => replayed.erased += 1,
            EraseOutcome::LoanUndecided | EraseOutcome::RewardedMeanwhile => bail!(
                "client {user_id} is rewarded here and was not when they were erased: `ride-promo erase --user {user_id}` with --keep-loan or --forget-loan"
            ),
        }
    }
    // A client who is not in this database may still have been rewarded.
    store.enter_erasures(elsewhere).await?;
    Ok(replayed)
}
