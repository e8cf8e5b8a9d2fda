//! `demo`: everything on one machine, with nothing configured and nothing left behind.
//!
//! The service runs in this process, all its roles, on ports of the loopback interface. What it
//! works on is started beside it: a private Postgres (`postgres`) and the broker that librdkafka
//! plays (`broker`), or real ones that were named, in a database and topics of this run's own.
//! Clients (`clients`, by `plan`) come over the public calls (`api`); the figures
//! (`funnel`) are read there, too. At the end every participation is counted again.

mod api;
mod audience;
mod broker;
mod clients;
mod file;
mod funnel;
mod plan;
mod ports;
mod postgres;
mod rides;
mod screen;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant as Monotonic};

use anyhow::Context as _;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::api::Api;
use self::audience::Audience;
use self::broker::Broker;
use self::clients::{Clients, Offered};
use self::funnel::{Funnel, clock};
use self::plan::{ALLOWED_LATENESS, Client, Crowd, Offer};
use self::ports::Port;
use self::postgres::Postgres;
use self::rides::Publisher;
use self::screen::Screen;
use crate::cli::DemoArgs;
use crate::config::{Config, Needs, format_duration};
use crate::domain::UserId;
use crate::kafka::Cluster;
use crate::readiness::Role;
use crate::serve;
use crate::store::Store;
use crate::telemetry;

/// Where the two listeners are if nobody else is there.
const PREFERRED_PORTS: (u16, u16) = (8080, 8081);

/// Warnings, but for what is expected while everything starts; the demo waits for it and says what
/// does not come.
const LOG_LEVEL: &str = "warn,librdkafka=error,ride_promo::readiness=error";

/// How often the figures are read.
const LOOK_EVERY: Duration = Duration::from_millis(400);

/// How long the service may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(90);

/// How long what is on its way may take to arrive at the end.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(60);

/// The client whose token is printed, or the next one that no file has.
const GUEST: UserId = 48_151;

/// The most disagreements that are printed.
const MOST_PRINTED: usize = 20;

/// How a demo ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was told to stop.
    Stopped,
    /// Its time was up, and every participation agrees with its receipts, its loan and its events.
    Agreed,
    /// Its time was up, and something does not agree; it was printed.
    Disagreed,
}

/// Runs the demo until its time is up or `stop`, and leaves nothing behind in either case.
pub async fn run(args: &DemoArgs, stop: CancellationToken) -> anyhow::Result<Outcome> {
    let screen = Screen::new();
    // Distinguishes what this run makes on servers that others use as well.
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
                    rows => format!("; {rows} rows are none and were skipped"),
                }
            ));
            let (offer, riders) = plan::of_file(read.rides, args.duration)
                .with_context(|| format!("there are no rides in {}", path.display()))?;
            Scene {
                offer,
                second: None,
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
        // Whoever changes their mind now does not wait for it.
        let database_url = tokio::select! {
            ready = postgres.ready() => ready?,
            () = stop.cancelled() => return Ok(Outcome::Stopped),
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
        let look = format!(
            "Postgres   {}\nKafka      {}",
            postgres.look(),
            broker.look(&names)
        );
        Stage {
            screen: screen.clone(),
            config,
            duration: args.duration,
            look,
        }
        .play(scene, &stop)
        .await
    }
    .await;
    screen.clear();

    // Everything is removed, whatever went wrong with anything.
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

/// What is played.
struct Scene {
    offer: Offer,
    /// For those to whom nothing came of it.
    second: Option<Offer>,
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
            second: Some(offer.second_chance()),
            offer,
            cast: Cast::MadeUp(crowd),
        })
    }

    /// Somebody who is not among the riders.
    fn guest(&self) -> UserId {
        match &self.cast {
            Cast::MadeUp(_) => GUEST,
            Cast::Riders(riders) => (GUEST..)
                .find(|user_id| riders.iter().all(|rider| rider.user_id != *user_id))
                .unwrap_or(GUEST),
        }
    }
}

/// The service's configuration. Nothing of what a shell has configured for `serve` comes in, but
/// for how to log.
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
        (
            "RIDE_PROMO__API__MAX_WAITS",
            (clients::MOST_WATCHING * 2).to_string(),
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
        // The later of two wins.
        .chain(logging);
    Ok(Config::from_sources(None, set, Needs::ALL)?)
}

/// Where it is played, once the servers are there.
struct Stage {
    screen: Screen,
    config: Config,
    duration: Option<Duration>,
    look: String,
}

/// What is known when the clients have left.
struct Played {
    audience: Audience,
    publisher: Publisher,
    failed_calls: u64,
    complaints: Vec<String>,
    complete: bool,
}

impl Stage {
    /// Runs the service, and the scene in it; counts everything again where the run's time was up.
    async fn play(self, scene: Scene, stop: &CancellationToken) -> anyhow::Result<Outcome> {
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
                    Ok(()) => anyhow::anyhow!("the service ended by itself"),
                    Err(error) => error.context("the service ended by itself"),
                });
            }
            played = self.scene(scene, stop) => played,
        };
        stop_service.cancel();
        let served = service.await;
        let played = played?;
        served.context("the service did not end well")?;
        match played {
            Some(played) if played.complete => self.recount(played).await,
            _ => Ok(Outcome::Stopped),
        }
    }

    /// From the first client to the last; `None` where it was told to stop before.
    async fn scene(
        &self,
        scene: Scene,
        stop: &CancellationToken,
    ) -> anyhow::Result<Option<Played>> {
        let guest = scene.guest();
        let api = Arc::new(Api::new(&self.config)?);
        let terms = scene.offer.terms();
        let begin = async {
            self.ready(&api).await?;
            api.set_up(&scene.offer).await?;
            let promotion_id = api.create(&scene.offer).await?;
            let second = match scene.second {
                None => None,
                Some(offer) => Some(Offered {
                    promotion_id: api.create(&offer).await?,
                    offer,
                }),
            };
            let cluster = Cluster::new(&self.config.kafka)?;
            let partitions = cluster.partitions(&self.config.kafka.status_topic).await?;
            let audience = Audience::listen(&self.config.kafka, &partitions)?;
            let publisher = Publisher::new(&self.config.kafka)?;
            let clients = Clients::new(Arc::clone(&api), publisher.clone(), scene.offer, second);
            clients.guest(guest).await?;
            anyhow::Ok((promotion_id, audience, publisher, clients))
        };
        let (promotion_id, audience, publisher, clients) = tokio::select! {
            begun = begin => begun?,
            () = stop.cancelled() => return Ok(None),
        };
        self.announce(&api, guest, promotion_id, &terms)?;
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
            "The time is up; waiting for what is on its way …"
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
        Ok(Some(Played {
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

    fn announce(
        &self,
        api: &Api,
        guest: UserId,
        promotion_id: i64,
        terms: &str,
    ) -> anyhow::Result<()> {
        let (base, admin) = (api.base(), api.admin_base());
        let (token, admin_token) = (api.token_of(guest)?, api.admin_token());
        let ends = match self.duration {
            Some(duration) => format!("It ends after {}", format_duration(duration)),
            None => "It goes on until Ctrl-C".to_owned(),
        };
        self.screen.say(&format!(
            "
Client API {base}/v1
Pages      {base}/app#token={token}
Admin API  {admin}/admin/v1
Metrics    {admin}/metrics   probes {admin}/livez {admin}/readyz
{look}

Take part as client {guest}, for whom a ride is published every few seconds ({terms}):
  TOKEN={token}
  curl -X POST -H \"Authorization: Bearer $TOKEN\" {base}/v1/promotions/{promotion_id}/start
  curl -H \"Authorization: Bearer $TOKEN\" {base}/v1/promotions/{promotion_id}/progress
  curl -H \"Authorization: Bearer $TOKEN\" {base}/v1/promotions/{promotion_id}/get_reward
  curl -X POST -H \"Authorization: Bearer $TOKEN\" {base}/v1/promotions/{promotion_id}/accept_reward
Look at everything as an operator:
  ADMIN_TOKEN={admin_token}
  curl -H \"Authorization: Bearer $ADMIN_TOKEN\" {admin}/admin/v1/stats

{ends}.
",
            look = self.look,
        ));
        Ok(())
    }

    /// Holds every participation against its receipts, what accepting created, and the events that
    /// were published.
    async fn recount(&self, played: Played) -> anyhow::Result<Outcome> {
        let store = Store::new(self.config.database.url.expose(), 2)?;
        let recount = store.recount().await?;
        store.pool().close().await;
        let (mut amiss, events) = played.audience.compare(&recount.versions).await;
        amiss.extend(played.complaints);
        amiss.extend(recount.disagreements.iter().map(|disagreement| {
            format!(
                "client {}, promotion {}: {}",
                disagreement.user_id, disagreement.promotion_id, disagreement.what
            )
        }));
        let counts = played.publisher.counts();
        // Nothing is wrong with those: a client that is refused tries again.
        for (count, what) in [
            (counts.lost(), "rides were not taken by Kafka"),
            (played.failed_calls, "calls of clients failed"),
        ] {
            if count > 0 {
                self.screen.say(&format!("Note: {count} {what}."));
            }
        }
        for (count, what) in [
            (
                recount.unpublished.unsigned_abs(),
                "events were not published",
            ),
            (
                u64::from(!counts.is_drained()),
                "topic of rides is not read to its end",
            ),
            (
                u64::from(recount.participations == 0),
                "run without any participation",
            ),
        ] {
            if count > 0 {
                amiss.push(format!("{count} {what}"));
            }
        }
        self.screen.say(&format!(
            "Recount: {} participations ({} rewarded, {} challenge not completed, {} reward not claimed), {} receipts of \
             which {} counted, {events} events",
            recount.participations,
            recount.rewarded,
            recount.not_completed,
            recount.not_claimed,
            recount.receipts,
            recount.counted
        ));
        if amiss.is_empty() {
            self.screen
                .say("Every participation agrees with its receipts, its loan and its events.");
            return Ok(Outcome::Agreed);
        }
        for what in amiss.iter().take(MOST_PRINTED) {
            self.screen.say(&format!("  {what}"));
        }
        self.screen.say(&format!("{} disagreements.", amiss.len()));
        Ok(Outcome::Disagreed)
    }
}

/// The figures now; `None` where the service does not answer at the moment.
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
