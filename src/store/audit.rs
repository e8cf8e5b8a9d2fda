//! The audit: what operators changed.

use serde_json::Value;
use sqlx::PgConnection;

use super::{Result, Store};
use crate::domain::Instant;
use crate::wire::admin::AuditEntry;

/// The `call` of an import of pre-offers.
pub const IMPORT_CALL: &str = "pre-offers:import";

/// The author of a change, as the audit shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The operator.
    pub actor: String,
    /// The call or command, such as `PUT /products/80`.
    pub call: String,
}

/// Records a change, in the transaction that makes it.
pub async fn record(
    connection: &mut PgConnection,
    author: &Author,
    before: Option<Value>,
    after: Option<Value>,
) -> Result<()> {
    begin(connection, author, before, after).await?;
    Ok(())
}

/// Records the first part of a change that takes several transactions. Each later one records with
/// [`progress`] what is committed so far.
pub(super) async fn begin(
    connection: &mut PgConnection,
    author: &Author,
    before: Option<Value>,
    after: Option<Value>,
) -> Result<i64> {
    Ok(sqlx::query_scalar!(
        "insert into admin_audit (actor, call, before, after) values ($1, $2, $3, $4) returning audit_id",
        author.actor,
        author.call,
        before,
        after
    )
    .fetch_one(connection)
    .await?)
}

/// Records what the change of an entry has done so far. The entry itself stays as it was written.
pub(super) async fn progress(
    connection: &mut PgConnection,
    audit_id: i64,
    after: Value,
) -> Result<()> {
    sqlx::query!(
        "insert into import_progress (audit_id, after) values ($1, $2)
         on conflict (audit_id) do update set after = excluded.after",
        audit_id,
        after
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The filter of the list; `None` matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// Only changes by this operator.
    pub actor: Option<String>,
    /// Only changes by this call or by one that begins with it and a slash: `PATCH /promotions` matches
    /// `PATCH /promotions/7`.
    pub call: Option<String>,
    /// Only changes at or after this instant.
    pub from: Option<Instant>,
    /// Only changes before this instant.
    pub to: Option<Instant>,
    /// Whether imports of pre-offers are left out.
    pub without_imports: bool,
}

impl Store {
    /// Records what a command does outside the database, in a transaction of its own.
    pub async fn record_action(&self, author: Author, after: Value) -> Result<()> {
        self.run_tx("record_action", move |connection| {
            let (author, after) = (author.clone(), after.clone());
            Box::pin(async move { record(connection, &author, None, Some(after)).await })
        })
        .await
    }

    /// When the last import of pre-offers that reached the database began. It searches only the newest
    /// 10,000 entries, so that it stays cheap.
    pub async fn last_import(&self) -> Result<Option<Instant>> {
        Ok(sqlx::query_scalar!(
            "select max(at) from (select at, call from admin_audit order by audit_id desc limit 10000) newest
              where call = $1",
            IMPORT_CALL
        )
        .fetch_one(&mut *self.acquire().await?)
        .await?)
    }

    /// Changes, newest first: those before the entry `after`, at most `limit`.
    pub async fn audit(
        &self,
        filter: &AuditFilter,
        after: Option<i64>,
        limit: i64,
    ) -> Result<Vec<AuditEntry>> {
        Ok(sqlx::query_as!(
            AuditEntry,
            r#"select a.audit_id, a.actor, a.at, a.call, a.before, coalesce(p.after, a.after) as "after?"
                 from admin_audit a left join import_progress p using (audit_id)
                where ($1::bigint is null or a.audit_id < $1)
                  and ($3::text is null or a.actor = $3)
                  and ($4::text is null or a.call = $4 or starts_with(a.call, $4 || '/'))
                  and ($5::timestamptz is null or a.at >= $5)
                  and ($6::timestamptz is null or a.at < $6)
                  and (not $7 or a.call <> $8)
                order by a.audit_id desc limit $2"#,
            after,
            limit,
            filter.actor,
            filter.call,
            filter.from,
            filter.to,
            filter.without_imports,
            IMPORT_CALL
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?)
    }
}
