//! Which server the database is on. After a failover, a restore or a move, the last confirmed and published
//! changes may be missing. Until an operator accepts the server, nothing is read from or published to Kafka,
//! and nothing expires.

use serde_json::json;
use sqlx::PgConnection;

use super::audit::{self, Author};
use super::{Result, Store, StoreError};

/// A server and its timeline. A promotion or a point-in-time recovery begins a new timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct ServerIdentity {
    /// Postgres' `system_identifier`, made by `initdb`; copies of the data directory share it.
    pub system_identifier: i64,
    /// The timeline that the server writes to.
    pub timeline: i32,
}

impl std::fmt::Display for ServerIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            system_identifier,
            timeline,
        } = self;
        write!(
            f,
            "system identifier {system_identifier}, timeline {timeline}"
        )
    }
}

/// How the server compares with the accepted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is the same.
    Accepted(ServerIdentity),
    /// It is another one, or another timeline.
    Other(OtherServer),
    /// The server does not say, or did not when the schema was created. Nothing is compared.
    Unknown,
}

/// The server is not the accepted one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the database is on another server or timeline ({now}) than the one that was accepted ({accepted}): it was failed over, \
     restored or moved, and the last of what was answered and published may be missing. See `ride-promo positions`"
)]
pub struct OtherServer {
    /// The one that was accepted last.
    pub accepted: ServerIdentity,
    /// The present one.
    pub now: ServerIdentity,
}

/// Compares the server of this session with the accepted one.
pub async fn standing(connection: &mut PgConnection) -> Result<Standing> {
    let now = now(connection).await?;
    let accepted = accepted(connection).await?;
    Ok(match (accepted, now) {
        (Some(accepted), Some(now)) if accepted == now => Standing::Accepted(now),
        (Some(accepted), Some(now)) => Standing::Other(OtherServer { accepted, now }),
        _ => Standing::Unknown,
    })
}

/// Fails on a server that was not accepted. Every session whose writes depend on Kafka calls it once: a session
/// cannot survive a change of its server.
pub(super) async fn ensure_accepted(connection: &mut PgConnection) -> Result<()> {
    match standing(connection).await? {
        Standing::Other(other) => Err(StoreError::OtherServer(other)),
        Standing::Accepted(_) | Standing::Unknown => Ok(()),
    }
}

/// Accepts the server of this session; audited if that changes anything.
pub(super) async fn accept(connection: &mut PgConnection, actor: &str, reason: &str) -> Result<()> {
    let (before, Some(now)) = (accepted(connection).await?, now(connection).await?) else {
        return Ok(());
    };
    if before == Some(now) {
        return Ok(());
    }
    sqlx::query(
        "insert into server_identity (system_identifier, timeline) values ($1, $2)
         on conflict (one_row) do update
            set system_identifier = excluded.system_identifier, timeline = excluded.timeline, accepted_at = clock_ms()",
    )
    .bind(now.system_identifier)
    .bind(now.timeline)
    .execute(&mut *connection)
    .await?;
    // A 64-bit number as a string, because JSON readers may round it.
    let said = |identity: ServerIdentity| json!({ "system_identifier": identity.system_identifier.to_string(), "timeline": identity.timeline });
    let mut after = said(now);
    after["reason"] = json!(reason);
    let author = Author {
        actor: actor.to_owned(),
        call: "server accept".to_owned(),
    };
    audit::record(connection, &author, before.map(said), Some(after)).await
}

// These queries are not checked at compile time: the doctor and processes before a migration use them too,
// and they read the server's own views, not the schema.

async fn now(connection: &mut PgConnection) -> Result<Option<ServerIdentity>> {
    let now = sqlx::query_as("select system_identifier, timeline from server_identity_now()");
    Ok(now.fetch_optional(connection).await?)
}

async fn accepted(connection: &mut PgConnection) -> Result<Option<ServerIdentity>> {
    let accepted = sqlx::query_as("select system_identifier, timeline from server_identity");
    Ok(accepted.fetch_optional(connection).await?)
}

impl Store {
    /// Compares the server with the accepted one.
    pub async fn server_standing(&self) -> Result<Standing> {
        standing(&mut *self.acquire().await?).await
    }

    /// The operator's decision to go on working on this server; audited.
    pub async fn accept_server_identity(&self, actor: &str, reason: &str) -> Result<()> {
        let (actor, reason) = (actor.to_owned(), reason.to_owned());
        self.run_tx("accept_server_identity", move |connection| {
            let (actor, reason) = (actor.clone(), reason.clone());
            Box::pin(async move { accept(connection, &actor, &reason).await })
        })
        .await
    }
}
