//! Extensions of deadlines: ordering and reading them (contract, "Extensions").
//!
//! An extension is in force from its commit on. The sweeper extends every covered participation in bounded
//! batches (`sweeping`). A transaction that judges a deadline before that first applies the running
//! extensions itself (`pending`). `participation_extension` has a row for each extension of each
//! participation, so each is applied once, whichever transaction does it.

mod dry_run;
mod pending;
mod sweeping;

use std::time::Duration;

use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

pub(super) use self::pending::{Moment, apply_of_client, apply_running, is_any_running, moment};
pub use self::sweeping::ExtensionStep;
use super::audit::{self, Author};
use super::{Result, Store, StoreError};
use crate::domain::extension::{ExtensionState, Length, Outage, Scope};
use crate::domain::participation::DeadlineOf;
use crate::domain::period::Period;
use crate::domain::{Instant, PromotionId, UserId};
use crate::wire::extension::{ExtensionView, NewExtension, RequestedLength};
use crate::wire::format_instant;

/// The most extensions that may be running at once: every judgement of a deadline looks at each.
const MAX_RUNNING: i64 = 1_000;

/// How long one attempt waits for the lock that puts an extension before or after every judgement.
/// Judgements queue behind it meanwhile.
const GATE_TIMEOUT: &str = "300ms";

/// How many attempts are made; with the pauses between them 8 seconds in total.
const GATE_TRIES: u32 = 16;
const GATE_PAUSE: Duration = Duration::from_millis(200);

/// The SQLSTATE of a lock that was not available in time.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// How long participations are counted for the response.
const COUNT_TIMEOUT: &str = "3s";

/// The result of an order to extend.
#[derive(Clone, Debug, PartialEq)]
pub enum ExtendOutcome {
    /// It is in force, by this call or by an earlier one with the same key and body.
    Accepted(Box<ExtensionView>),
    /// The idempotency key belongs to an earlier order with another body.
    OtherBody,
    /// The promotion does not exist.
    NoSuchPromotion,
    /// The outage does not exist.
    NoSuchOutage,
    /// The most extensions are running already.
    TooMany,
}

/// An extension's row.
struct Row {
    extension_id: Uuid,
    number: i64,
    promotion_id: Option<PromotionId>,
    country_code: Option<String>,
    user_id: Option<UserId>,
    deadline_of: DeadlineOf,
    by_seconds: Option<i64>,
    outage_id: Option<Uuid>,
    reason: String,
    at: Instant,
    matched: i64,
    done: i64,
    skipped: i64,
    finished_at: Option<Instant>,
}

impl Row {
    fn view(self) -> Result<ExtensionView> {
        let by = self
            .by_seconds
            .map(|seconds| period(self.extension_id, seconds));
        Ok(ExtensionView {
            extension_id: self.extension_id,
            at: self.at,
            promotion_id: self.promotion_id,
            country_code: self.country_code,
            user_id: self.user_id,
            of: self.deadline_of,
            by: by.transpose()?,
            outage_id: self.outage_id,
            reason: self.reason,
            matched: self.matched.max(self.done),
            done: self.done,
            skipped: self.skipped,
            state: match self.finished_at {
                None => ExtensionState::Running,
                Some(_) => ExtensionState::Done,
            },
            finished_at: self.finished_at,
        })
    }

    /// Whether it was ordered with this body.
    fn is_of(&self, new: &NewExtension) -> bool {
        let length = match new.length {
            RequestedLength::By(period) => (i64::try_from(period.seconds()).ok(), None),
            RequestedLength::Outage(outage_id) => (None, Some(outage_id)),
        };
        let country = new
            .scope
            .country_code
            .as_ref()
            .map(|country| country.as_str());
        self.promotion_id == new.scope.promotion_id
            && self.country_code.as_deref() == country
            && self.user_id == new.scope.user_id
            && self.deadline_of == new.of
            && (self.by_seconds, self.outage_id) == length
            && self.reason == new.reason
    }
}

fn period(extension_id: Uuid, seconds: i64) -> Result<Period> {
    let period = u64::try_from(seconds).ok().and_then(Period::from_seconds);
    period.ok_or_else(|| StoreError::Corrupt(format!("extension {extension_id}: {seconds} s")))
}

impl Store {
    /// Puts an extension in force. When this returns, every transaction that judged a deadline without it has
    /// ended, and later ones know of it. A call with the key and content of an earlier one returns that
    /// extension.
    pub async fn extend(
        &self,
        new: &NewExtension,
        key: &str,
        author: &Author,
    ) -> Result<ExtendOutcome> {
        self.require_finished_upgrade().await?;
        let mut tries = 1;
        let extended = loop {
            let (new, key, author) = (new.clone(), key.to_owned(), author.clone());
            let result = self
                .run_tx("extend", move |connection| {
                    let (new, key, author) = (new.clone(), key.clone(), author.clone());
                    Box::pin(async move { extend(connection, &new, &key, &author).await })
                })
                .await;
            match result {
                Err(error)
                    if tries < GATE_TRIES
                        && error.code().as_deref() == Some(LOCK_NOT_AVAILABLE) =>
                {
                    tries += 1;
                    tokio::time::sleep(GATE_PAUSE).await;
                }
                result => break result?,
            }
        };
        let (extension_id, is_new) = match extended {
            InsertOutcome::New(extension_id) => (extension_id, true),
            InsertOutcome::Repeated(row) if row.is_of(new) => (row.extension_id, false),
            InsertOutcome::Repeated(_) => return Ok(ExtendOutcome::OtherBody),
            InsertOutcome::Refused(outcome) => return Ok(outcome),
        };
        if is_new {
            // It is in force even if it was not counted.
            if let Err(error) = self.count_covered(extension_id, new.of, new.scope).await {
                tracing::warn!(%error, %extension_id, "an extension's participations were not counted");
            }
            // An extension for one client is applied at once.
            if new.scope.user_id.is_some()
                && let Err(error) = self.step_of(Some(extension_id), 1).await
            {
                tracing::debug!(%error, %extension_id, "the sweeper will apply this extension");
            }
        }
        let extension = self.extension(extension_id).await?;
        let extension = extension.ok_or_else(|| {
            StoreError::Corrupt(format!(
                "extension {extension_id} disappeared while it was created"
            ))
        })?;
        Ok(ExtendOutcome::Accepted(Box::new(extension)))
    }

    /// One extension.
    pub async fn extension(&self, extension_id: Uuid) -> Result<Option<ExtensionView>> {
        let row = sqlx::query_as!(
            Row,
            r#"select extension_id, number, promotion_id, country_code, user_id, deadline_of as "deadline_of: DeadlineOf", by_seconds,
                      outage_id, reason, at, matched, skipped, finished_at,
                      done + case when finished_at is null
                                  then (select count(*) from participation_extension a
                                         where a.extension_id = e.extension_id and not a.by_sweeper)
                                  else 0 end as "done!"
                 from extension e where extension_id = $1"#,
            extension_id
        )
        .fetch_optional(&mut *self.acquire().await?)
        .await?;
        row.map(Row::view).transpose()
    }

    /// A page of extensions, newest first: those before the number `before`, at most `limit`, each with its
    /// number.
    pub async fn extensions(
        &self,
        before: Option<i64>,
        limit: i64,
    ) -> Result<Vec<(i64, ExtensionView)>> {
        let rows = sqlx::query_as!(
            Row,
            r#"select extension_id, number, promotion_id, country_code, user_id, deadline_of as "deadline_of: DeadlineOf", by_seconds,
                      outage_id, reason, at, matched, skipped, finished_at,
                      done + case when finished_at is null
                                  then (select count(*) from participation_extension a
                                         where a.extension_id = e.extension_id and not a.by_sweeper)
                                  else 0 end as "done!"
                 from extension e
                where $1::bigint is null or number < $1
                order by number desc
                limit $2"#,
            before,
            limit
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        rows.into_iter()
            .map(|row| Ok((row.number, row.view()?)))
            .collect()
    }

    /// How many extensions are running, and the age of the oldest in seconds.
    pub async fn running_extensions(&self) -> Result<(i64, f64)> {
        let row = sqlx::query!(
            r#"select count(*) as "count!", coalesce(extract(epoch from clock_timestamp() - min(at))::float8, 0) as "oldest!"
                 from extension where finished_at is null"#
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?;
        Ok((row.count, row.oldest.max(0.0)))
    }

    /// Counts the participations that a new extension covers, for as long as a caller can wait, and lets the
    /// sweeper begin.
    async fn count_covered(&self, extension_id: Uuid, of: DeadlineOf, scope: Scope) -> Result<()> {
        let counted = self
            .run_tx("count_covered", move |connection| {
                Box::pin(async move {
                    plan_for_counting(connection).await?;
                    let at = sqlx::query_scalar!(
                        "select at from extension where extension_id = $1",
                        extension_id
                    )
                    .fetch_one(&mut *connection)
                    .await?;
                    count_covered(connection, of, scope, at).await
                })
            })
            .await;
        let matched = counted.as_ref().copied().unwrap_or_default();
        sqlx::query!(
            "update extension set matched = $2, is_counted = true where extension_id = $1 and finished_at is null",
            extension_id,
            matched
        )
        .execute(&mut *self.acquire().await?)
        .await?;
        counted.map(|_| ())
    }
}

/// Prepares [`count_covered`]: sets a timeout, and asks for a plan for the given values, which decide the best
/// index.
async fn plan_for_counting(connection: &mut PgConnection) -> Result<()> {
    sqlx::query!(
        "select set_config('statement_timeout', $1, true) as timeout, set_config('plan_cache_mode', 'force_custom_plan', true) as plans",
        COUNT_TIMEOUT
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

async fn count_covered(
    connection: &mut PgConnection,
    of: DeadlineOf,
    scope: Scope,
    at: Instant,
) -> Result<i64> {
    let country_code = scope.country_code.as_ref().map(|country| country.as_str());
    let count = match of {
        DeadlineOf::Challenge => {
            sqlx::query_scalar!(
                r#"select count(*) as "count!" from promotion_user
                    where status = 'IN_PROGRESS' and started_at <= $4
                      and ($1::bigint is null or promotion_id = $1)
                      and ($2::text is null or country_code = $2)
                      and ($3::bigint is null or user_id = $3)"#,
                scope.promotion_id,
                country_code,
                scope.user_id,
                at
            )
            .fetch_one(connection)
            .await?
        }
        DeadlineOf::Reward => {
            sqlx::query_scalar!(
                r#"select count(*) as "count!" from promotion_user
                    where status = 'COMPLETED' and completed_at <= $4 and reward_deadline > $4
                      and ($1::bigint is null or promotion_id = $1)
                      and ($2::text is null or country_code = $2)
                      and ($3::bigint is null or user_id = $3)"#,
                scope.promotion_id,
                country_code,
                scope.user_id,
                at
            )
            .fetch_one(connection)
            .await?
        }
    };
    Ok(count)
}

enum InsertOutcome {
    New(Uuid),
    Repeated(Box<Row>),
    /// It was not inserted; why not.
    Refused(ExtendOutcome),
}

async fn extend(
    connection: &mut PgConnection,
    new: &NewExtension,
    key: &str,
    author: &Author,
) -> Result<InsertOutcome> {
    if let Some(earlier) = of_key(connection, key).await? {
        return Ok(InsertOutcome::Repeated(Box::new(earlier)));
    }
    let length = match check(connection, new).await? {
        Ok(length) => length,
        Err(outcome) => return Ok(InsertOutcome::Refused(outcome)),
    };
    pending::close_gate(connection).await?;
    let (by, outage) = match length {
        Length::By(period) => (i64::try_from(period.seconds()).ok(), None),
        Length::SharedWith(outage) => (None, Some(outage)),
    };
    let extension_id = Uuid::now_v7();
    // `at` is the present time, read under the lock.
    let at = sqlx::query_scalar!(
        "insert into extension (extension_id, idempotency_key, promotion_id, country_code, user_id, deadline_of, by_seconds,
                                outage_id, outage_from, outage_to, reason)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
         on conflict (idempotency_key) do nothing
         returning at",
        extension_id,
        key,
        new.scope.promotion_id,
        new.scope.country_code.as_ref().map(|country| country.as_str()),
        new.scope.user_id,
        new.of as DeadlineOf,
        by,
        outage.map(|outage| outage.outage_id),
        outage.map(|outage| outage.from),
        outage.map(|outage| outage.to),
        new.reason
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(at) = at else {
        let earlier = of_key(connection, key).await?;
        let earlier = earlier.ok_or_else(|| {
            StoreError::Corrupt("an extension disappeared while another had its key".to_owned())
        })?;
        return Ok(InsertOutcome::Repeated(Box::new(earlier)));
    };
    let after = json!({ "extension_id": extension_id, "at": format_instant(at), "promotion_id": new.scope.promotion_id,
        "country_code": new.scope.country_code, "user_id": new.scope.user_id, "of": new.of,
        "by": match new.length { RequestedLength::By(period) => Some(period), RequestedLength::Outage(_) => None },
        "outage_id": outage.map(|outage| outage.outage_id), "reason": new.reason });
    audit::record(connection, author, None, Some(after)).await?;
    Ok(InsertOutcome::New(extension_id))
}

/// Checks whether there can be such an extension: its length, or why not.
async fn check(
    connection: &mut PgConnection,
    new: &NewExtension,
) -> Result<std::result::Result<Length, ExtendOutcome>> {
    if let Some(promotion_id) = new.scope.promotion_id {
        let exists = sqlx::query_scalar!(
            r#"select exists (select from promotion where promotion_id = $1) as "exists!""#,
            promotion_id
        );
        if !exists.fetch_one(&mut *connection).await? {
            return Ok(Err(ExtendOutcome::NoSuchPromotion));
        }
    }
    let length = match new.length {
        RequestedLength::By(period) => Length::By(period),
        RequestedLength::Outage(outage_id) => match outage(connection, outage_id).await? {
            Some(outage) => Length::SharedWith(outage),
            None => return Ok(Err(ExtendOutcome::NoSuchOutage)),
        },
    };
    let running = sqlx::query_scalar!(
        r#"select count(*) as "running!" from extension where finished_at is null"#
    );
    if running.fetch_one(&mut *connection).await? >= MAX_RUNNING {
        return Ok(Err(ExtendOutcome::TooMany));
    }
    Ok(Ok(length))
}

async fn of_key(connection: &mut PgConnection, key: &str) -> Result<Option<Row>> {
    Ok(sqlx::query_as!(
        Row,
        r#"select extension_id, number, promotion_id, country_code, user_id, deadline_of as "deadline_of: DeadlineOf", by_seconds,
                  outage_id, reason, at, matched, done, skipped, finished_at
             from extension where idempotency_key = $1"#,
        key
    )
    .fetch_optional(connection)
    .await?)
}

async fn outage(connection: &mut PgConnection, outage_id: Uuid) -> Result<Option<Outage>> {
    let row = sqlx::query!(
        "select began_at, ended_at from outage where outage_id = $1",
        outage_id
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Outage {
        outage_id,
        from: row.began_at,
        to: row.ended_at,
    }))
}
