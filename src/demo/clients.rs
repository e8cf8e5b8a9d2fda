//! The clients: each lands, starts, rides, follows the progress, and claims the reward, in time or
//! too late. Some of those who did not get it try again with another promotion.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::Semaphore;
use tokio::time::{Instant as Monotonic, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::api::{AcceptedLoan, Api, CallError, Participation, Progress};
use super::plan::{self, Claim, Client, Crowd, Ends, Offer, Trip};
use super::rides::Publisher;
use crate::domain::eligibility::Screen;
use crate::domain::participation::StatusName;
use crate::domain::ride::Ride;
use crate::domain::{PromotionId, UserId};

/// How many clients get their pre-offers in one import, shortly before they arrive.
const WAVE: usize = 100;

/// The most clients who watch their progress; with a large file the others only ride.
pub(super) const MAX_WATCHING: usize = 500;

/// Between two rides of clients without a challenge.
const STRANGERS_EVERY: Duration = Duration::from_millis(10);

/// Between two records that are not valid rides.
const POISON_EVERY: Duration = Duration::from_secs(3);

/// The pause after a failed call.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often a call without a response is tried.
const MAX_TRIES: u32 = 5;

/// How long after the reward's deadline a late client comes: late by any clock.
const TOO_LATE_BY: Duration = Duration::from_millis(300);

/// The most complaints that are kept; one is enough to fail the run.
const MAX_COMPLAINTS: usize = 100;

/// An offer and its promotion's id.
#[derive(Clone, Debug)]
pub(super) struct OfferedPromotion {
    pub(super) offer: Offer,
    pub(super) promotion_id: PromotionId,
}

/// All the clients of a run.
#[derive(Clone)]
pub(super) struct Clients {
    pub(super) api: Arc<Api>,
    pub(super) publisher: Publisher,
    offer: Arc<Offer>,
    second: Option<Arc<OfferedPromotion>>,
    over: CancellationToken,
    tasks: TaskTracker,
    watching: Arc<Semaphore>,
    failed_calls: Arc<AtomicU64>,
    complaints: Arc<Mutex<Vec<String>>>,
}

impl Clients {
    /// Clients who get `offer`, and then `second` if they did not earn the first reward.
    pub(super) fn new(
        api: Arc<Api>,
        publisher: Publisher,
        offer: Offer,
        second: Option<OfferedPromotion>,
    ) -> Self {
        Self {
            api,
            publisher,
            offer: Arc::new(offer),
            second: second.map(Arc::new),
            over: CancellationToken::new(),
            tasks: TaskTracker::new(),
            watching: Arc::new(Semaphore::new(MAX_WATCHING)),
            failed_calls: Arc::new(AtomicU64::new(0)),
            complaints: Arc::default(),
        }
    }

    /// Responses to clients that contradict the contract.
    pub(super) fn complaints(&self) -> Vec<String> {
        // The complaints are consistent at any moment, also after a panic.
        let complaints = self.complaints.lock();
        complaints.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Calls that failed or had no response.
    pub(super) fn failed_calls(&self) -> u64 {
        self.failed_calls.load(Ordering::Relaxed)
    }

    /// Stops all clients and waits until they have stopped.
    pub(super) async fn leave(&self) {
        self.over.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Simulated clients, with rides of clients without a challenge and invalid records.
    pub(super) fn simulate(&self, mut crowd: Crowd) {
        let clients = self.clone();
        let began = Monotonic::now();
        self.spawn(async move {
            loop {
                let wave = crowd.take(WAVE, &mut rand::rng());
                let Some(first) = wave.first() else { return };
                // They are prepared a little before the first of them comes.
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

    /// Runs until it ends or the clients are stopped.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let over = self.over.clone();
        self.tasks.spawn(async move {
            over.run_until_cancelled(work).await;
        });
    }

    /// Imports the pre-offers of a wave of clients, who then begin.
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
        let Some(started) = self.begin(client.user_id, &token).await else {
            return;
        };
        let promotion_id = started.promotion_id;
        self.ride(started, client.trips);
        let Ok(_slot) = self.watching.try_acquire() else {
            return;
        };
        let claim = client.claim;
        let is_rewarded = self
            .watch(client.user_id, &token, promotion_id, claim)
            .await;
        if let (false, Some(second), Some(trips)) =
            (is_rewarded, &self.second, client.second_chance)
        {
            self.try_again(client.user_id, &token, promotion_id, second, trips)
                .await;
        }
    }

    /// Acknowledges that the first promotion is over, and takes the second.
    async fn try_again(
        &self,
        user_id: UserId,
        token: &str,
        over: PromotionId,
        second: &OfferedPromotion,
        trips: Vec<Trip>,
    ) {
        let seen = async {
            let users = [user_id];
            self.persist(|| self.api.import(&second.offer, &users))
                .await?;
            let landing = self.persist(|| self.api.landing(token)).await?;
            if !matches!(
                landing.screen,
                Screen::ChallengeOver | Screen::RewardExpired
            ) {
                self.complain(format!(
                    "client {user_id} lands on {} when it is over",
                    landing.screen
                ));
            }
            self.persist(|| self.api.acknowledge(token, over)).await?;
            self.begin(user_id, token).await
        };
        let Some(started) = seen.await else { return };
        if started.promotion_id != second.promotion_id {
            self.complain(format!(
                "client {user_id} was offered promotion {} again",
                started.promotion_id
            ));
        }
        let promotion_id = started.promotion_id;
        self.ride(started, trips);
        let claim = Claim::After(Duration::ZERO);
        self.watch(user_id, token, promotion_id, claim).await;
    }

    /// Lands and starts the offered challenge.
    pub(super) async fn begin(&self, user_id: UserId, token: &str) -> Option<Participation> {
        let landing = self.persist(|| self.api.landing(token)).await?;
        let Some(promotion) = landing
            .promotion
            .filter(|_| landing.screen == Screen::PromoOffer)
        else {
            self.complain(format!(
                "client {user_id} lands on {} and not on an offer",
                landing.screen
            ));
            return None;
        };
        self.persist(|| self.api.start(token, promotion.promotion_id))
            .await
    }

    /// Makes the trips of a challenge that begins now.
    fn ride(&self, started: Participation, trips: Vec<Trip>) {
        let clients = self.clone();
        let start = Monotonic::now();
        self.spawn(async move {
            for trip in trips {
                sleep_until(start + trip.after).await;
                let ride = Ride {
                    completed_at: match trip.ends {
                        // Later than the response to the start, and so than the start.
                        Ends::InTime => clients.api.now().max(started.started_at),
                        Ends::BeforeTheStart(by) => {
                            started.started_at - TimeDelta::from_std(by).unwrap_or_default()
                        }
                        Ends::AfterTheDeadline => clients.api.now().max(started.challenge_deadline),
                    },
                    ..trip.ride.clone()
                };
                if trip.reported_after.is_zero() && trip.repeated_after.is_none() {
                    clients.publisher.ride(&ride).await;
                } else {
                    let late = clients.clone();
                    clients.spawn(async move { late.report(&trip, &ride).await });
                }
            }
        });
    }

    /// Publishes a ride, if planned late, or twice, or both.
    async fn report(&self, trip: &Trip, ride: &Ride) {
        sleep(trip.reported_after).await;
        self.publisher.ride(ride).await;
        if let Some(after) = trip.repeated_after {
            sleep(after).await;
            self.publisher.ride(ride).await;
        }
    }

    /// Follows the progress with long polls, as the app does, until a final status, and claims the
    /// reward when it is ready. Returns whether the client got it.
    pub(super) async fn watch(
        &self,
        user_id: UserId,
        token: &str,
        promotion_id: PromotionId,
        claim: Claim,
    ) -> bool {
        let mut tag = None;
        let mut has_claimed = false;
        loop {
            match self.api.progress(token, promotion_id, tag.as_deref()).await {
                Ok(Progress::Unchanged) => {}
                Ok(Progress::Changed(participation, new_tag)) => {
                    match participation.status {
                        StatusName::Completed if !has_claimed => {
                            self.claim(user_id, token, &participation, claim).await;
                            has_claimed = true;
                        }
                        StatusName::Rewarded => return true,
                        StatusName::Expired => return false,
                        StatusName::InProgress | StatusName::Completed => {}
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

    /// Accepts the reward, or comes too late for it.
    async fn claim(&self, user_id: UserId, token: &str, completed: &Participation, claim: Claim) {
        let promotion_id = completed.promotion_id;
        let accept = || self.persist(|| self.api.accept_reward(token, promotion_id));
        match claim {
            Claim::After(reading) | Claim::TwiceAfter(reading) => {
                self.persist(|| self.api.get_reward(token, promotion_id))
                    .await;
                sleep(reading).await;
            }
            Claim::TooLate => {
                let left = completed.reward_deadline.map(|at| at - self.api.now());
                let left = left.and_then(|left| left.to_std().ok());
                sleep(left.unwrap_or_default() + TOO_LATE_BY).await;
            }
        }
        let taps: [Option<Option<AcceptedLoan>>; 2] = match claim {
            Claim::TwiceAfter(_) => tokio::join!(accept(), accept()).into(),
            Claim::After(_) | Claim::TooLate => [accept().await, None],
        };
        match taps {
            [Some(one), Some(other)] if one != other => self.complain(format!(
                "client {user_id} was told of two outcomes at once: {one:?} and {other:?}"
            )),
            [Some(Some(accepted)), _] if claim == Claim::TooLate => self.complain(format!(
                "client {user_id} was given a reward after its deadline: {accepted:?}"
            )),
            _ => {}
        }
    }

    /// Calls until there is a response, a few times at most.
    pub(super) async fn persist<T, F>(&self, call: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, CallError>>,
    {
        for _ in 0..MAX_TRIES {
            match call().await {
                Ok(answer) => return Some(answer),
                Err(error) => self.failed(&error),
            }
            sleep(RETRY_AFTER).await;
        }
        None
    }

    pub(super) fn complain(&self, complaint: String) {
        let complaints = self.complaints.lock();
        let mut complaints = complaints.unwrap_or_else(PoisonError::into_inner);
        if complaints.len() < MAX_COMPLAINTS {
            complaints.push(complaint);
        }
    }

    fn failed(&self, error: &CallError) {
        if !self.over.is_cancelled() {
            self.failed_calls.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(%error, "a call failed");
        }
    }
}
