//! The response of the search for one ride: what is known of it, and what cannot be known.

use serde::Serialize;
use uuid::Uuid;

use super::quarantine::QuarantinedView;
use super::receipt::Receipt;
use crate::domain::UserId;

/// A ride of a client.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub struct RideSearch {
    /// The ride.
    pub ride_id: Uuid,
    /// The client.
    pub user_id: i64,
    /// Its receipts, the newest first: one for each participation that judged it.
    pub receipts: Vec<FoundReceipt>,
    /// The client's quarantined records that name it, newest first, of their newest 200.
    pub quarantine: Vec<QuarantinedView>,
    /// In words: what is known of the ride, and what cannot be known.
    pub explanation: String,
}

/// A receipt and its promotion.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub struct FoundReceipt {
    /// The promotion.
    pub promotion_id: i64,
    /// The receipt.
    #[serde(flatten)]
    pub receipt: Receipt,
}

impl RideSearch {
    /// The result of a search. `has_participated` says whether the client ever started a challenge.
    pub fn new(
        user_id: UserId,
        ride_id: Uuid,
        receipts: Vec<FoundReceipt>,
        quarantine: Vec<QuarantinedView>,
        has_participated: bool,
    ) -> Self {
        let mut known: Vec<String> = receipts
            .iter()
            .map(|found| {
                let (promotion_id, verdict) = (found.promotion_id, found.receipt.verdict);
                format!("Promotion {promotion_id} judged it: {verdict}.")
            })
            .collect();
        known.extend(quarantine.iter().map(|record| {
            let (id, status, detail) = (record.quarantine_id, record.status, &record.detail);
            format!("The quarantined record {id} ({status}) names it: {detail}.")
        }));
        if known.is_empty() {
            let why = if has_participated {
                "Nothing is recorded of this ride for this client. Either it never reached this service; or it \
                 was applied while the client had no challenge in progress, which leaves no receipt; or its \
                 record named another client; or its receipt was dropped at the end of its retention. Which \
                 of these it was cannot be known here."
            } else {
                "Nothing is recorded of this ride, and this client never started a challenge, so no ride of \
                 theirs left a receipt. Whether it reached this service cannot be known here."
            };
            known.push(why.to_owned());
        }
        Self {
            ride_id,
            user_id,
            receipts,
            quarantine,
            explanation: known.join(" "),
        }
    }
}
