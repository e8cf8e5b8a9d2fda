//! The record of what operators changed.

use serde_json::Value;
use sqlx::PgConnection;

use super::Result;

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
