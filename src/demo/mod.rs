//! `demo`: runs everything on one machine, without configuration, and removes it at the end.
//!
//! The service runs in this process with all its roles, on ports of the loopback interface. Its
//! servers are started beside it: a private Postgres (`postgres`) and librdkafka's in-process
//! broker (`broker`). Real servers can be named instead; then the run uses a database and topics of
//! its own. Simulated clients (`clients`, by `plan`) use the public calls (`api`), and so do the
//! figures (`funnel`). The tokens of a few clients (`guests`) are printed (`welcome`) for the
//! person who runs it. At the end every participation is recounted (`recount`).

mod api;
mod audience;
mod broker;
mod clients;
mod file;
mod funnel;
mod guests;
mod plan;
mod plan_of_file;
mod ports;
mod postgres;
mod recount;
mod rides;
mod screen;
mod showcase;
mod welcome;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::api::Api;
use self::audience::Audience;
use self::broker::Broker;
use self::clients::{Clients, OfferedPromotion};
use self::funnel::{Funnel, clock};
use self::guests::Guests;
use self::plan::{ALLOWED_LATENESS, Client, Crowd, Offer};
use self::ports::Port;
use self::postgres::Postgres;
use self::rides::Publisher;
use self::screen::Screen;
use self::welcome::Servers;
use crate::cli::DemoArgs;
use crate::config::{Config, Needs, RepaymentRate, format_duration};
use crate::domain::UserId;
use crate::kafka::Cluster;
use crate::readiness::Role;
use crate::serve;
use crate::telemetry;

/// The preferred ports of the two listeners.
const PREFERRED_PORTS: (u16, u16) = (8080, 8081);

/// Warnings, except those that are expected during the start: the demo waits for its parts, and
/// names a part that does not come.
const LOG_LEVEL: &str = "warn,librdkafka=error,ride_promo::readiness=error";

/// How often the figures are read.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// How long the service may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// How long the last records may take to be applied at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// How a demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DemoOutcome {
    /// It was stopped.
    Stopped,
    /// Its time was up, and every participation agrees with its receipts, its loan and its events.
    Agreed,
    /// Its time was up, and something does not agree; the disagreements were printed.
    Disagreed,
}

/// Runs the demo until its time is up or `stop`, and removes everything in either case.
pub async fn run(args: &DemoArgs, stop: CancellationToken) -> anyhow::Result<DemoOutcome> {
    let screen = Screen::new();
    // Distinguishes this run's objects on shared servers.
    let run = &Uuid::new_v4().simple().to_string()[..8];
    let ports = (
        Port::reserve(PREFERRED_PORTS.0)?,
        Port::reserve(PREFERRED_PORTS.1)?,
    );
    let scene = match &args.rides {
        None => Scene::simulated(args.duration)?,
        Some(path) => {
            let read = file::read(path).await?;
            screen.say(&format!(
                "{} rides in {}{}{}",
                read.rides.len(),
                path.display(),
                if read.cut {
                    ", the first ones of more"
                } else {
                    ""
                },
                match read.malformed {
                    0 => String::new(),
                    rows => format!("; {rows} rows are not rides and were skipped"),
                }
            ));
            let (offer, riders) = plan_of_file::of_file(read.rides, args.duration)
                .with_context(|| format!("there are no rides in {}", path.display()))?;
            Scene {
                offer,
                has_second_chance: false,
                cast: Cast::Riders(riders),
            }
        }
    };

    screen.say("Starting Postgres, Kafka and the service …");
    let broker = Broker::open(args.brokers.as_deref())?;
    let mut postgres = match &args.database_url {
        None => Postgres::private()?,
        Some(url) => Postgres::named(url, run).await?,
    };
    let names = broker.names(run);
    let mut kafka = None;
    let result = async {
        // A Ctrl-C ends the wait at once.
        let database_url = tokio::select! {
            ready = postgres.ready() => ready?,
            () = stop.cancelled() => return Ok(DemoOutcome::Stopped),
        };
        let config = config(
            &database_url,
            &broker.ready(&names)?,
            &names,
            &broker,
            &ports,
        )?;
        telemetry::init_logs_to(&config.log, screen.clone());
        kafka = Some(config.kafka.clone());
        let servers = Servers {
            postgres: postgres.look(),
            kafka: broker.look(&names),
            is_private: args.database_url.is_none(),
        };
        Stage {
            screen: screen.clone(),
            config,
            duration: args.duration,
            servers,
        }
        .play(scene, &stop)
        .await
    }
    .await;
    screen.clear();

    // Everything is removed, also after a failure.
    let topics = match &kafka {
        Some(kafka) => broker.close(kafka).await,
        None => Ok(()),
    };
    let database = postgres.close().await;
    let outcome = result?;
    topics?;
    database?;
    Ok(outcome)
}

/// The offer of a run and its clients.
struct Scene {
    offer: Offer,
    /// Whether clients who did not get the first reward try again. A file's riders do not.
    has_second_chance: bool,
    cast: Cast,
}

enum Cast {
    MadeUp(Crowd),
    Riders(Vec<Client>),
}

impl Scene {
    fn simulated(duration: Option<Duration>) -> anyhow::Result<Self> {
        let offer = Offer::simulated()?;
        let crowd = Crowd::new(&offer, duration)?;
        Ok(Self {
            has_second_chance: true,
            offer,
            cast: Cast::MadeUp(crowd),
        })
    }

    /// The clients whose tokens are printed: none of the riders.
    fn guests(&self) -> Guests {
        let riders: Vec<UserId> = match &self.cast {
            Cast::MadeUp(_) => Vec::new(),
            Cast::Riders(riders) => riders.iter().map(|rider| rider.user_id).collect(),
        };
        Guests::beside(&riders)
    }
}

/// The service's configuration. It ignores a shell's settings for `serve`, except those of the log.
fn config(
    database_url: &str,
    brokers: &str,
    names: &broker::Names,
    broker: &Broker,
    ports: &(Port, Port),
) -> anyhow::Result<Config> {
    let seconds = |seconds: f64| format_duration(Duration::from_secs_f64(seconds));
    let set = [
        ("DATABASE_URL", database_url.to_owned()),
        ("KAFKA_BROKERS", brokers.to_owned()),
        ("RIDE_PROMO__KAFKA__RIDE_TOPIC", names.ride_topic.clone()),
        (
            "RIDE_PROMO__KAFKA__STATUS_TOPIC",
            names.status_topic.clone(),
        ),
        (
            "RIDE_PROMO__KAFKA__REMINDER_TOPIC",
            names.reminder_topic.clone(),
        ),
        ("RIDE_PROMO__KAFKA__GROUP_ID", names.group_id.clone()),
        (
            "RIDE_PROMO__KAFKA__CREATE_TOPICS",
            broker.takes_admin_requests().to_string(),
        ),
        ("RIDE_PROMO__AUTH__ALGORITHM", "HS256".to_owned()),
        (
            "RIDE_PROMO__AUTH__HS256_SECRET",
            format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple()),
        ),
        ("RIDE_PROMO__API__LISTEN", ports.0.address().to_string()),
        ("RIDE_PROMO__ADMIN__LISTEN", ports.1.address().to_string()),
        // True of the demo's product, so the terms show the cost of the loan.
        (
            "RIDE_PROMO__API__REPAYMENT_RATE",
            RepaymentRate::OnceOfAmount.as_str().to_owned(),
        ),
        (
            "RIDE_PROMO__API__MAX_WAITS",
            (clients::MAX_WATCHING * 2).to_string(),
        ),
        ("RIDE_PROMO__INGEST__IDENTITY_CHECK_INTERVAL", seconds(1.0)),
        (
            "RIDE_PROMO__SWEEP__ALLOWED_LATENESS",
            format_duration(ALLOWED_LATENESS),
        ),
        ("RIDE_PROMO__SWEEP__INTERVAL", seconds(0.5)),
        ("RIDE_PROMO__LOG__LEVEL", LOG_LEVEL.to_owned()),
        ("RIDE_PROMO__LOG__FORMAT", "pretty".to_owned()),
    ];
    let logging = std::env::vars_os().filter(|(name, _)| {
        name.to_str()
            .is_some_and(|name| name.starts_with("RIDE_PROMO__LOG__"))
    });
    let set = set
        .into_iter()
        .map(|(name, value)| (name.into(), value.into()))
        // The later of two settings wins.
        .chain(logging);
    Ok(Config::from_sources(None, set, Needs::ALL)?)
}

/// The servers and addresses of a run.
struct Stage {
    screen: Screen,
    config: Config,
    duration: Option<Duration>,
    servers: Servers,
}

/// The results after the clients have left.
struct RunResult {
    audience: Audience,
    publisher: Publisher,
    failed_calls: u64,
    complaints: Vec<String>,
    complete: bool,
}

impl Stage {
    /// Runs the service and the scene in it; recounts everything if the run's time was up.
    async fn play(self, scene: Scene, stop: &CancellationToken) -> anyhow::Result<DemoOutcome> {
        let roles = [Role::Ingest, Role::Relay, Role::Sweep, Role::Api];
        let stop_service = CancellationToken::new();
        let mut service = pin!(serve::serve(
            self.config.clone(),
            &roles,
            true,
            stop_service.clone()
        ));
        let played = tokio::select! {
            ended = &mut service => {
                return Err(match ended {
                    Ok(()) => anyhow::anyhow!("the service stopped unexpectedly"),
                    Err(error) => error.context("the service stopped unexpectedly"),
                });
            }
            played = self.scene(scene, stop) => played,
        };
        stop_service.cancel();
        let served = service.await;
        let played = played?;
        served.context("the service's shutdown failed")?;
        match played {
            Some(played) if played.complete => self.recount(played).await,
            _ => Ok(DemoOutcome::Stopped),
        }
    }

    /// From the first client to the last; `None` if it was stopped before.
    async fn scene(
        &self,
        scene: Scene,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<RunResult>> {
        let guests = scene.guests();
        let api = Arc::new(Api::new(&self.config)?);
        let slow = scene.offer.for_guests();
        let quick = scene.offer.second_chance();
        let terms = slow.guest_terms();
        let begin = async {
            self.ready(&api).await?;
            api.set_up(&scene.offer).await?;
            let promotion_id = api.create(&scene.offer).await?;
            let slow = OfferedPromotion {
                promotion_id: api.create(&slow).await?,
                offer: slow,
            };
            let quick = OfferedPromotion {
                promotion_id: api.create(&quick).await?,
                offer: quick,
            };
            let second = scene.has_second_chance.then(|| quick.clone());
            let cluster = Cluster::new(&self.config.kafka)?;
            let partitions = cluster.partitions(&self.config.kafka.status_topic).await?;
            let audience = Audience::listen(&self.config.kafka, &partitions)?;
            let publisher = Publisher::new(&self.config.kafka)?;
            let clients = Clients::new(Arc::clone(&api), publisher.clone(), scene.offer, second);
            clients.invite(guests, &slow, &quick).await?;
            showcase::set_up(&api).await?;
            showcase::note_an_outage(&api, &self.config.database).await?;
            clients.use_up_a_budget(&slow.offer).await?;
            clients.ride_on_work_days(&slow.offer).await?;
            anyhow::Ok((
                promotion_id,
                slow.promotion_id,
                audience,
                publisher,
                clients,
            ))
        };
        let (promotion_id, slow_id, audience, publisher, clients) = tokio::select! {
            begun = begin => begun?,
            () = stop.cancelled() => return Ok(None),
        };
        let welcome = self.welcome(&api, guests, slow_id, &terms)?;
        self.screen.say(&welcome);
        match scene.cast {
            Cast::MadeUp(crowd) => clients.simulate(crowd),
            Cast::Riders(riders) => clients.replay(riders),
        }

        let began = Monotonic::now();
        let mut shown = None;
        let mut funnel = Funnel::default();
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let is_up = |elapsed: Duration| self.duration.is_some_and(|duration| elapsed >= duration);
        while !stop.is_cancelled() && !is_up(began.elapsed()) {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => break,
            }
            if let Some(now) = look(&api, promotion_id, &publisher).await {
                funnel = now;
                let at = clock(began.elapsed(), self.duration);
                self.screen.show(&funnel, &at, &mut shown);
            }
        }
        let complete = !stop.is_cancelled();
        self.screen.say(if complete {
            "The time is up; waiting for the last rides and events …"
        } else {
            "Ending …"
        });

        clients.leave().await;
        publisher.flush().await?;
        let draining = Monotonic::now();
        while complete && draining.elapsed() < DRAIN_TIMEOUT && !stop.is_cancelled() {
            if let Some(now) = look(&api, promotion_id, &publisher).await {
                funnel = now;
                if publisher.counts().is_drained() && funnel.is_settled() {
                    break;
                }
            }
            tokio::time::sleep(LOOK_EVERY / 4).await;
        }
        self.screen
            .keep(&funnel, &clock(began.elapsed(), self.duration));
        Ok(Some(RunResult {
            audience,
            failed_calls: clients.failed_calls(),
            complaints: clients.complaints(),
            publisher,
            complete,
        }))
    }

    async fn ready(&self, api: &Api) -> anyhow::Result<()> {
        let began = Monotonic::now();
        loop {
            match api.readiness().await {
                Ok(()) => return Ok(()),
                Err(why) if began.elapsed() > READY_TIMEOUT => {
                    anyhow::bail!("the service is not ready: {why}")
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

/// The figures now; `None` if the service does not respond at the moment.
async fn look(api: &Api, promotion_id: i64, publisher: &Publisher) -> Option<Funnel> {
    let figures = tokio::try_join!(api.stats(), api.metrics());
    match figures {
        Ok((stats, metrics)) => {
            let funnel = Funnel::new(&stats, &metrics, promotion_id, publisher.counts());
            publisher.counts().set_applied(funnel.applied());
            Some(funnel)
        }
        Err(error) => {
            tracing::warn!(%error, "the figures could not be read");
            None
        }
    }
}
