//! The service as a process: the roles that run here, in what order they start and stop.

use std::any::Any;
use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use futures::FutureExt as _;
use sqlx::{ConnectOptions as _, Connection as _};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::causes;
use crate::config::{Config, KafkaConfig};
use crate::ingest::Ingest;
use crate::kafka::Cluster;
use crate::readiness::{Readiness, Role};
use crate::relay::Relay;
use crate::store::schema::{migrate, schema_status};
use crate::store::{Store, StoreError};
use crate::sweep::Sweep;
use crate::telemetry::{Metrics, traces};

/// The first and the longest pause between two attempts to reach a server that is away at start.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// How long Postgres may take to answer whether it is there.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the gauges that nobody else keeps are set.
const GAUGES_INTERVAL: Duration = Duration::from_secs(5);

/// Serves these roles until `stop`, then drains within the configured time. Fails where the schema
/// is not the one known here, or a role ends by itself.
pub async fn serve(
    config: Config,
    roles: &[Role],
    apply_migrations: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let roles: Vec<Role> = roles
        .iter()
        .copied()
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect();
    let store = Store::new(
        config.database.url.expose(),
        config.database.max_connections,
    )
    .context("reading database.url")?;
    let metrics = Metrics::new();
    metrics
        .pool
        .max
        .set(i64::from(config.database.max_connections));
    let traces = traces::start(&config.traces, &metrics)?;
    let readiness = Arc::new(Readiness::new(&roles));
    let cluster = Cluster::new(&config.kafka)?;
    let (outbox_wake, _) = watch::channel(());

    // In this order at the end: first nothing new comes in (api, ingest, sweep), and what they
    // committed last is still published (relay).
    let stop_inputs = stop.clone();
    let stop_relay = CancellationToken::new();
    let stop_listeners = CancellationToken::new();
    let hard_stop = CancellationToken::new();

    // The listeners come first, so that probes and metrics answer while a server is waited for.
    let mut listeners = Tasks::default();
    let with_api = roles.contains(&Role::Api);
    let api = crate::api::Api {
        config: config.clone(),
        store: store.clone(),
        cluster: cluster.clone(),
        metrics: Arc::clone(&metrics),
        readiness: Arc::clone(&readiness),
        outbox_wake: outbox_wake.clone(),
    };
    listeners.spawn(
        "the listeners",
        api.run(with_api, stop.clone(), stop_listeners.clone()),
    );

    let supervisor = tokio::spawn(crate::supervisor::tell(
        Arc::clone(&readiness),
        stop.clone(),
    ));

    let mut inputs = Tasks::default();
    let mut relay = Tasks::default();
    let sweep = Arc::new(Sweep {
        kafka: config.kafka.clone(),
        limits: config.sweep.clone(),
        store: store.clone(),
        cluster: cluster.clone(),
        metrics: Arc::clone(&metrics),
        readiness: Arc::clone(&readiness),
        outbox_wake: outbox_wake.clone(),
        rewards_failing: Mutex::default(),
    });
    let with_postgres = tokio::select! {
        biased;
        () = stop.cancelled() => false,
        waited = wait_for_postgres(&store, &readiness, apply_migrations) => {
            waited?;
            true
        }
        Some(error) = listeners.ended() => return Err(error),
    };
    // What needs no Kafka does not wait for it.
    if with_postgres && roles.contains(&Role::Sweep) {
        let rewards = Arc::clone(&sweep).expire_rewards(stop_inputs.clone());
        inputs.spawn("the role sweep", rewards);
    }
    let with_kafka = with_postgres
        && tokio::select! {
            biased;
            () = stop.cancelled() => false,
            waited = wait_for_kafka(&config.kafka, &roles, &cluster, &readiness) => {
                waited?;
                true
            }
            Some(error) = inputs.ended() => return Err(error),
            Some(error) = listeners.ended() => return Err(error),
        };
    for role in roles.iter().filter(|_| with_kafka) {
        match role {
            Role::Api => {}
            Role::Ingest => {
                let ingest = Ingest {
                    kafka: config.kafka.clone(),
                    limits: config.ingest.clone(),
                    store: store.clone(),
                    cluster: cluster.clone(),
                    metrics: Arc::clone(&metrics),
                    readiness: Arc::clone(&readiness),
                    outbox_wake: outbox_wake.clone(),
                };
                inputs.spawn(
                    "the role ingest",
                    ingest.run(stop_inputs.clone(), hard_stop.clone()),
                );
            }
            Role::Sweep => {
                let challenges = Arc::clone(&sweep).expire_challenges(stop_inputs.clone());
                inputs.spawn("the role sweep", challenges);
            }
            Role::Relay => {
                let relaying = Relay {
                    kafka: config.kafka.clone(),
                    limits: config.relay.clone(),
                    store: store.clone(),
                    metrics: Arc::clone(&metrics),
                    readiness: Arc::clone(&readiness),
                    wake: outbox_wake.subscribe(),
                    failing: Arc::default(),
                };
                relay.spawn("the role relay", relaying.run(stop_relay.clone()));
            }
        }
    }
    let gauges = tokio::spawn(keep_gauges(
        store.clone(),
        Arc::clone(&metrics),
        roles.contains(&Role::Relay),
    ));

    // What ends by itself takes the process down: what restarts it is the supervisor's.
    // The stop is looked at first: it also ends tasks.
    let result = tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        Some(error) = inputs.ended() => Err(error),
        Some(error) = relay.ended() => Err(error),
        Some(error) = listeners.ended() => Err(error),
    };
    tracing::info!("stopping");
    stop.cancel();
    let drain = async {
        inputs.drain().await;
        stop_relay.cancel();
        relay.drain().await;
        stop_listeners.cancel();
        listeners.drain().await;
    };
    if tokio::time::timeout(config.shutdown_timeout, drain)
        .await
        .is_err()
    {
        tracing::warn!(
            "not everything was drained in time; what was not committed is read or published again"
        );
        hard_stop.cancel();
    }
    gauges.abort();
    // It ended with the stop, and only has to have said so.
    let _ = supervisor.await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    result
}

/// Tasks that run until they are told to stop, each with a name for when it does not.
#[derive(Default)]
struct Tasks(JoinSet<(&'static str, anyhow::Result<()>)>);

impl Tasks {
    fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        // Whatever a task leaves behind when it panics is not looked at: the process ends.
        let caught = AssertUnwindSafe(task).catch_unwind();
        self.0.spawn(async move {
            let result = match caught.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.context(format!("{name} failed"))),
                Err(panic) => Err(anyhow::anyhow!("{name} died: {}", panic_text(&*panic))),
            };
            (name, result)
        });
    }

    /// Waits for one to end that nobody told to stop, and says which and why; `None` at once where
    /// there is none.
    async fn ended(&mut self) -> Option<anyhow::Error> {
        Some(match self.0.join_next().await? {
            Ok((name, Ok(()))) => anyhow::anyhow!("{name} ended without being told to"),
            Ok((_, Err(error))) => error,
            Err(error) => error.into(),
        })
    }

    /// Waits for all that are left, which were told to stop.
    async fn drain(&mut self) {
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended.map_err(Into::into).and_then(|(_, result)| result) {
                tracing::error!(error = causes::in_words(&error), "not stopped well");
            }
        }
    }
}

/// What a panic said.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

/// Waits until Postgres answers with the schema known here; says that it is away, at what address.
async fn wait_for_postgres(
    store: &Store,
    readiness: &Readiness,
    apply_migrations: bool,
) -> anyhow::Result<()> {
    let mut waiting = Waiting::new(readiness);
    let all = [Role::Api, Role::Ingest, Role::Relay, Role::Sweep];
    let options = store.options();
    let address = format!("Postgres at {}:{}", options.get_host(), options.get_port());
    let away = |error: &dyn std::fmt::Display| format!("{address} is away: {error}");
    let mut migrated = !apply_migrations;
    loop {
        // A connection of its own first: the pool goes on trying by itself for seconds, and then
        // only says that time is up.
        if let Err(error) = knock(store).await {
            waiting.pause(&all, away(&error)).await;
            continue;
        }
        if !migrated {
            match migrate(store).await {
                Ok(()) => migrated = true,
                Err(error) if is_away(&error) => {
                    waiting.pause(&all, away(&causes::in_words(&error))).await;
                    continue;
                }
                Err(error) => return Err(error.context("applying migrations")),
            }
        }
        match schema_status(store.pool()).await {
            Ok(status) if status.is_usable() => return Ok(()),
            Ok(other) => anyhow::bail!("{other}"),
            Err(error @ StoreError::Unavailable(_)) => waiting.pause(&all, away(&error)).await,
            Err(error) => return Err(anyhow::Error::new(error).context("reading the schema")),
        }
    }
}

/// Waits until Kafka answers with the topics; says that it is away, at what address.
async fn wait_for_kafka(
    kafka: &KafkaConfig,
    roles: &[Role],
    cluster: &Cluster,
    readiness: &Readiness,
) -> anyhow::Result<()> {
    let mut waiting = Waiting::new(readiness);
    // The client API works without Kafka, so it does not wait for it.
    readiness.set(Role::Api, Err("starting".to_owned()));
    loop {
        // Whether anybody is there is known sooner than whether the topics can be made.
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
            // The client API works without Kafka, whatever keeps it from us.
            Err(error) if roles == [Role::Api] => {
                tracing::error!(%error, "kafka cannot be used; clients are answered from postgres");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether Postgres takes a connection. That it is starting up or has none to spare is "away" too;
/// a password that is wrong may be put right there as well.
async fn knock(store: &Store) -> anyhow::Result<()> {
    let connection = tokio::time::timeout(KNOCK_TIMEOUT, store.options().connect())
        .await
        .context("no answer in time")??;
    Ok(connection.close().await?)
}

/// Says why the process waits, once as long as it is the same, and pauses longer every time.
struct Waiting<'a> {
    readiness: &'a Readiness,
    said: String,
    backoff: Duration,
}

impl<'a> Waiting<'a> {
    fn new(readiness: &'a Readiness) -> Self {
        Self {
            readiness,
            said: String::new(),
            backoff: BACKOFF.0,
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
        tokio::time::sleep(self.backoff).await;
        self.backoff = (self.backoff * 2).min(BACKOFF.1);
    }
}

/// Whether a migration failed because Postgres could not be reached, not because it refused.
fn is_away(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<std::io::Error>().is_some()
            || cause.downcast_ref::<sqlx::Error>().is_some_and(|error| {
                matches!(error, sqlx::Error::Io(_) | sqlx::Error::Tls(_))
                    || error
                        .as_database_error()
                        .and_then(|error| error.code())
                        .is_some_and(|code| code.starts_with("57P"))
            })
    })
}

async fn keep_gauges(store: Store, metrics: Arc<Metrics>, with_outbox: bool) {
    let mut tick = tokio::time::interval(GAUGES_INTERVAL);
    loop {
        tick.tick().await;
        metrics.pool.size.set(i64::from(store.pool().size()));
        metrics
            .pool
            .idle
            .set(i64::try_from(store.pool().num_idle()).unwrap_or(i64::MAX));
        if with_outbox && let Ok((depth, oldest)) = store.outbox_depth().await {
            metrics.relay.outbox_depth.set(depth);
            metrics.relay.outbox_oldest_age_seconds.set(oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn message(task: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> String {
        let mut tasks = Tasks::default();
        tasks.spawn("the role sweep", task);
        let error = tasks.ended().await.expect("it ended");
        causes::in_words(&error)
    }

    #[tokio::test]
    async fn a_task_that_ends_by_itself_is_named_with_its_reason() {
        assert_eq!(
            message(async { anyhow::bail!("no more") }).await,
            "the role sweep failed: no more"
        );
        assert_eq!(
            message(async { Ok(()) }).await,
            "the role sweep ended without being told to"
        );
        assert_eq!(
            message(async { panic!("number {}", 7) }).await,
            "the role sweep died: number 7"
        );
        assert!(Tasks::default().ended().await.is_none());
    }
}
