//! The service as a process: the roles that run here, and in what order they start and stop.

mod gauges;
mod session_check;
mod tasks;
mod waiting;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, DatabaseConfig};
use crate::ingest::Ingest;
use crate::kafka::Cluster;
use crate::readiness::{Readiness, Role};
use crate::recovery;
use crate::relay::Relay;
use crate::store::Store;
use crate::store::erasure::ErasureKey;
use crate::sweep::Sweep;
use crate::telemetry::{Metrics, traces};
use tasks::Tasks;
use waiting::{wait_for_kafka, wait_for_postgres};

/// The most sessions of a command's pool.
const COMMAND_SESSIONS: u32 = 2;

/// The database of a configuration.
pub fn store_of(database: &DatabaseConfig) -> anyhow::Result<Store> {
    Store::with_url_file(
        database.url.expose(),
        database.url_file.clone(),
        database.max_connections,
    )
    .context("database.url")
}

/// The database of a configuration for a command, whose sessions have its name in
/// `pg_stat_activity`.
pub fn store_for(database: &DatabaseConfig, command: &str) -> anyhow::Result<Store> {
    let url = database.url.expose();
    Store::for_purpose(url, database.url_file.clone(), COMMAND_SESSIONS, command)
        .context("database.url")
}

/// Serves these roles until `stop`, then drains within the configured time. Fails if the schema is
/// not the one known here, or if a role ends unexpectedly.
pub async fn serve(
    config: Config,
    roles: &[Role],
    apply_migrations: bool,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let shutdown_timeout = config.shutdown_timeout;
    let (process, traces) = Process::build(config, roles, stop)?;
    let mut running = process.listen();
    let supervisor = tokio::spawn(crate::supervisor::tell(
        Arc::clone(&process.readiness),
        process.stop.clone(),
    ));
    process.start(&mut running, apply_migrations).await?;
    let gauges = tokio::spawn(gauges::keep(
        process.store.clone(),
        Arc::clone(&process.metrics),
        process.roles.clone(),
    ));

    // A task that ends unexpectedly ends the process; its supervisor restarts it. The stop is
    // checked first, because it also ends tasks.
    let result = tokio::select! {
        biased;
        () = process.stop.cancelled() => Ok(()),
        Some(error) = running.inputs.ended() => Err(error),
        Some(error) = running.relay.ended() => Err(error),
        Some(error) = running.listeners.ended() => Err(error),
    };
    tracing::info!("stopping");
    process.stop.cancel();
    running.drain(shutdown_timeout).await;
    gauges.abort();
    // The stop ended it; only its result is missing.
    let _ = supervisor.await;
    if let Some(traces) = traces {
        traces.finish().await;
    }
    result
}

/// State that the roles of a process share.
#[derive(Clone)]
struct Process {
    config: Config,
    /// Each once.
    roles: Vec<Role>,
    store: Store,
    cluster: Cluster,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    outbox_wake: watch::Sender<()>,
    stop: CancellationToken,
}

/// The tasks of a process, in the order in which they end: first the inputs, so that nothing new
/// comes in; then the relay, which publishes their last events; then the listeners.
struct Running {
    inputs: Tasks,
    relay: Tasks,
    listeners: Tasks,
    stop_relay: CancellationToken,
    stop_listeners: CancellationToken,
    /// Work that was not drained in time is given up.
    hard_stop: CancellationToken,
}

impl Process {
    fn build(
        config: Config,
        roles: &[Role],
        stop: CancellationToken,
    ) -> anyhow::Result<(Self, Option<traces::TraceExport>)> {
        let roles: BTreeSet<Role> = roles.iter().copied().collect();
        let roles: Vec<Role> = roles.into_iter().collect();
        let store = store_of(&config.database)?;
        let secret = config.erase.secret.as_ref();
        let key = secret.map(|secret| ErasureKey::new(secret.expose()));
        let store = store.with_erasure_key(key.transpose()?);
        let metrics = Metrics::new();
        metrics
            .pool
            .max
            .set(i64::from(config.database.max_connections));
        let traces = traces::start(&config.traces, &metrics)?;
        let process = Self {
            readiness: Arc::new(Readiness::new(&roles)),
            cluster: Cluster::new(&config.kafka)?,
            outbox_wake: watch::channel(()).0,
            config,
            roles,
            store,
            metrics,
            stop,
        };
        Ok((process, traces))
    }

    fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// Starts the listeners first, so that probes and metrics respond while the process waits for a
    /// server.
    fn listen(&self) -> Running {
        let mut running = Running {
            inputs: Tasks::default(),
            relay: Tasks::default(),
            listeners: Tasks::default(),
            stop_relay: CancellationToken::new(),
            stop_listeners: CancellationToken::new(),
            hard_stop: CancellationToken::new(),
        };
        let api = crate::api::Api {
            config: self.config.clone(),
            store: self.store.clone(),
            cluster: self.cluster.clone(),
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::clone(&self.readiness),
            outbox_wake: self.outbox_wake.clone(),
        };
        running.listeners.spawn(
            "the listeners",
            api.run(
                self.has(Role::Api),
                self.stop.clone(),
                running.stop_listeners.clone(),
            ),
        );
        running
    }

    /// Whether clients who were erased after a reward can be recognised. Otherwise they could be
    /// rewarded once more.
    async fn recognises_the_erased(&self) -> anyhow::Result<()> {
        let unrecognised = self.store.unrecognised_erasures().await?;
        anyhow::ensure!(
            unrecognised == 0,
            "{unrecognised} clients were erased after a reward and cannot be recognised: set erase.secret to what it was then"
        );
        Ok(())
    }

    /// Starts each role as soon as its servers are available, until the stop.
    async fn start(&self, running: &mut Running, apply_migrations: bool) -> anyhow::Result<()> {
        let sweep = Arc::new(self.sweep());
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            waited = wait_for_postgres(&self.store, &self.readiness, apply_migrations) => waited?,
            Some(error) = running.listeners.ended() => return Err(error),
        }
        if self.has(Role::Api) {
            self.recognises_the_erased().await?;
        }
        // This part needs no Kafka, so it does not wait for it.
        if self.has(Role::Sweep) {
            let rewards = Arc::clone(&sweep).expire_rewards(self.stop.clone());
            running.inputs.spawn("the role sweep", rewards);
            let interval = self.config.verify.interval;
            if !interval.is_zero() {
                let recounts = recovery::verify::every(
                    interval,
                    self.config.kafka.clone(),
                    self.store.clone(),
                    Arc::clone(&self.metrics),
                    self.stop.clone(),
                );
                running.inputs.spawn("the recount", recounts);
            }
            let reminders = Arc::clone(&sweep).remind(self.stop.clone());
            running.inputs.spawn("the role sweep", reminders);
            let extensions = Arc::clone(&sweep).extend_deadlines(self.stop.clone());
            running.inputs.spawn("the role sweep", extensions);
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            waited = wait_for_kafka(&self.config.kafka, &self.roles, &self.cluster, &self.readiness) => waited?,
            Some(error) = running.inputs.ended() => return Err(error),
            Some(error) = running.listeners.ended() => return Err(error),
        }
        for role in &self.roles {
            match role {
                Role::Api => {}
                Role::Ingest => running.inputs.spawn(
                    "the role ingest",
                    self.ingest()
                        .run(self.stop.clone(), running.hard_stop.clone()),
                ),
                Role::Sweep => {
                    let challenges = Arc::clone(&sweep).expire_challenges(self.stop.clone());
                    running.inputs.spawn("the role sweep", challenges);
                }
                Role::Relay => running.relay.spawn(
                    "the role relay",
                    self.relay().run(running.stop_relay.clone()),
                ),
            }
        }
        Ok(())
    }

    fn ingest(&self) -> Ingest {
        Ingest {
            kafka: self.config.kafka.clone(),
            limits: self.config.ingest.clone(),
            store: self.store.clone(),
            cluster: self.cluster.clone(),
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::clone(&self.readiness),
            outbox_wake: self.outbox_wake.clone(),
        }
    }

    fn relay(&self) -> Relay {
        Relay {
            kafka: self.config.kafka.clone(),
            limits: self.config.relay.clone(),
            store: self.store.clone(),
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::clone(&self.readiness),
            wake: self.outbox_wake.subscribe(),
            failing: Arc::default(),
        }
    }

    fn sweep(&self) -> Sweep {
        Sweep {
            kafka: self.config.kafka.clone(),
            limits: self.config.sweep.clone(),
            store: self.store.clone(),
            cluster: self.cluster.clone(),
            metrics: Arc::clone(&self.metrics),
            readiness: Arc::clone(&self.readiness),
            outbox_wake: self.outbox_wake.clone(),
            rewards_failing: Mutex::default(),
            reminders_failing: Mutex::default(),
        }
    }
}

impl Running {
    async fn drain(&mut self, within: Duration) {
        let drained = tokio::time::timeout(within, async {
            self.inputs.drain().await;
            self.stop_relay.cancel();
            self.relay.drain().await;
            self.stop_listeners.cancel();
            self.listeners.drain().await;
        })
        .await;
        if drained.is_err() {
            tracing::warn!(
                "not everything was drained in time; rides and events that were not committed are read or published again"
            );
            self.hard_stop.cancel();
        }
    }
}
