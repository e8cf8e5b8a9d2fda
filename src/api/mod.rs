//! HTTP: the client API and pages, the admin API, probes and metrics, each on its listener.

pub mod accept;
pub mod access;
pub mod admin;
pub mod auth;
pub mod client;
pub mod connection;
pub mod console;
pub mod cors;
pub mod documents;
pub mod dry_run;
pub mod encoding;
pub mod error_responses;
pub mod etag;
pub mod examples;
pub mod extract;
pub mod head;
pub mod home;
pub mod limit;
pub mod listen;
pub mod model;
pub mod openapi;
pub mod pages;
pub mod params;
pub mod probes;
pub mod problem;
pub mod query;
pub mod server;
mod site;

use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use anyhow::Context as _;
use axum::Router;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::admin::AdminState;
use self::auth::{AdminAuth, ClientAuth, KeySource, Verifier};
use self::client::ClientState;
use self::client::waits::Waits;
use self::cors::Cors;
use self::extract::BodyRules;
use self::limit::RateLimit;
use self::model::Model;
use self::probes::ProbeState;
use self::server::Settings;
use crate::config::Config;
use crate::kafka::Cluster;
use crate::readiness::{Readiness, Role};
use crate::store::Store;
use crate::telemetry::Metrics;

pub use openapi::{admin_openapi, client_openapi};

/// How often the availability of Postgres is checked.
const PULSE_EVERY: Duration = Duration::from_secs(1);

/// How often it is recorded that Postgres is reached; the contract demands at least every 10 s.
const PRESENCE_EVERY: Duration = Duration::from_secs(5);

/// The timeout of that check.
const PULSE_TIMEOUT: Duration = Duration::from_secs(3);

/// The most connections to the client listener, besides long polls and streams.
const CLIENT_CONNECTIONS: usize = 8_192;

/// The most connections to the admin listener.
const ADMIN_CONNECTIONS: usize = 512;

/// The most connections to the listener of metrics and probes.
const METRICS_CONNECTIONS: usize = 64;

/// The listeners of a process, and what they serve.
pub struct Api {
    /// The whole configuration.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// The Kafka cluster.
    pub cluster: Cluster,
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// The reports of the roles.
    pub readiness: Arc<Readiness>,
    /// Wakes the relay of this process after an event was written.
    pub outbox_wake: watch::Sender<()>,
}

impl Api {
    /// Serves the admin listener, and the separate listener of metrics and probes if it is
    /// configured, until `stop_listeners`. If the role `api` runs here, it also serves the admin calls,
    /// and the client listener until `stop`. A listener ends once its running requests have their
    /// responses. Fails if it cannot listen, or if tokens cannot be checked.
    pub async fn run(
        self,
        with_api: bool,
        stop: CancellationToken,
        stop_listeners: CancellationToken,
    ) -> anyhow::Result<()> {
        let probes = probes::router(ProbeState {
            readiness: Arc::clone(&self.readiness),
            metrics: Arc::clone(&self.metrics),
            store: self.store.clone(),
        });
        let mut admin = probes.clone();
        let mut client = None;
        if with_api {
            let (admin_calls, client_calls) = self.calls(&stop)?;
            admin = admin
                .merge(admin_calls)
                .merge(documents::router())
                .merge(console::router(&self.config.console))
                .merge(home::admin());
            let settings = self.client_settings();
            let address = self.config.api.listen;
            let listener = listen::bind(address, "api.listen").await?;
            tracing::info!(address = %listener.local_addr()?, "the client API listens");
            let pages = pages::router(self.config.api.repayment_rate);
            let calls = client_calls.merge(pages).merge(home::client());
            client = Some((listener, calls, settings));
        } else {
            admin = admin.merge(home::probes());
        }
        let metrics = match self.config.metrics.listen {
            Some(address) => {
                let listener = listen::bind(address, "metrics.listen").await?;
                tracing::info!(address = %listener.local_addr()?, "probes and metrics listen");
                Some(listener)
            }
            None => None,
        };
        let address = self.config.admin.listen;
        let listener = listen::bind(address, "admin.listen").await?;
        tracing::info!(address = %listener.local_addr()?, "the admin API, probes and metrics listen");
        let settings = self.admin_settings();
        let app = server::complete(admin, &settings, Arc::clone(&self.metrics));
        let connections = self.metrics.api.connections(settings.name);
        let admin = listen::run(listener, app, settings, connections, stop_listeners.clone());
        let end = stop_listeners;
        let client = async {
            if let Some((listener, calls, settings)) = client {
                let app = server::complete(calls, &settings, Arc::clone(&self.metrics));
                let connections = self.metrics.api.connections(settings.name);
                listen::run(listener, app, settings, connections, stop).await;
            }
        };
        let metrics = async {
            if let Some(listener) = metrics {
                let settings = self.metrics_settings();
                let probes = probes.merge(home::probes());
                let app = server::complete(probes, &settings, Arc::clone(&self.metrics));
                let connections = self.metrics.api.connections(settings.name);
                listen::run(listener, app, settings, connections, end).await;
            }
        };
        tokio::join!(admin, client, metrics);
        Ok(())
    }

    /// The routers of the admin calls and the client calls. Starts their background tasks.
    fn calls(&self, stop: &CancellationToken) -> anyhow::Result<(Router, Router)> {
        let [verifier, admin_verifier] = self.verifiers(stop)?;
        let api = &self.config.api;
        let rate_limit = RateLimit::new(api, self.metrics.api.rate_limited.clone());
        let rate_limit = Arc::new(rate_limit);
        let model = Model::new(
            self.store.clone(),
            api.model_capacity,
            Arc::clone(&self.metrics),
        );
        model::tail::spawn(
            Arc::clone(&model),
            self.config.kafka.clone(),
            self.cluster.clone(),
            stop.clone(),
        )
        .context("starting the thread that follows the status topic")?;
        let pulse = pulse(
            self.store.clone(),
            Arc::clone(&model),
            Arc::clone(&self.readiness),
            Arc::clone(&verifier),
        );
        let ages = key_set_ages(
            [
                ("client", Arc::clone(&verifier)),
                ("admin", Arc::clone(&admin_verifier)),
            ],
            Arc::clone(&self.metrics),
        );
        let endings = model::endings::listen(self.store.clone(), Arc::clone(&model));
        let progress = model::progress::listen(self.store.clone(), Arc::clone(&model));
        let presence = presence(self.store.clone());
        let forget = forget(Arc::clone(&rate_limit));
        let until = stop.clone();
        tokio::spawn(async move {
            until
                .run_until_cancelled(async {
                    tokio::join!(pulse, ages, endings, progress, presence, forget)
                })
                .await
        });
        self.metrics
            .api
            .waits_max
            .set(i64::try_from(api.max_waits).unwrap_or(i64::MAX));
        let client: Router = client::router()
            .with_state(ClientState {
                auth: ClientAuth {
                    verifier,
                    rate_limit,
                },
                store: self.store.clone(),
                model,
                waits: Waits::new(api, self.metrics.api.waits_in_flight.clone()),
                outbox_wake: self.outbox_wake.clone(),
                metrics: Arc::clone(&self.metrics),
                stop: stop.clone(),
                request_timeout: api.request_timeout,
            })
            .into();
        let admin: Router = admin::router()
            .with_state(AdminState {
                auth: AdminAuth(admin_verifier),
                store: self.store.clone(),
                cluster: self.cluster.clone(),
                outbox_wake: self.outbox_wake.clone(),
                metrics: Arc::clone(&self.metrics),
                kafka: Arc::new(self.config.kafka.clone()),
                readiness: Arc::clone(&self.readiness),
                settings: Arc::new(self.config.settings.clone()),
                counts: Arc::default(),
                allowed_lateness: self.config.sweep.allowed_lateness,
                import_body_timeout: self.config.admin.import_body_timeout,
            })
            .into();
        Ok((admin, client))
    }

    /// The verifiers of the client API's and the admin API's tokens. If both use the same keys, these
    /// are fetched once.
    fn verifiers(&self, stop: &CancellationToken) -> anyhow::Result<[Arc<Verifier>; 2]> {
        let (auth, admin_auth) = (&self.config.auth, &self.config.admin_auth);
        let keys = KeySource::new(auth).context("[auth]")?;
        let admin_keys = if auth.has_keys_of(admin_auth) {
            keys.clone()
        } else {
            KeySource::new(admin_auth).context("[admin_auth]")?
        };
        let mut sets: Vec<_> = [&keys, &admin_keys]
            .into_iter()
            .filter_map(KeySource::set)
            .collect();
        sets.dedup_by(|one, other| Arc::ptr_eq(one, other));
        for set in sets {
            let (set, stop) = (Arc::clone(set), stop.clone());
            tokio::spawn(async move { stop.run_until_cancelled(set.keep()).await });
        }
        let verifier =
            |config, keys| Arc::new(Verifier::new(config, keys, Arc::clone(&self.metrics)));
        Ok([verifier(auth, keys), verifier(admin_auth, admin_keys)])
    }

    fn client_settings(&self) -> Settings {
        let api = &self.config.api;
        let max_connections = api.max_waits + CLIENT_CONNECTIONS;
        Settings {
            name: "api",
            untimed: client::UNTIMED,
            max_connections,
            max_connections_per_address: match api.max_connections_per_address {
                0 => max_connections / 2,
                max => max,
            },
            cors: Cors::new(&api.cors_origins),
            ..self.settings()
        }
    }

    fn admin_settings(&self) -> Settings {
        Settings {
            name: server::ADMIN,
            untimed: admin::UNTIMED,
            max_connections: ADMIN_CONNECTIONS,
            max_connections_per_address: ADMIN_CONNECTIONS,
            ..self.settings()
        }
    }

    fn metrics_settings(&self) -> Settings {
        Settings {
            name: "metrics",
            max_connections: METRICS_CONNECTIONS,
            max_connections_per_address: METRICS_CONNECTIONS,
            ..self.settings()
        }
    }

    fn settings(&self) -> Settings {
        let api = &self.config.api;
        Settings {
            name: "",
            header_timeout: api.header_timeout,
            idle_timeout: api.idle_timeout,
            request_timeout: api.request_timeout,
            untimed: &[],
            body: BodyRules {
                limit_bytes: api.body_limit_bytes,
                timeout: api.body_timeout,
            },
            max_connections: 0,
            max_connections_per_address: 0,
            cors: None,
            // The roles that drain at the same time and after need their share.
            drain_timeout: self.config.shutdown_timeout / 3,
        }
    }
}

/// Asks Postgres once a second for what readiness and the read model need. The role `api` is ready
/// while Postgres responds and clients' tokens can be checked; client calls work without Kafka.
async fn pulse(
    store: Store,
    model: Arc<Model>,
    readiness: Arc<Readiness>,
    verifier: Arc<Verifier>,
) {
    let mut tick = tokio::time::interval(PULSE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let asked_at = Monotonic::now();
        let said = match tokio::time::timeout(PULSE_TIMEOUT, store.pulse()).await {
            Ok(Ok(pulse)) => {
                model.observe(&pulse, asked_at);
                verifier.trouble().map_or(Ok(()), Err)
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("postgres did not respond within {PULSE_TIMEOUT:?}")),
        };
        readiness.set(Role::Api, said);
    }
}

/// Records every few seconds that Postgres is reached. A gap in these records is an outage.
async fn presence(store: Store) {
    let mut tick = tokio::time::interval(PRESENCE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match tokio::time::timeout(PULSE_TIMEOUT, store.note_presence()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "postgres was not reached"),
            Err(_) => tracing::debug!("postgres did not respond in time"),
        }
    }
}

/// Updates the metric of the key sets' ages.
async fn key_set_ages(verifiers: [(&'static str, Arc<Verifier>); 2], metrics: Arc<Metrics>) {
    let mut tick = tokio::time::interval(PULSE_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        for (api, verifier) in &verifiers {
            if let Some(age) = verifier.keys_age() {
                metrics.api.key_set_age(api, age);
            }
        }
    }
}

async fn forget(rate_limit: Arc<RateLimit>) {
    let mut tick = tokio::time::interval(limit::FORGET_EVERY);
    loop {
        tick.tick().await;
        rate_limit.forget_quiet();
    }
}
