//! Finds what is known of one ride of a client.

use uuid::Uuid;

use super::quarantine::{QuarantineRecord, quarantined_of};
use super::state::receipt_of;
use super::{Result, Store};
use crate::domain::UserId;
use crate::domain::promotion::Verdict;
use crate::domain::ride::RideSource;
use crate::wire::ride_search::{FoundReceipt, RideSearch};

/// How many quarantined records of the client are searched, the newest.
const MAX_SEARCHED: i64 = 200;

impl Store {
    /// The receipts of a ride of this client, and the client's quarantined records that name it. It uses the
    /// existing keys; an index on the ride's id alone would have to be written with every judged ride.
    pub async fn search_ride(&self, user_id: UserId, ride_id: Uuid) -> Result<RideSearch> {
        self.run_snapshot("search_ride", move |connection| {
            Box::pin(async move {
                let participations = sqlx::query_scalar!(
                    r#"select count(*) as "participations!" from promotion_user where user_id = $1"#,
                    user_id
                )
                .fetch_one(&mut *connection)
                .await?;
                let rows = sqlx::query!(
                    r#"select p.promotion_id, r.ride_id, r.completed_at, r.amount_cents, r.currency_code,
                              r.verdict as "verdict: Verdict", r.details, r.recorded_at, r.distance_m, r.reversed_at,
                              r.source as "source: RideSource", r.version
                         from promotion_user p
                        cross join lateral (
                              select * from ride_receipt r
                               where r.user_id = p.user_id and r.promotion_id = p.promotion_id
                                 and r.ride_id = $2 and r.receipts_month = p.receipts_month) r
                        where p.user_id = $1
                        order by r.recorded_at desc, p.promotion_id desc"#,
                    user_id,
                    ride_id
                )
                .fetch_all(&mut *connection)
                .await?;
                let receipts = rows.into_iter().map(|row| FoundReceipt {
                    promotion_id: row.promotion_id,
                    receipt: receipt_of!(row)
                    .view(),
                });
                let receipts = receipts.collect();
                let quarantine = quarantined_of(connection, user_id, MAX_SEARCHED).await?;
                let text = ride_id.to_string();
                let quarantine = quarantine
                    .iter()
                    .filter(|record| names(record, &text))
                    .map(QuarantineRecord::view)
                    .collect();
                Ok(RideSearch::new(user_id, ride_id, receipts, quarantine, participations > 0))
            })
        })
        .await
    }
}

/// Whether a record's bytes contain the ride's id, in lower or upper case.
fn names(record: &QuarantineRecord, ride_id: &str) -> bool {
    let value = record.value.to_ascii_lowercase();
    value
        .windows(ride_id.len())
        .any(|window| window == ride_id.as_bytes())
}
