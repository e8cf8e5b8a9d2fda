//! The record of what operators changed.

use serde_json::Value;
use sqlx::PgConnection;

use super::{Result, Store};
use crate::domain::Instant;

/// A change that an operator made.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its place: a newer change has a greater one.
    pub audit_id: i64,
    /// Who: the token's `sub`, or the command line.
    pub actor: String,
    /// When.
    pub at: Instant,
    /// The call or command.
    pub call: String,
    /// What was there before; `None` for something new.
    pub before: Option<Value>,
    /// What is there now.
    pub after: Option<Value>,
}

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
    /// A page of changes, newest first: those before the entry `before`, at most `limit`.
    pub async fn audit_entries(&self, before: Option<i64>, limit: i64) -> Result<Vec<Entry>> {
        Ok(sqlx::query_as!(
            Entry,
            "select audit_id, actor, at, call, before, after
               from admin_audit
              where audit_id < coalesce($1, 9223372036854775807)
              order by audit_id desc
              limit $2",
            before,
            limit
        )
        .fetch_all(self.pool())
        .await?)
    }
}
