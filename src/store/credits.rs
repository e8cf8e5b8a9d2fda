//! Rides that the platform lost, credited by operators (contract, "A missing ride").

use serde_json::json;

use super::audit::{self, Author};
use super::quarantine::receipt_json;
use super::rides::{AppliedOne, apply_one};
use super::{Result, Store};
use crate::domain::UserId;
use crate::domain::ride::RideSource;
use crate::wire::ride_completed::{Fault, decode_ride, encode};

/// The result of crediting a ride.
#[derive(Clone, Debug)]
pub enum CreditOutcome {
    /// It was judged now; or it, or its record from the topic, had been judged before.
    Judged(AppliedOne),
    /// It is not a valid ride. Nothing was changed.
    Bad(Vec<Fault>),
    /// It is a ride of another client. Nothing was changed.
    OtherClient,
}

impl Store {
    /// Judges a ride of this client as if it came from the topic now, and records it in the audit, in one
    /// transaction. `ride` is the value of a record. If the ride's own record arrives too, before or after,
    /// the receipt's key makes them one ride.
    /// A dry run changes nothing.
    pub async fn credit_ride(
        &self,
        user_id: UserId,
        ride: Vec<u8>,
        reason: &str,
        author: &Author,
        only_tried: bool,
    ) -> Result<CreditOutcome> {
        let (reason, author) = (reason.to_owned(), author.clone());
        self.run_or_try_tx("credit_ride", only_tried, move |connection| {
            let (ride, reason, author) = (ride.clone(), reason.clone(), author.clone());
            Box::pin(async move {
                let now = sqlx::query_scalar!(r#"select clock_ms() as "now!""#)
                    .fetch_one(&mut *connection)
                    .await?;
                let ride = match decode_ride(&ride, now) {
                    Ok(ride) => ride,
                    Err(rejected) => return Ok(CreditOutcome::Bad(rejected.faults)),
                };
                if ride.user_id != user_id {
                    return Ok(CreditOutcome::OtherClient);
                }
                let applied = apply_one(connection, &ride, RideSource::Operator, None).await?;
                let ride: serde_json::Value =
                    serde_json::from_slice(&encode(&ride)).unwrap_or_default();
                let after = json!({ "user_id": user_id, "ride": ride, "reason": reason, "outcome": applied.outcome(),
                    "receipt": applied.receipt().map(receipt_json) });
                audit::record(connection, &author, None, Some(after)).await?;
                Ok(CreditOutcome::Judged(applied))
            })
        })
        .await
    }
}
