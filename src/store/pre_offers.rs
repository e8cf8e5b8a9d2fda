//! Pre-offers: the import of a batch of lines (contract 7).

mod dry_run;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Value, json};
use sqlx::PgConnection;
use uuid::Uuid;

use super::audit::{self, Author};
use super::{Result, Store, StoreError, must_be_all};
use crate::domain::{Instant, PromotionId};
use crate::wire::pre_offer::{ImportCounts, PreOfferLine};

pub use dry_run::DryRunImport;

const UNIQUE_EXTERNAL_ID: &str = "pre_offer_external_id_key";

/// The most attempts of a batch while other imports insert the same pre-offers.
const MAX_TRIES: u32 = 10;

/// A line with its number.
#[derive(Clone, Debug)]
pub struct NumberedLine {
    /// Counted from 1.
    pub number: u64,
    /// Its content.
    pub line: PreOfferLine,
}

/// The audit entry of an import, which is updated with each batch.
#[derive(Clone, Debug)]
pub struct ImportAudit {
    /// The name of the file, if known.
    pub file: Option<String>,
    /// The operator.
    pub author: Author,
    /// The entry's id, after the first batch was committed.
    pub audit_id: Option<i64>,
    /// The counts of the import before the batch, with the batch's bad lines.
    pub before: ImportCounts,
}

/// The result of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportedBatch {
    /// The counts of the import so far.
    pub counts: ImportCounts,
    /// Its audit entry; `None` for a dry run.
    pub audit_id: Option<i64>,
    /// Lines that were rejected because their product does not exist, with the product's id.
    pub unknown_products: Vec<(u64, i64)>,
    /// Lines that were imported without a promotion because none has their key.
    pub unknown_promotion_keys: Vec<u64>,
}

impl Store {
    /// Imports a batch of lines in one transaction, as if they were applied one after another. If it is run again,
    /// it finds the lines unchanged. The caller bounds the batch.
    pub async fn import_pre_offers(
        &self,
        lines: Vec<NumberedLine>,
        journal: ImportAudit,
    ) -> Result<ImportedBatch> {
        let batch: Arc<(Vec<NumberedLine>, ImportAudit)> = Arc::new((lines, journal));
        let mut tries = 1;
        loop {
            let batch = Arc::clone(&batch);
            let result = self
                .run_tx("import_pre_offers", move |connection| {
                    let batch = Arc::clone(&batch);
                    Box::pin(async move { import(connection, &batch.0, &batch.1).await })
                })
                .await;
            match result {
                // Another import has committed one of the new pre-offers meanwhile; it is known now.
                Err(error) if tries < MAX_TRIES && error.is_duplicate_of(UNIQUE_EXTERNAL_ID) => {
                    tries += 1;
                }
                result => return result,
            }
        }
    }
}

/// A pre-offer as it is stored, or is about to be.
#[derive(Clone, Debug, PartialEq, Eq)]
struct StoredPreOffer {
    line: PreOfferLine,
    promotion_id: Option<PromotionId>,
}

/// The effect of a batch on one pre-offer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PreOfferChange<'a> {
    line: &'a PreOfferLine,
    promotion_id: Option<PromotionId>,
    /// The index of the last of the batch's changing lines that changed it. It decides the place in the order of
    /// import.
    order: usize,
}

/// The effect of a batch. It is computed by pure code, so that it can be tested by itself.
#[derive(Debug, Default, PartialEq, Eq)]
struct BatchEffect<'a> {
    /// By external id, the order in which they are written.
    changes: BTreeMap<&'a str, PreOfferChange<'a>>,
    /// How many lines changed something.
    changing: usize,
    imported: u64,
    updated: u64,
    unchanged: u64,
    without_promotion: u64,
    unknown_products: Vec<(u64, i64)>,
    unknown_promotion_keys: Vec<u64>,
}

fn fold<'a>(
    lines: &'a [NumberedLine],
    stored: &HashMap<String, (Uuid, StoredPreOffer)>,
    products: &HashSet<i64>,
    promotions: &HashMap<String, PromotionId>,
) -> BatchEffect<'a> {
    let mut folded = BatchEffect::default();
    for NumberedLine { number, line } in lines {
        if !products.contains(&line.product_id) {
            folded.unknown_products.push((*number, line.product_id));
            continue;
        }
        let promotion_id = line
            .promotion_key
            .as_ref()
            .and_then(|key| promotions.get(key).copied());
        if promotion_id.is_none() {
            folded.without_promotion += 1;
            if line.promotion_key.is_some() {
                folded.unknown_promotion_keys.push(*number);
            }
        }
        // The present value: of an earlier line of this batch, else the stored one.
        let now = match folded.changes.get(line.external_id.as_str()) {
            Some(change) => Some((change.line, change.promotion_id)),
            None => stored
                .get(&line.external_id)
                .map(|(_, stored)| (&stored.line, stored.promotion_id)),
        };
        match now {
            Some(now) if now == (line, promotion_id) => {
                folded.unchanged += 1;
                continue;
            }
            Some(_) => folded.updated += 1,
            None => folded.imported += 1,
        }
        let change = PreOfferChange {
            line,
            promotion_id,
            order: folded.changing,
        };
        folded.changing += 1;
        folded.changes.insert(&line.external_id, change);
    }
    folded
}

/// The counts of the import including this batch.
fn counts(journal: &ImportAudit, folded: &BatchEffect<'_>) -> ImportCounts {
    let before = journal.before;
    ImportCounts {
        read: before.read,
        imported: before.imported + folded.imported,
        updated: before.updated + folded.updated,
        unchanged: before.unchanged + folded.unchanged,
        without_promotion: before.without_promotion + folded.without_promotion,
        rejected: before.rejected + folded.unknown_products.len() as u64,
    }
}

async fn import(
    connection: &mut PgConnection,
    lines: &[NumberedLine],
    journal: &ImportAudit,
) -> Result<ImportedBatch> {
    let products = lock_products(connection, lines).await?;
    let promotions = promotions(connection, lines).await?;
    // First compared, then locked: a line that changes nothing does not touch the row. If another transaction
    // changes the row after the comparison, that change counts as the later one.
    let mut stored = stored(connection, lines).await?;
    let changing: HashSet<Uuid> = fold(lines, &stored, &products, &promotions)
        .changes
        .keys()
        .filter_map(|external_id| stored.get(*external_id))
        .map(|(pre_offer_id, _)| *pre_offer_id)
        .collect();
    if !changing.is_empty() {
        // Changes by another import meanwhile are taken into account; a removed pre-offer is new again.
        let locked = lock_stored(connection, &changing.iter().copied().collect::<Vec<_>>()).await?;
        stored.retain(|_, (pre_offer_id, _)| !changing.contains(pre_offer_id));
        stored.extend(locked);
    }
    let folded = fold(lines, &stored, &products, &promotions);
    // After the locks, so that of two imports of the same pre-offer the later one is first in the order; and in the
    // order of the lines, so that of two pre-offers in one file the later one is.
    let import_seqs = next_import_seqs(connection, folded.changing).await?;
    let mut new = PreOfferColumns::default();
    let mut known = PreOfferColumns::default();
    for change in folded.changes.values() {
        let import_seq = import_seqs.get(change.order).copied().ok_or_else(|| {
            StoreError::Corrupt("the sequence of imports returned too few numbers".to_owned())
        })?;
        match stored.get(&change.line.external_id) {
            None => new.push(Uuid::now_v7(), change, import_seq),
            Some((pre_offer_id, _)) => known.push(*pre_offer_id, change, import_seq),
        }
    }
    new.insert(connection).await?;
    known.update(connection).await?;
    let counts = counts(journal, &folded);
    Ok(ImportedBatch {
        counts,
        audit_id: Some(write_journal(connection, journal, counts).await?),
        unknown_products: folded.unknown_products,
        unknown_promotion_keys: folded.unknown_promotion_keys,
    })
}

/// Which of the products exist. Their locks keep them until the end of the transaction.
async fn lock_products(
    connection: &mut PgConnection,
    lines: &[NumberedLine],
) -> Result<HashSet<i64>> {
    let named: HashSet<i64> = lines.iter().map(|line| line.line.product_id).collect();
    Ok(sqlx::query_scalar!(
        "select product_id from product where product_id = any($1) order by product_id for key share",
        &named.into_iter().collect::<Vec<_>>()
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .collect())
}

/// Which of the promotions exist. They are not locked: no call deletes a promotion, and none changes its key.
async fn promotions(
    connection: &mut PgConnection,
    lines: &[NumberedLine],
) -> Result<HashMap<String, PromotionId>> {
    let named: HashSet<&str> = lines
        .iter()
        .filter_map(|line| line.line.promotion_key.as_deref())
        .collect();
    Ok(sqlx::query!(
        "select promotion_key, promotion_id from promotion where promotion_key = any($1)",
        &named.into_iter().collect::<Vec<_>>() as &[&str]
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(|row| (row.promotion_key, row.promotion_id))
    .collect())
}

/// The stored pre-offers that the lines name.
async fn stored(
    connection: &mut PgConnection,
    lines: &[NumberedLine],
) -> Result<HashMap<String, (Uuid, StoredPreOffer)>> {
    let named: HashSet<&str> = lines
        .iter()
        .map(|line| line.line.external_id.as_str())
        .collect();
    sqlx::query_as!(
        StoredRow,
        "select pre_offer_id, external_id, user_id, segment, product_id, amount_cents, currency_code, repayment_rate,
                country_code, valid_until, promotion_key, promotion_id
           from pre_offer where external_id = any($1)",
        &named.into_iter().collect::<Vec<_>>() as &[&str]
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(StoredRow::read)
    .collect()
}

/// The present rows of these pre-offers, locked in the order in which a start locks its client's.
async fn lock_stored(
    connection: &mut PgConnection,
    pre_offer_ids: &[Uuid],
) -> Result<HashMap<String, (Uuid, StoredPreOffer)>> {
    sqlx::query_as!(
        StoredRow,
        "select pre_offer_id, external_id, user_id, segment, product_id, amount_cents, currency_code, repayment_rate,
                country_code, valid_until, promotion_key, promotion_id
           from pre_offer where pre_offer_id = any($1)
          order by pre_offer_id
            for update",
        pre_offer_ids
    )
    .fetch_all(connection)
    .await?
    .into_iter()
    .map(StoredRow::read)
    .collect()
}

struct StoredRow {
    pre_offer_id: Uuid,
    external_id: String,
    user_id: i64,
    segment: String,
    product_id: i64,
    amount_cents: i64,
    currency_code: String,
    repayment_rate: String,
    country_code: String,
    valid_until: Instant,
    promotion_key: Option<String>,
    promotion_id: Option<PromotionId>,
}

impl StoredRow {
    fn read(self) -> Result<(String, (Uuid, StoredPreOffer))> {
        let corrupt =
            |error| StoreError::Corrupt(format!("pre-offer {}: {error}", self.pre_offer_id));
        let stored = StoredPreOffer {
            line: PreOfferLine {
                external_id: self.external_id,
                user_id: self.user_id,
                segment: self.segment,
                product_id: self.product_id,
                amount_cents: self.amount_cents,
                currency_code: self.currency_code.parse().map_err(corrupt)?,
                repayment_rate: self.repayment_rate,
                country_code: self.country_code.parse().map_err(corrupt)?,
                valid_until: self.valid_until,
                promotion_key: self.promotion_key,
            },
            promotion_id: self.promotion_id,
        };
        Ok((stored.line.external_id.clone(), (self.pre_offer_id, stored)))
    }
}

async fn next_import_seqs(connection: &mut PgConnection, count: usize) -> Result<Vec<i64>> {
    let mut import_seqs = sqlx::query_scalar!(
        r#"select nextval('pre_offer_import_seq') as "import_seq!" from generate_series(1, $1)"#,
        i32::try_from(count).unwrap_or(i32::MAX)
    )
    .fetch_all(connection)
    .await?;
    import_seqs.sort_unstable();
    Ok(import_seqs)
}

/// Rows to write, one `Vec` per column as `unnest` takes them.
#[derive(Default)]
struct PreOfferColumns {
    pre_offer_ids: Vec<Uuid>,
    external_ids: Vec<String>,
    user_ids: Vec<i64>,
    segments: Vec<String>,
    product_ids: Vec<i64>,
    amounts_cents: Vec<i64>,
    currency_codes: Vec<String>,
    repayment_rates: Vec<String>,
    country_codes: Vec<String>,
    valid_untils: Vec<Instant>,
    promotion_keys: Vec<Option<String>>,
    promotion_ids: Vec<Option<PromotionId>>,
    import_seqs: Vec<i64>,
}

impl PreOfferColumns {
    fn push(&mut self, pre_offer_id: Uuid, change: &PreOfferChange<'_>, import_seq: i64) {
        let line = change.line;
        self.pre_offer_ids.push(pre_offer_id);
        self.external_ids.push(line.external_id.clone());
        self.user_ids.push(line.user_id);
        self.segments.push(line.segment.clone());
        self.product_ids.push(line.product_id);
        self.amounts_cents.push(line.amount_cents);
        self.currency_codes
            .push(line.currency_code.as_str().to_owned());
        self.repayment_rates.push(line.repayment_rate.clone());
        self.country_codes
            .push(line.country_code.as_str().to_owned());
        self.valid_untils.push(line.valid_until);
        self.promotion_keys.push(line.promotion_key.clone());
        self.promotion_ids.push(change.promotion_id);
        self.import_seqs.push(import_seq);
    }

    /// Inserts in the order of the external ids, in which the rows were pushed: two imports of the same pre-offers
    /// wait for each other in one direction only.
    async fn insert(&self, connection: &mut PgConnection) -> Result<()> {
        if self.pre_offer_ids.is_empty() {
            return Ok(());
        }
        sqlx::query!(
            "insert into pre_offer (pre_offer_id, external_id, user_id, segment, product_id, amount_cents, currency_code,
                                    repayment_rate, country_code, valid_until, promotion_key, promotion_id, import_seq)
             select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::text[], $5::bigint[], $6::bigint[], $7::text[],
                                  $8::text[], $9::text[], $10::timestamptz[], $11::text[], $12::bigint[], $13::bigint[])",
            &self.pre_offer_ids,
            &self.external_ids,
            &self.user_ids,
            &self.segments,
            &self.product_ids,
            &self.amounts_cents,
            &self.currency_codes,
            &self.repayment_rates,
            &self.country_codes,
            &self.valid_untils,
            &self.promotion_keys as &[Option<String>],
            &self.promotion_ids as &[Option<PromotionId>],
            &self.import_seqs
        )
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Updates rows that are locked already.
    async fn update(&self, connection: &mut PgConnection) -> Result<()> {
        if self.pre_offer_ids.is_empty() {
            return Ok(());
        }
        let updated = sqlx::query!(
            "update pre_offer p
                set user_id = v.user_id, segment = v.segment, product_id = v.product_id, amount_cents = v.amount_cents,
                    currency_code = v.currency_code, repayment_rate = v.repayment_rate, country_code = v.country_code,
                    valid_until = v.valid_until, promotion_key = v.promotion_key, promotion_id = v.promotion_id,
                    import_seq = v.import_seq, updated_at = clock_ms()
               from unnest($1::uuid[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[], $6::text[], $7::text[],
                           $8::text[], $9::timestamptz[], $10::text[], $11::bigint[], $12::bigint[])
                    v (pre_offer_id, user_id, segment, product_id, amount_cents, currency_code, repayment_rate,
                       country_code, valid_until, promotion_key, promotion_id, import_seq)
              where p.pre_offer_id = v.pre_offer_id",
            &self.pre_offer_ids,
            &self.user_ids,
            &self.segments,
            &self.product_ids,
            &self.amounts_cents,
            &self.currency_codes,
            &self.repayment_rates,
            &self.country_codes,
            &self.valid_untils,
            &self.promotion_keys as &[Option<String>],
            &self.promotion_ids as &[Option<PromotionId>],
            &self.import_seqs
        )
        .execute(connection)
        .await?
        .rows_affected();
        must_be_all(
            updated,
            self.pre_offer_ids.len(),
            "locked pre-offers could be updated",
        )
    }
}

/// Writes the one audit entry of an import: after every batch it says what was committed by then.
async fn write_journal(
    connection: &mut PgConnection,
    journal: &ImportAudit,
    counts: ImportCounts,
) -> Result<i64> {
    let mut after: Value = json!(counts);
    if let Some(file) = &journal.file {
        after["file"] = json!(file);
    }
    match journal.audit_id {
        None => audit::begin(connection, &journal.author, None, Some(after)).await,
        Some(audit_id) => {
            audit::progress(connection, audit_id, after).await?;
            Ok(audit_id)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(external_id: &str, amount_cents: i64, promotion_key: Option<&str>) -> PreOfferLine {
        PreOfferLine {
            external_id: external_id.to_owned(),
            user_id: 1,
            segment: "newbie".to_owned(),
            product_id: 80,
            amount_cents,
            currency_code: "MXN".parse().expect("a currency"),
            repayment_rate: "15".to_owned(),
            country_code: "MX".parse().expect("a country"),
            valid_until: Instant::UNIX_EPOCH,
            promotion_key: promotion_key.map(str::to_owned),
        }
    }

    fn numbered(lines: Vec<PreOfferLine>) -> Vec<NumberedLine> {
        (1..)
            .zip(lines)
            .map(|(number, line)| NumberedLine { number, line })
            .collect()
    }

    #[test]
    fn a_batch_counts_as_if_its_lines_came_one_after_another() {
        let stored = HashMap::from([(
            "known".to_owned(),
            (
                Uuid::nil(),
                StoredPreOffer {
                    line: line("known", 1, Some("later")),
                    promotion_id: None,
                },
            ),
        )]);
        let products = HashSet::from([80]);
        let promotions = HashMap::from([("later".to_owned(), 7)]);
        let mut strange = line("strange", 1, None);
        strange.product_id = 81;
        let lines = numbered(vec![
            line("known", 1, Some("later")), // the promotion was created since: updated
            line("known", 1, Some("later")), // unchanged
            line("new", 1, None),            // imported, without
            line("new", 2, Some("no such")), // updated, without, listed
            line("new", 2, Some("no such")), // unchanged, without, listed
            strange,                         // rejected
            line("back", 1, Some("later")),  // imported
            line("back", 2, Some("later")),  // updated
            line("back", 1, Some("later")),  // updated again
            line("known", 1, None),          // updated, without
            line("known", 1, Some("later")), // updated
        ]);
        let folded = fold(&lines, &stored, &products, &promotions);
        assert_eq!(
            (folded.imported, folded.updated, folded.unchanged),
            (2, 6, 2)
        );
        assert_eq!(folded.without_promotion, 4);
        assert_eq!(folded.unknown_products, [(6, 81)]);
        assert_eq!(folded.unknown_promotion_keys, [4, 5]);
        let last: Vec<_> = folded
            .changes
            .values()
            .map(|change| {
                (
                    change.line.external_id.as_str(),
                    change.line.amount_cents,
                    change.promotion_id,
                    change.order,
                )
            })
            .collect();
        assert_eq!(
            last,
            [
                ("back", 1, Some(7), 5),
                ("known", 1, Some(7), 7),
                ("new", 2, None, 2)
            ]
        );
        assert_eq!(folded.changing, 8);
    }
}
