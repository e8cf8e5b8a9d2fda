//! What else a real service has: promotions in every state, and a second country. It is there for the
//! operator who looks around in the console.

use chrono::TimeDelta;
use serde_json::json;

use super::api::{Api, CallError};
use super::clients::Clients;
use super::plan::Offer;
use crate::domain::UserId;
use crate::wire::format_instant;

/// How many may take part in the promotion whose budget is nearly used up.
const MAX_PARTICIPATIONS: i64 = 10;

/// The clients who do; no file of rides has such numbers.
const PARTICIPANTS: std::ops::Range<UserId> = 8_000_000..8_000_009;

/// Creates the promotions that nobody starts: one that opens in three days, one that is over.
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
}
