//! The guests: clients whose tokens are printed, for the person who runs the demo.
//!
//! One guest waits for that person to go through the whole journey. The others show states for
//! which a person would have to wait: rides that did not count, an expired reward, an application.

use std::time::Duration;

use tokio::time::sleep;

use super::api::CallError;
use super::clients::{Clients, OfferedPromotion};
use super::plan::{self, Claim};
use crate::domain::UserId;
use crate::domain::ride::Ride;

/// The number of the first guest, if no file uses it, else the next free one.
const FIRST_GUEST: UserId = 48_151;

/// Between two rides of the guest who is played by hand: slow enough to see each ride arrive.
const RIDE_EVERY: Duration = Duration::from_secs(5);

/// The rides of the guest with rides that did not count: two that count, two too cheap, one in
/// another currency.
const MIXED_RIDES: [GuestRide; 5] = [
    GuestRide::TooCheap,
    GuestRide::Counts,
    GuestRide::OtherCurrency,
    GuestRide::TooCheap,
    GuestRide::Counts,
];

#[derive(Clone, Copy)]
enum GuestRide {
    Counts,
    TooCheap,
    OtherCurrency,
}

/// The guests' numbers, by their purpose.
#[derive(Clone, Copy, Debug)]
pub(super) struct Guests {
    /// For the whole journey, by hand.
    pub(super) journey: UserId,
    /// In progress, with rides that did not count.
    pub(super) uncounted: UserId,
    /// Completed, and did not claim in time.
    pub(super) expired: UserId,
    /// Accepted the reward.
    pub(super) rewarded: UserId,
}

impl Guests {
    /// Numbers that are not among `riders`.
    pub(super) fn beside(riders: &[UserId]) -> Self {
        let mut free = (FIRST_GUEST..).filter(|user_id| !riders.contains(user_id));
        // The range is longer than any file.
        let mut next = || free.next().unwrap_or(FIRST_GUEST);
        Self {
            journey: next(),
            uncounted: next(),
            expired: next(),
            rewarded: next(),
        }
    }
}

impl Clients {
    /// Imports the guests' pre-offers and starts their journeys. The offer `slow` leaves time to
    /// read the screens, `quick` is over in seconds.
    pub(super) async fn invite(
        &self,
        guests: Guests,
        slow: &OfferedPromotion,
        quick: &OfferedPromotion,
    ) -> Result<(), CallError> {
        let waiting = [guests.journey, guests.uncounted];
        self.api.import(&slow.offer, &waiting).await?;
        let gone = [guests.expired, guests.rewarded];
        self.api.import(&quick.offer, &gone).await?;

        let (clients, offer) = (self.clone(), slow.offer.clone());
        self.spawn(async move {
            let mut tick = tokio::time::interval(RIDE_EVERY);
            loop {
                tick.tick().await;
                let ride = plan::good_ride(guests.journey, &offer);
                clients.publish_now(ride).await;
            }
        });
        let (clients, offered) = (self.clone(), slow.clone());
        self.spawn(async move { clients.ride_mixed(guests.uncounted, &offered).await });
        for (user_id, claim) in [
            (guests.expired, Claim::TooLate),
            (guests.rewarded, Claim::After(Duration::ZERO)),
        ] {
            let (clients, offered) = (self.clone(), quick.clone());
            self.spawn(async move { clients.ride_and_claim(user_id, &offered, claim).await });
        }
        Ok(())
    }

    /// Starts, and makes rides of which some do not count.
    async fn ride_mixed(&self, user_id: UserId, offered: &OfferedPromotion) {
        if self.started(user_id).await.is_none() {
            return;
        }
        for kind in MIXED_RIDES {
            let ride = plan::good_ride(user_id, &offered.offer);
            let ride = match kind {
                GuestRide::Counts => ride,
                GuestRide::TooCheap => plan::cheap_ride(user_id, &offered.offer),
                GuestRide::OtherCurrency => {
                    let other = if ride.currency_code.as_str() == "USD" {
                        "MXN"
                    } else {
                        "USD"
                    };
                    let currency_code = other.parse().unwrap_or(ride.currency_code);
                    Ride {
                        currency_code,
                        ..ride
                    }
                }
            };
            self.publish_now(ride).await;
        }
    }

    /// Starts, completes the challenge, and claims the reward or comes too late.
    async fn ride_and_claim(&self, user_id: UserId, offered: &OfferedPromotion, claim: Claim) {
        let Some((token, promotion_id)) = self.started(user_id).await else {
            return;
        };
        for _ in 0..offered.offer.target_rides {
            self.publish_now(plan::good_ride(user_id, &offered.offer))
                .await;
        }
        let is_rewarded = self.watch(user_id, &token, promotion_id, claim).await;
        if is_rewarded != matches!(claim, Claim::After(_)) {
            // On a very busy machine the rides may come too late. That is not a disagreement.
            tracing::warn!(user_id, "a guest's journey ended otherwise than planned");
        }
    }

    /// Starts what the landing offers.
    pub(super) async fn started(&self, user_id: UserId) -> Option<(String, i64)> {
        let token = self.api.token_of(user_id).ok()?;
        let started = self.begin(user_id, &token).await?;
        Some((token, started.promotion_id))
    }

    /// Publishes a ride that ends now.
    pub(super) async fn publish_now(&self, mut ride: Ride) {
        // After the start, also if both are in the same millisecond.
        sleep(Duration::from_millis(2)).await;
        ride.completed_at = self.api.now();
        self.publisher.ride(&ride).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_not_among_the_riders() {
        let guests = Guests::beside(&[48_151, 48_153, 7]);
        let numbers = [
            guests.journey,
            guests.uncounted,
            guests.expired,
            guests.rewarded,
        ];
        assert_eq!(numbers, [48_152, 48_154, 48_155, 48_156]);
    }
}
