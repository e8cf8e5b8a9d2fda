//! The clients at work: each gets started, rides, and watches how far they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::Semaphore;
use tokio::time::{Instant as Monotonic, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{Api, CallError, Progress};
use super::plan::{self, Client, Crowd, Ends, Offer, Trip};
use super::rides::Publisher;
use crate::domain::ride::Ride;
use crate::domain::{PromotionId, UserId};

/// So many clients are looked after at a time before they arrive.
const WAVE: usize = 100;

/// The most clients who watch their progress; with a big file the others only ride.
pub(super) const MOST_WATCHING: usize = 500;

/// Between two rides of somebody who takes part in nothing.
const STRANGERS_EVERY: Duration = Duration::from_millis(10);

/// Between two records that are no rides.
const POISON_EVERY: Duration = Duration::from_secs(3);

/// Between two rides of the client whose token is printed.
const GUEST_EVERY: Duration = Duration::from_secs(3);

/// The pause after a call that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often a start that got no answer is tried.
const START_TRIES: u32 = 5;

/// Everybody who rides in a run.
#[derive(Clone)]
pub(super) struct Clients {
    api: Arc<Api>,
    publisher: Publisher,
    offer: Arc<Offer>,
    promotion_id: PromotionId,
    over: CancellationToken,
    tasks: TaskTracker,
    watching: Arc<Semaphore>,
    failed_calls: Arc<AtomicU64>,
}

impl Clients {
    pub(super) fn new(
        api: Arc<Api>,
        publisher: Publisher,
        offer: Offer,
        promotion_id: PromotionId,
    ) -> Self {
        Self {
            api,
            publisher,
            offer: Arc::new(offer),
            promotion_id,
            over: CancellationToken::new(),
            tasks: TaskTracker::new(),
            watching: Arc::new(Semaphore::new(MOST_WATCHING)),
            failed_calls: Arc::new(AtomicU64::new(0)),
        }
    }

    /// Calls that were refused or got no answer.
    pub(super) fn failed_calls(&self) -> u64 {
        self.failed_calls.load(Ordering::Relaxed)
    }

    /// Sends everybody home and waits until they are gone.
    pub(super) async fn leave(&self) {
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Made-up clients, as they come, among strangers and records that are no rides.
    pub(super) fn simulate(&self, mut crowd: Crowd) {
        let clients = self.clone();
        let began = Monotonic::now();
        self.spawn(async move {
            loop {
                let wave = crowd.take(WAVE, &mut rand::rng());
                let Some(first) = wave.first() else { return };
                // Looked after a little before the first of them comes.
                sleep_until(began + first.arrives.saturating_sub(Duration::from_secs(1))).await;
                clients.welcome(began, wave).await;
            }
        });
        let clients = self.clone();
        self.spawn(async move {
            let mut tick = tokio::time::interval(STRANGERS_EVERY);
            loop {
                tick.tick().await;
                let mut ride = plan::stranger(&clients.offer, &mut rand::rng());
                ride.completed_at = clients.api.now();
                clients.publisher.ride(&ride).await;
            }
        });
        let clients = self.clone();
        self.spawn(async move {
            let mut tick = tokio::time::interval(POISON_EVERY);
            loop {
                tick.tick().await;
                let (key, value) = plan::poison(&mut rand::rng());
                clients.publisher.raw(key.as_deref(), &value).await;
            }
        });
    }

    /// The riders of a file.
    pub(super) fn replay(&self, riders: Vec<Client>) {
        let clients = self.clone();
        let began = Monotonic::now();
        self.spawn(async move {
            let mut riders = riders.into_iter().peekable();
            while let Some(first) = riders.peek() {
                sleep_until(began + first.arrives.saturating_sub(Duration::from_secs(1))).await;
                let wave = riders.by_ref().take(WAVE).collect();
                clients.welcome(began, wave).await;
            }
        });
    }

    /// A client whose token is given to whoever runs the demo: gets started when told to by hand,
    /// and rides all the time.
    pub(super) async fn guest(&self, user_id: UserId) -> Result<(), CallError> {
        self.api.import(&self.offer, &[user_id]).await?;
        let clients = self.clone();
        self.spawn(async move {
            let mut tick = tokio::time::interval(GUEST_EVERY);
            loop {
                tick.tick().await;
                let mut ride = plan::good_ride(user_id, &clients.offer);
                ride.completed_at = clients.api.now();
                clients.publisher.ride(&ride).await;
            }
        });
        Ok(())
    }

    /// Runs until it ends by itself or everybody is sent home.
    fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tasks.spawn(async move {
            over.run_until_cancelled(work).await;
        });
    }

    /// Pre-offers for a wave of clients, whose lives then begin.
    async fn welcome(&self, began: Monotonic, wave: Vec<Client>) {
        let users: Vec<UserId> = wave.iter().map(|client| client.user_id).collect();
        while let Err(error) = self.api.import(&self.offer, &users).await {
            self.failed(&error);
            sleep(RETRY_AFTER).await;
        }
        for client in wave {
            let clients = self.clone();
            self.spawn(async move { clients.live(began, client).await });
        }
    }

    async fn live(&self, began: Monotonic, client: Client) {
        sleep_until(began + client.arrives).await;
        let token = match self.api.token_of(client.user_id) {
            Ok(token) => token,
            Err(error) => return self.failed(&error.into()),
        };
        let mut tries = 0;
        let started = loop {
            match self.api.start(&token, self.promotion_id).await {
                Ok(started) => break started,
                Err(error) => self.failed(&error),
            }
            tries += 1;
            if tries == START_TRIES {
                return;
            }
            sleep(RETRY_AFTER).await;
        };
        let start = Monotonic::now();
        let watcher = self.clone();
        self.spawn(async move { watcher.watch(&token).await });
        for trip in client.trips {
            sleep_until(start + trip.after).await;
            let ride = Ride {
                completed_at: match trip.ends {
                    // Later than the answer to the start, and so than the start.
                    Ends::InTime => self.api.now().max(started.started_at),
                    Ends::BeforeTheStart(by) => {
                        started.started_at - TimeDelta::from_std(by).unwrap_or_default()
                    }
                    Ends::AfterTheDeadline => self.api.now().max(started.challenge_deadline),
                },
                ..trip.ride.clone()
            };
            if trip.reported_after.is_zero() && trip.repeated_after.is_none() {
                self.publisher.ride(&ride).await;
            } else {
                let clients = self.clone();
                self.spawn(async move { clients.report(&trip, &ride).await });
            }
        }
    }

    /// Publishes a ride late, or twice, or both.
    async fn report(&self, trip: &Trip, ride: &Ride) {
        sleep(trip.reported_after).await;
        self.publisher.ride(ride).await;
        if let Some(after) = trip.repeated_after {
            sleep(after).await;
            self.publisher.ride(ride).await;
        }
    }

    /// Looks at the progress the way the mobile application does, until there is no more to see.
    async fn watch(&self, token: &str) {
        let Ok(_slot) = self.watching.try_acquire() else {
            return;
        };
        let mut tag = None;
        loop {
            match self
                .api
                .progress(token, self.promotion_id, tag.as_deref())
                .await
            {
                Ok(Progress::Unchanged) => {}
                Ok(Progress::Changed(participation, new_tag)) => {
                    // A client who has completed could claim the reward here. Nobody does yet, so
                    // each reward runs out.
                    if matches!(participation.status.as_str(), "REWARDED" | "EXPIRED") {
                        return;
                    }
                    tag = new_tag;
                }
                Err(error) => {
                    self.failed(&error);
                    sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    fn failed(&self, error: &CallError) {
        if !self.over.is_cancelled() {
            self.failed_calls.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "a call failed");
        }
    }
}
