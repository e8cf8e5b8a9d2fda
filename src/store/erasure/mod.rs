//! Erases a client: all rows of the client in one transaction, a tombstone for each of their keys in the
//! status topic, and an entry in the ledger that survives a restore (contract 9).

mod key;
mod remove;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use self::remove::{remove_origination, remove_participations, remove_the_rest, scrub_audit};
use super::audit::{self, Author};
use super::budget;
use super::outbox::enqueue_tombstones;
use super::{Result, Store, splits};
use crate::domain::participation::StatusName;
use crate::domain::{Instant, UserId};
use crate::wire::erasure::{ErasedLoan, Erasure};

pub use self::key::ErasureKey;

/// How many quarantined records are searched at once; each may be large.
const QUARANTINE_PAGE: i64 = 50;

/// How many clients of one table are compared with the ledger at once.
const CLIENT_PAGE: i64 = 5_000;

/// An order to erase.
#[derive(Clone, Debug)]
pub struct Order {
    /// The client.
    pub user_id: UserId,
    /// What to do with the loan of a client who was rewarded.
    pub loan: Option<ErasedLoan>,
    /// The ledger's entry, which is published already.
    pub entry: Erasure,
    /// Quarantined records without a known client whose bytes name this client.
    pub naming: Vec<Uuid>,
    /// The operator, for the audit.
    pub author: Author,
    /// The reason, for the audit.
    pub reason: String,
}

/// The result of an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EraseOutcome {
    /// The client was erased.
    Done(RemovedRows),
    /// The client was rewarded, and the order does not say what to do with the loan.
    LoanUndecided,
    /// The client was rewarded after the ledger's entry was published. The order must be repeated.
    RewardedMeanwhile,
}

/// The number of rows that were removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct RemovedRows {
    /// Participations.
    pub participations: u64,
    /// Receipts of rides.
    pub receipts: u64,
    /// Pre-offers.
    pub pre_offers: u64,
    /// Splits.
    pub splits: u64,
    /// Applications, with their session and active pre-offer.
    pub applications: u64,
    /// Quarantined records.
    pub quarantined: u64,
    /// Audit entries whose content named the client.
    pub audit_entries: u64,
    /// Keys that got a tombstone in the status topic.
    pub tombstones: u64,
    /// Whether the participation and the origination of the loan were kept.
    pub loan_kept: bool,
}

impl Store {
    /// This store with the key of `erase.secret`, so that it recognises erased clients.
    pub fn with_erasure_key(mut self, key: Option<ErasureKey>) -> Self {
        self.erasure_key = key.map(std::sync::Arc::new);
        self
    }

    /// The client's name in the ledger, if there is a key.
    pub(super) fn erased_name(&self, user_id: UserId) -> Result<Option<String>> {
        self.erasure_key
            .as_ref()
            .map(|key| key.client(user_id))
            .transpose()
    }

    /// The number of rewarded clients in the ledger whom this store's key cannot recognise. They would
    /// count as new clients.
    pub async fn unrecognised_erasures(&self) -> Result<i64> {
        let key_id = self.erasure_key.as_ref().map(|key| key.id().to_owned());
        Ok(sqlx::query_scalar!(
            r#"select count(*) as "count!" from erasure where rewarded and key_id is distinct from $1"#,
            key_id
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?)
    }

    /// Whether the client was ever rewarded, according to this database.
    pub async fn was_rewarded(&self, user_id: UserId) -> Result<bool> {
        let mut connection = self.acquire().await?;
        was_rewarded(&mut connection, user_id).await
    }

    /// The ledger's entry of a client.
    pub async fn erasure_of(&self, client: &str) -> Result<Option<Erasure>> {
        Ok(sqlx::query_as!(
            Erasure,
            r#"select client, erasure_id, key_id, erased_at, rewarded, loan as "loan: ErasedLoan"
                 from erasure where client = $1"#,
            client
        )
        .fetch_optional(&mut *self.acquire().await?)
        .await?)
    }

    /// Quarantined records without a known client whose bytes name this client.
    pub async fn quarantined_naming(&self, user_id: UserId) -> Result<Vec<Uuid>> {
        let mut found = Vec::new();
        let mut after = Uuid::nil();
        loop {
            let page = sqlx::query!(
                "select quarantine_id, value from quarantined_ride
                  where quarantine_id > $2 and user_id is null and position(convert_to($1::bigint::text, 'UTF8') in value) > 0
                  order by quarantine_id
                  limit $3",
                user_id,
                after,
                QUARANTINE_PAGE
            )
            .fetch_all(&mut *self.acquire().await?)
            .await?;
            let Some(last) = page.last() else {
                return Ok(found);
            };
            after = last.quarantine_id;
            let naming = page.iter().filter(|row| names(&row.value, user_id));
            found.extend(naming.map(|row| row.quarantine_id));
        }
    }

    /// Erases the client, if the order is complete. Erasing again removes what was added since.
    pub async fn erase(&self, order: Order) -> Result<EraseOutcome> {
        self.require_finished_upgrade().await?;
        self.run_tx("erase", move |connection| {
            let order = order.clone();
            Box::pin(async move { erase(connection, &order).await })
        })
        .await
    }

    /// Records erasures that are known from the ledger topic, in one transaction.
    pub async fn enter_erasures(&self, entries: Vec<Erasure>) -> Result<()> {
        self.require_finished_upgrade().await?;
        self.run_tx("enter_erasures", move |connection| {
            let entries = entries.clone();
            Box::pin(async move {
                for entry in &entries {
                    enter(connection, entry).await?;
                }
                Ok(())
            })
        })
        .await
    }

    /// Which of these erasures the table contains.
    pub async fn known_erasures(&self, ids: &[Uuid]) -> Result<BTreeSet<Uuid>> {
        let known = sqlx::query_scalar!(
            "select erasure_id from erasure where erasure_id = any($1)",
            ids
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        Ok(known.into_iter().collect())
    }

    /// The clients with data in this database whose names in the ledger are among `wanted`. Reads every
    /// client's id once, in pages.
    pub async fn find_clients(
        &self,
        key: &ErasureKey,
        wanted: &BTreeSet<String>,
    ) -> Result<BTreeMap<String, UserId>> {
        let mut found = BTreeMap::new();
        for table in Holder::ALL {
            let mut after = 0;
            loop {
                let page = self.clients_of(table, after).await?;
                let Some(last) = page.last() else {
                    break;
                };
                after = *last;
                for user_id in page {
                    let client = key.client(user_id)?;
                    if wanted.contains(&client) {
                        found.insert(client, user_id);
                    }
                }
            }
        }
        Ok(found)
    }

    async fn clients_of(&self, table: Holder, after: UserId) -> Result<Vec<UserId>> {
        macro_rules! clients {
            ($statement:literal) => {
                sqlx::query_scalar!($statement, after, CLIENT_PAGE)
                    .fetch_all(&mut *self.acquire().await?)
                    .await?
            };
        }
        Ok(match table {
            Holder::Participations => clients!(
                "select distinct user_id from promotion_user where user_id > $1 order by user_id limit $2"
            ),
            Holder::PreOffers => clients!(
                "select distinct user_id from pre_offer where user_id > $1 order by user_id limit $2"
            ),
            Holder::Splits => clients!(
                "select distinct user_id from cash_loan_account where user_id > $1 order by user_id limit $2"
            ),
            Holder::Quarantine => clients!(
                r#"select distinct user_id as "user_id!" from quarantined_ride where user_id > $1 order by 1 limit $2"#
            ),
        })
    }
}

/// The tables with data of clients.
#[derive(Clone, Copy, Debug)]
enum Holder {
    Participations,
    PreOffers,
    Splits,
    Quarantine,
}

impl Holder {
    const ALL: [Self; 4] = [
        Self::Participations,
        Self::PreOffers,
        Self::Splits,
        Self::Quarantine,
    ];
}

async fn was_rewarded(connection: &mut PgConnection, user_id: UserId) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from promotion_user where user_id = $1 and status = $2)
               or exists (select from active_pre_offer where user_id = $1)
               or exists (select from held_reward where user_id = $1 and loss_accepted_at is null) as "rewarded!""#,
        user_id,
        StatusName::Rewarded as StatusName
    )
    .fetch_one(connection)
    .await?)
}

async fn erase(connection: &mut PgConnection, order: &Order) -> Result<EraseOutcome> {
    let user_id = order.user_id;
    // In the order of a start: the client's pre-offers, then the participations.
    splits::lock_pre_offers(connection, user_id).await?;
    sqlx::query!(
        "select from promotion_user where user_id = $1 order by promotion_id for update",
        user_id
    )
    .fetch_all(&mut *connection)
    .await?;
    let rewarded = was_rewarded(connection, user_id).await?;
    if rewarded && order.loan.is_none() {
        return Ok(EraseOutcome::LoanUndecided);
    }
    if rewarded && !order.entry.rewarded {
        return Ok(EraseOutcome::RewardedMeanwhile);
    }
    let keep = rewarded && order.loan == Some(ErasedLoan::Kept);
    let mut removed = RemovedRows {
        loan_kept: keep,
        ..RemovedRows::default()
    };
    if !keep {
        remove_origination(connection, user_id, &mut removed).await?;
    }
    let (keys, counted) = remove_participations(connection, user_id, keep, &mut removed).await?;
    remove_the_rest(connection, order, &mut removed).await?;
    // After the events of these keys that wait in the outbox: the relay publishes in the order of ids.
    removed.tombstones = enqueue_tombstones(connection, user_id, &keys).await?;
    scrub_audit(connection, user_id, &mut removed).await?;
    enter(connection, &order.entry).await?;
    let after = json!({ "client": order.entry.client, "erasure_id": order.entry.erasure_id, "reason": order.reason,
        "rewarded": order.entry.rewarded, "loan": order.entry.loan, "removed": removed });
    audit::record(connection, &order.author, None, Some(after)).await?;
    if let Some(counted) = counted {
        budget::erase(connection, counted).await?;
    }
    Ok(EraseOutcome::Done(removed))
}

/// Records an erasure. Once it says that the client was rewarded, later ones keep that.
async fn enter(connection: &mut PgConnection, entry: &Erasure) -> Result<()> {
    let erased_at: Instant = entry.erased_at;
    sqlx::query!(
        "insert into erasure (client, erasure_id, key_id, erased_at, rewarded, loan) values ($1, $2, $3, $4, $5, $6)
         on conflict (client) do update
            set erasure_id = excluded.erasure_id, erased_at = excluded.erased_at,
                rewarded = erasure.rewarded or excluded.rewarded, loan = coalesce(excluded.loan, erasure.loan)",
        entry.client,
        entry.erasure_id,
        entry.key_id,
        erased_at,
        entry.rewarded,
        entry.loan as Option<ErasedLoan>
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Whether these bytes, in which no client could be read, name this client: by the number after a `user_id`,
/// or, if they have no such field, by a number of its own anywhere.
fn names(bytes: &[u8], user_id: UserId) -> bool {
    const FIELD: &[u8] = b"user_id";
    let id = user_id.to_string();
    let id = id.as_bytes();
    let mut has_field = false;
    for (at, _) in bytes
        .windows(FIELD.len())
        .enumerate()
        .filter(|(_, window)| *window == FIELD)
    {
        has_field = true;
        let rest = &bytes[at + FIELD.len()..];
        let skipped = rest
            .iter()
            .take_while(|byte| b"\"':=+, \t\r\n\\".contains(byte))
            .count();
        if is_number(&rest[skipped..], id) {
            return true;
        }
    }
    !has_field
        && (0..bytes.len()).any(|at| {
            let begins = at == 0 || !bytes[at - 1].is_ascii_alphanumeric();
            begins && is_number(&bytes[at..], id)
        })
}

/// Whether the bytes begin with exactly this number.
fn is_number(bytes: &[u8], id: &[u8]) -> bool {
    bytes.strip_prefix(id).is_some_and(|rest| {
        rest.first()
            .is_none_or(|next| !next.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_name_a_client_by_the_field_or_as_a_number() {
        for named in [
            &br#"{"user_id": 48151, "amount_cents": 1"#[..],
            br#"{"user_id":"48151"}"#,
            br#"{'user_id' : 48151}"#,
            br#"{"user_id":48151.0}"#,
            br#"{"user_id":1,"user_id":48151}"#,
            b"48151",
            b"ride,48151,2026",
        ] {
            assert!(names(named, 48_151), "{}", String::from_utf8_lossy(named));
        }
        for other in [
            &br#"{"user_id": 7, "amount_cents": 48151}"#[..],
            br#"{"user_id": 481510}"#,
            br#"{"user_id": 148151}"#,
            b"x48151",
            b"148151,481511",
            b"",
        ] {
            assert!(!names(other, 48_151), "{}", String::from_utf8_lossy(other));
        }
    }

    #[test]
    fn a_client_has_one_name_under_a_secret_and_another_under_the_next() {
        let key = ErasureKey::new("a secret of thirty-two bytes, long").expect("a key");
        let same = ErasureKey::new("a secret of thirty-two bytes, long").expect("a key");
        let other = ErasureKey::new("another secret of thirty-two bytes").expect("a key");
        let name = key.client(48_151).expect("a name");
        assert_eq!(name, same.client(48_151).expect("a name"));
        assert_ne!(name, key.client(48_152).expect("a name"));
        assert_ne!(name, other.client(48_151).expect("a name"));
        assert_ne!(key.id(), other.id());
        assert!(!name.contains("48151"));
        assert_eq!(format!("{key:?}"), format!("ErasureKey({})", key.id()));
    }
}
