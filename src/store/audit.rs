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
    sqlx::query!(
        "insert into admin_audit (actor, call, before, after) values ($1, $2, $3, $4)",
        actor,
        call,
        before,
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
