//! The record of what operators changed.

use serde_json::Value;
use sqlx::PgConnection;

use super::{Result, Store};
use crate::wire::admin::AuditEntry;

/// Writes down a change, in the transaction that makes it.
pub async fn record(
    connection: &mut PgConnection,
    actor: &str,
    call: &str,
    before: Option<Value>,
    after: Option<Value>,
) -> Result<()> {
    begin(connection, actor, call, before, after).await?;
    Ok(())
}

/// Writes down the first part of a change that takes several transactions; each later one brings
/// the entry up to date with [`amend`], so that it says at any time what has been committed.
pub(super) async fn begin(
    connection: &mut PgConnection,
    actor: &str,
    call: &str,
    before: Option<Value>,
    after: Option<Value>,
) -> Result<i64> {
    Ok(sqlx::query_scalar!(
        "insert into admin_audit (actor, call, before, after) values ($1, $2, $3, $4) returning audit_id",
        actor,
        call,
        before,
        after
    )
    .fetch_one(connection)
    .await?)
}

/// Replaces what an entry says is there now.
pub(super) async fn amend(
    connection: &mut PgConnection,
    audit_id: i64,
    after: Value,
) -> Result<()> {
    sqlx::query!(
        "update admin_audit set after = $2 where audit_id = $1",
        audit_id,
        after
    )
    .execute(connection)
    .await?;
    Ok(())
}

impl Store {
    /// Changes, newest first: those before the entry `after`, at most `limit`.
    pub async fn audit(&self, after: Option<i64>, limit: i64) -> Result<Vec<AuditEntry>> {
        Ok(sqlx::query_as!(
            AuditEntry,
            "select audit_id, actor, at, call, before, after from admin_audit
              where $1::bigint is null or audit_id < $1 order by audit_id desc limit $2",
            after,
            limit
        )
        .fetch_all(self.pool())
        .await?)
    }
}
