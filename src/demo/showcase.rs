//! What else a real service has: promotions in every state, one of several goals, a second country, an
//! outage. It is there for the operator who looks around in the console.

use chrono::TimeDelta;
use serde_json::json;

use super::api::{Api, CallError};
use super::clients::Clients;
use super::plan::{self, Offer};
use crate::config::DatabaseConfig;
use crate::domain::UserId;
use crate::domain::hours::Weekday;
use crate::domain::ride::Ride;
use crate::store::Store;
use crate::wire::format_instant;

/// How many may take part in the promotion whose budget is nearly used up.
const MAX_PARTICIPATIONS: i64 = 10;

/// The clients who do; no file of rides has such numbers.
const PARTICIPANTS: std::ops::Range<UserId> = 8_000_000..8_000_009;

/// The clients of the promotion with several goals; no file of rides has such numbers.
const WORK_DAY_CLIENTS: std::ops::Range<UserId> = 8_000_100..8_000_106;

/// How far the rides of those clients go, in metres, one after another; of at least 1,000 they count.
const DISTANCES_M: [i64; 4] = [4_200, 650, 8_900, 2_300];

/// The outage, in minutes before now: from, to.
const OUTAGE: (i64, i64) = (150, 127);

/// Notes an outage of this morning. The demo has no time for a real one, so it is written as the service
/// would have.
pub(super) async fn note_an_outage(api: &Api, database: &DatabaseConfig) -> anyhow::Result<()> {
    let store = Store::new(database.url.expose(), 1)?;
    let before = |minutes: i64| api.now() - TimeDelta::minutes(minutes);
    let noted = store.note_outage(before(OUTAGE.0), before(OUTAGE.1)).await;
    store.close().await;
    Ok(noted?)
}

/// Creates the promotions without participants: one that opens in three days, one that is over.
pub(super) async fn set_up(api: &Api) -> Result<(), CallError> {
    let now = api.now();
    let at = |days: i64| format_instant(now + TimeDelta::days(days));
    api.enable("BR").await?;
    for (key, opens, closes) in [("br-next-month", 3, 33), ("br-last-month", -40, -10)] {
        let promotion = json!({
            "promotion_key": key,
            "title": "15 viagens e um empréstimo",
            "conditions": {
                "target_rides": 15, "min_amount_cents": 1_500, "currency_code": "BRL",
                "challenge_period": "P21D", "claim_period": "P7D", "country_codes": ["BR"],
            },
            "opens_at": at(opens),
            "closes_at": at(closes),
        });
        api.create_promotion(&promotion).await?;
    }
    Ok(())
}

impl Clients {
    /// Creates a promotion with a small budget, and has as many clients start it as nearly use it up.
    pub(super) async fn use_up_a_budget(&self, offer: &Offer) -> Result<(), CallError> {
        let scarce = Offer {
            promotion_key: "demo-first-ten".to_owned(),
            ..offer.clone()
        };
        let mut conditions = scarce.conditions.clone();
        conditions["challenge_period"] = json!("P14D");
        let promotion = json!({
            "promotion_key": scarce.promotion_key,
            "title": "For the first ten",
            "conditions": conditions,
            "budget": { "max_participations": MAX_PARTICIPATIONS },
        });
        self.api.create_promotion(&promotion).await?;
        let participants: Vec<UserId> = PARTICIPANTS.collect();
        self.api.import(&scarce, &participants).await?;
        let clients = self.clone();
        self.spawn(async move {
            for user_id in participants {
                clients.started(user_id).await;
            }
        });
        Ok(())
    }

    /// Creates a promotion with goals of rides, days and fares, with hours, a shortest distance and
    /// reminders; a few clients start it and ride.
    pub(super) async fn ride_on_work_days(&self, offer: &Offer) -> Result<(), CallError> {
        let offer = Offer {
            promotion_key: "demo-work-days".to_owned(),
            ..offer.clone()
        };
        let (work_days, weekend) = Weekday::ALL.split_at(5);
        let promotion = json!({
            "promotion_key": offer.promotion_key,
            "title": "10 rides on 4 days",
            "conditions": {
                "target_rides": 10, "target_days": 4, "target_amount_cents": 80_000,
                "min_amount_cents": offer.conditions["min_amount_cents"], "min_distance_m": 1_000,
                "currency_code": offer.currency_code, "challenge_period": "P14D", "claim_period": "P7D",
                "hours": [
                    { "days": work_days, "from": "05:00", "to": "23:00" },
                    { "days": weekend, "from": "00:00", "to": "24:00" },
                ],
                "day_boundary_timezone": "America/Mexico_City",
                "reminders": { "challenge": ["P3D", "P1D"], "reward": ["P2D", "PT6H"] },
            },
        });
        self.api.create_promotion(&promotion).await?;
        let users: Vec<UserId> = WORK_DAY_CLIENTS.collect();
        self.api.import(&offer, &users).await?;
        let clients = self.clone();
        self.spawn(async move {
            for user_id in users {
                if clients.started(user_id).await.is_none() {
                    continue;
                }
                for distance_m in DISTANCES_M {
                    let ride = Ride {
                        distance_m: Some(distance_m),
                        ..plan::good_ride(user_id, &offer)
                    };
                    clients.publish_now(ride).await;
                }
            }
        });
        Ok(())
    }
}
