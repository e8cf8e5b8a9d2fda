//! The gate between two releases: a release writes what the one before cannot read only after the upgrade is
//! finished (contract 8, "Upgrades").

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Connection as _, PgConnection};

use super::schema::SchemaStatus;
use super::{Result, Store, StoreError};

/// The last release that writes something which the one before cannot read. A later release that does so gets its
/// own row in `release_upgrade`, by a migration, and its name here.
pub const GATED_RELEASE: &str = "0.2.0";

/// The first schema version of [`GATED_RELEASE`]. Once its upgrade is finished, a program that does not know this
/// version refuses to start.
const FIRST_VERSION: i64 = 3;

/// Why an upgrade cannot be finished.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    /// The migrations of this release must be applied first.
    #[error("{0}")]
    Schema(SchemaStatus),
    /// Processes of an older release are connected.
    #[error(
        "{} connected to this database: stop those processes, then run `ride-promo migrate --finish` again ({})",
        count(.0.len()),
        shown(.0)
    )]
    OlderSessions(Vec<OlderSession>),
    /// Postgres reported an error.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for FinishError {
    fn from(error: sqlx::Error) -> Self {
        Self::Store(error.into())
    }
}

/// A session of this service in this database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OlderSession {
    /// The id of its server process.
    pub pid: i32,
    /// Its database user.
    pub user: String,
    /// Its `application_name`.
    pub name: String,
    /// The client's address; unknown to a role that may not see it.
    pub address: Option<String>,
}

/// The most sessions that an error names.
const MAX_SHOWN: usize = 5;

fn count(sessions: usize) -> String {
    match sessions {
        1 => format!("1 session of a release before {GATED_RELEASE} is"),
        sessions => format!("{sessions} sessions of a release before {GATED_RELEASE} are"),
    }
}

fn shown(sessions: &[OlderSession]) -> String {
    let mut texts: Vec<String> = sessions
        .iter()
        .take(MAX_SHOWN)
        .map(|session| {
            let from = session.address.as_deref().unwrap_or("an unknown address");
            format!(
                "pid {} \"{}\", user {}, from {from}",
                session.pid, session.name, session.user
            )
        })
        .collect();
    if sessions.len() > MAX_SHOWN {
        texts.push(format!("and {} more", sessions.len() - MAX_SHOWN));
    }
    texts.join("; ")
}

/// Whether a session of this name belongs to a release before [`GATED_RELEASE`]. A pooler may have appended text
/// after a space.
fn is_older(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("ride-promo") else {
        return false;
    };
    match rest.strip_prefix('/') {
        Some(rest) => {
            let release = rest.split(' ').next().unwrap_or_default();
            parse_release(release) < parse_release(GATED_RELEASE)
        }
        None => rest.is_empty() || rest.starts_with(' '),
    }
}

/// The numbers of a release. `None`, if they cannot be read, counts as the oldest.
fn parse_release(text: &str) -> Option<[u32; 3]> {
    let numbers = text.split(['-', '+']).next()?;
    let mut parts = numbers.split('.');
    let mut next = || parts.next()?.parse().ok();
    Some([next()?, next()?, next()?])
}

/// A process's knowledge of the gate: it opens once and stays open.
#[derive(Debug, Default)]
pub(super) struct FinishedFlag(AtomicBool);

impl Store {
    /// Whether the upgrade to this release is finished, so that it may write what the release before cannot read.
    /// It is one small read until then, and remembered afterwards.
    pub async fn upgrade_is_finished(&self) -> Result<bool> {
        if self.gate.0.load(Ordering::Relaxed) {
            return Ok(true);
        }
        let finished = upgrade_is_finished(&mut *self.acquire().await?).await?;
        if finished {
            self.gate.0.store(true, Ordering::Relaxed);
        }
        Ok(finished)
    }

    /// Requires a finished upgrade before something is written that the release before cannot read. Otherwise returns
    /// [`StoreError::UpgradeUnfinished`], for which the API returns `409 upgrade-unfinished`.
    pub async fn require_finished_upgrade(&self) -> Result<()> {
        if self.upgrade_is_finished().await? {
            Ok(())
        } else {
            Err(StoreError::UpgradeUnfinished)
        }
    }

    /// Finishes the upgrade, so that this release may write everything it can. From then on programs of the release
    /// before refuse to start. Fails while one of their sessions is connected. A repeat changes nothing.
    pub async fn finish_upgrade(&self) -> std::result::Result<(), FinishError> {
        let status = self.schema_status().await?;
        if !matches!(status, SchemaStatus::Current(_)) {
            return Err(FinishError::Schema(status));
        }
        let mut connection = self.acquire().await?;
        let mut tx = connection.begin().await?;
        // A program of the release before reads this table when it starts. From here on, either it waits with
        // its session open and is found below, or it reads what is committed below.
        sqlx::query!("lock table schema_compatibility in access exclusive mode")
            .execute(&mut *tx)
            .await?;
        let older = older_sessions(&mut tx).await?;
        if !older.is_empty() {
            return Err(FinishError::OlderSessions(older));
        }
        sqlx::query!(
            "update release_upgrade set finished_at = clock_ms() where release = $1 and finished_at is null",
            GATED_RELEASE
        )
        .execute(&mut *tx)
        .await?;
        exclude_older_releases(&mut tx).await?;
        tx.commit().await?;
        Ok(())
    }
}

/// Whether the upgrade to this release is finished, according to the database.
pub async fn upgrade_is_finished(connection: &mut PgConnection) -> Result<bool> {
    Ok(sqlx::query_scalar!(
        r#"select exists (select from release_upgrade where release = $1 and finished_at is not null) as "finished!""#,
        GATED_RELEASE
    )
    .fetch_one(connection)
    .await?)
}

/// The sessions of older releases in this database. `application_name` is visible to every role.
async fn older_sessions(connection: &mut PgConnection) -> Result<Vec<OlderSession>> {
    let sessions = sqlx::query!(
        r#"select pid as "pid!", coalesce(usename, '') as "user!", application_name as "name!", host(client_addr) as address
             from pg_stat_activity
            where datname = current_database() and application_name like 'ride-promo%' and pid <> pg_backend_pid()
            order by pid"#
    )
    .fetch_all(connection)
    .await?;
    let older = sessions.into_iter().filter(|row| is_older(&row.name));
    Ok(older
        .map(|row| OlderSession {
            pid: row.pid,
            user: row.user,
            name: row.name,
            address: row.address,
        })
        .collect())
}

/// If the upgrade is finished, excludes programs of the release before from the schema, also after later migrations
/// of this release. It runs after each migration.
pub(super) async fn exclude_older_releases(connection: &mut PgConnection) -> Result<()> {
    sqlx::query!(
        "update schema_compatibility set works_since = greatest(works_since, $1)
          where version >= $1 and works_since < $1
            and exists (select from release_upgrade where release = $2 and finished_at is not null)",
        FIRST_VERSION,
        GATED_RELEASE
    )
    .execute(connection)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::SESSION_NAME;

    #[test]
    fn a_session_says_its_release_or_is_older() {
        for name in [
            "ride-promo",
            "ride-promo relay",
            "ride-promo - 10.0.0.7:5123",
            "ride-promo/0.1.9",
            "ride-promo/0.1.0 relay",
            "ride-promo/",
            "ride-promo/x",
        ] {
            assert!(is_older(name), "{name}");
        }
        for name in [
            SESSION_NAME,
            "ride-promo/0.2.0 relay",
            "ride-promo/0.2.0-rc.1",
            "ride-promo/0.10.0",
            "ride-promo/1.0.0 - 10.0.0.7:5123",
            "ride-promoter",
            "psql",
            "",
        ] {
            assert!(!is_older(name), "{name}");
        }
        assert!(!is_older(SESSION_NAME), "this release's own sessions");
    }
}
