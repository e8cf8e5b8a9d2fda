//! The rate limit of each client.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use prometheus::IntCounter;

use super::problem::{Problem, Result};
use crate::config::ApiConfig;
use crate::domain::UserId;

/// How often clients with a full bucket are forgotten. So memory is needed only for clients who called
/// within the last seconds.
pub const FORGET_EVERY: Duration = Duration::from_secs(5);

/// One token bucket per client, which refills over time.
#[derive(Debug)]
pub struct RateLimit {
    /// `None` means no limit.
    limiter: Option<DefaultKeyedRateLimiter<UserId>>,
    clock: DefaultClock,
    refused: IntCounter,
}

impl RateLimit {
    /// `refused` counts the requests over the limit.
    pub fn new(config: &ApiConfig, refused: IntCounter) -> Self {
        let quota = NonZeroU32::new(config.rate_limit_per_second).map(|rate| {
            let burst = NonZeroU32::new(config.rate_limit_burst).unwrap_or(NonZeroU32::MIN);
            Quota::per_second(rate).allow_burst(burst)
        });
        Self {
            limiter: quota.map(RateLimiter::keyed),
            clock: DefaultClock::default(),
            refused,
        }
    }

    /// Takes one request from the client's bucket.
    pub fn check(&self, user_id: UserId) -> Result<()> {
        let Some(limiter) = &self.limiter else {
            return Ok(());
        };
        limiter.check_key(&user_id).map_err(|not_until| {
            self.refused.inc();
            Problem::too_many_requests(not_until.wait_time_from(self.clock.now()))
        })
    }

    /// Forgets the clients whose bucket is full.
    pub fn forget_quiet(&self) {
        if let Some(limiter) = &self.limiter {
            limiter.retain_recent();
            limiter.shrink_to_fit();
        }
    }
}
