//! Waiting for Postgres and Kafka at the start.

use std::time::Duration;

use crate::backoff::Backoff;
use crate::causes;
use crate::config::KafkaConfig;
use crate::kafka::Cluster;
use crate::readiness::{Readiness, Role};
use crate::store::schema::migrate;
use crate::store::{Store, StoreError};

use super::session_check::{SessionProblem, check_sessions};

/// The pauses between two attempts to reach a server that is unavailable at the start.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(2));

/// Waits until Postgres responds with the schema known here. Logs that it is unavailable, with its
/// address.
pub(super) async fn wait_for_postgres(
    store: &Store,
    readiness: &Readiness,
    apply_migrations: bool,
) -> anyhow::Result<()> {
    let mut waiting = WaitLog::new(readiness);
    let all = [Role::Api, Role::Ingest, Role::Relay, Role::Sweep];
    let unavailable = |error: &dyn std::fmt::Display| {
        format!(
            "Postgres at {} is unavailable: {error}",
            store.connector().places()
        )
    };
    let mut migrated = !apply_migrations;
    loop {
        // Opens a connection of its own first: the pool retries for seconds, and then only reports
        // a timeout.
        match check_sessions(store).await {
            Ok(()) => {}
            Err(SessionProblem::Unavailable(why)) => {
                waiting.pause(&all, why).await;
                continue;
            }
            Err(SessionProblem::Unusable(why)) => anyhow::bail!("{why}"),
        }
        if !migrated {
            match migrate(store).await {
                Ok(()) => migrated = true,
                Err(error) if is_away(&error) => {
                    waiting
                        .pause(&all, unavailable(&causes::in_words(&error)))
                        .await;
                    continue;
                }
                Err(error) => return Err(error.context("applying migrations")),
            }
        }
        match store.schema_status().await {
            Ok(status) if status.is_usable() => {
                if matches!(store.upgrade_is_finished().await, Ok(false)) {
                    tracing::warn!("{}", StoreError::UpgradeUnfinished);
                }
                return Ok(());
            }
            Ok(other) => anyhow::bail!("{other}"),
            Err(error) if error.is_unavailable() => waiting.pause(&all, unavailable(&error)).await,
            Err(error) => return Err(anyhow::Error::new(error).context("reading the schema")),
        }
    }
}

/// Waits until Kafka responds with the topics. Logs that it is unavailable, with its address.
pub(super) async fn wait_for_kafka(
    kafka: &KafkaConfig,
    roles: &[Role],
    cluster: &Cluster,
    readiness: &Readiness,
) -> anyhow::Result<()> {
    let mut waiting = WaitLog::new(readiness);
    // The client API works without Kafka, so it does not wait for it.
    readiness.set(Role::Api, Err("starting".to_owned()));
    loop {
        // Whether a broker responds is known sooner than whether the topics can be created.
        let ensured = match cluster.has_topic(&kafka.ride_topic).await {
            Ok(_) => cluster.ensure_topics(kafka).await.map(drop),
            Err(error) => Err(error),
        };
        match ensured {
            Ok(()) => return Ok(()),
            Err(error) if error.is_transient() => {
                waiting
                    .pause(&[Role::Ingest, Role::Relay, Role::Sweep], error.to_string())
                    .await;
            }
            // The client API works without Kafka.
            Err(error) if roles == [Role::Api] => {
                tracing::error!(%error, "kafka cannot be used; clients are answered from postgres");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Logs why the process waits, once for each reason, and pauses longer every time.
struct WaitLog<'a> {
    readiness: &'a Readiness,
    said: String,
    backoff: Backoff,
}

impl<'a> WaitLog<'a> {
    fn new(readiness: &'a Readiness) -> Self {
        Self {
            readiness,
            said: String::new(),
            backoff: BACKOFF,
        }
    }

    async fn pause(&mut self, roles: &[Role], why: String) {
        if why != self.said {
            tracing::warn!("waiting: {why}");
            for role in roles {
                self.readiness.set(*role, Err(why.clone()));
            }
            self.said = why;
        }
        tokio::time::sleep(self.backoff.pause()).await;
    }
}

/// Whether a migration failed because Postgres is unavailable, not because it refused.
fn is_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some()
            || cause
                .downcast_ref::<StoreError>()
                .is_some_and(StoreError::is_unavailable)
            || cause.downcast_ref::<sqlx::Error>().is_some_and(|error| {
                matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_))
                    || error
                        .as_database_error()
                        .and_then(|error| error.code())
                        .is_some_and(|code| code.starts_with("57P"))
            })
    })
}
