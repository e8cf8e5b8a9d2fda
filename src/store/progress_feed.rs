//! Progress told as it is committed: ingest sends a notification with its transaction, and the API reads the
//! participations that its waiting clients follow. The status topic says the same somewhat later, and says
//! it always; a notification may be lost.

use std::fmt::Write as _;
use std::time::Duration;

use sqlx::PgConnection;
use sqlx::postgres::{PgListener, PgPoolOptions};
use sqlx::types::Json;

use super::state::state_of;
use super::{Result, Store, StoreError, timed_out, within};
use crate::domain::goals::FurtherGoals;
use crate::domain::participation::{ExpiredReason, StatusName};
use crate::domain::reward::Reward;
use crate::domain::{ParticipationKey, PromotionId, UserId};
use crate::postgres::{self, SESSION_NAME, Settings};
use crate::wire::participation::State;

const CHANNEL: &str = "ride_promo_progress";

/// A batch that changes more participations sends no notification: rides are being caught up with, and the
/// clients of a notification are read one query at a time.
pub(super) const MAX_KEYS: usize = 200;

/// The longest payload, in bytes, that Postgres takes, less one.
const MAX_PAYLOAD: usize = 7_999;

/// How long a session without notifications is believed in before it is tested.
const QUIET: Duration = Duration::from_secs(30);

/// The timeout of opening a session, and of its test.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(5);

/// A participation that progressed, and the trace of that.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progressed {
    /// Whose participation, and in which promotion.
    pub key: ParticipationKey,
    /// The W3C `traceparent` that its status change has.
    pub traceparent: Option<String>,
}

/// Tells the listeners of these participations, once the caller's transaction is committed.
pub(super) async fn notify(connection: &mut PgConnection, progressed: &[Progressed]) -> Result<()> {
    if progressed.is_empty() || progressed.len() > MAX_KEYS {
        return Ok(());
    }
    sqlx::query!("select pg_notify($1, $2)", CHANNEL, payload(progressed))
        .fetch_one(connection)
        .await?;
    Ok(())
}

/// `48151:1`, or `48151:1:00-…-01` with a trace, with spaces between them; as many as fit.
fn payload(progressed: &[Progressed]) -> String {
    let mut payload = String::new();
    for Progressed {
        key: (user_id, promotion_id),
        traceparent,
    } in progressed
    {
        let length = payload.len();
        let space = if payload.is_empty() { "" } else { " " };
        let trace = traceparent.as_deref();
        let colon = if trace.is_some() { ":" } else { "" };
        // Writing to a string cannot fail.
        let _ = write!(
            payload,
            "{space}{user_id}:{promotion_id}{colon}{}",
            trace.unwrap_or_default()
        );
        if payload.len() > MAX_PAYLOAD {
            payload.truncate(length);
            break;
        }
    }
    payload
}

/// What a payload says. What is not of this form is left out: the topic tells it.
fn parse(payload: &str) -> Vec<Progressed> {
    let one = |text: &str| {
        let mut parts = text.splitn(3, ':');
        Some(Progressed {
            key: (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?),
            traceparent: parts.next().map(str::to_owned),
        })
    };
    payload.split(' ').filter_map(one).collect()
}

/// A database session that hears of progress. After its first error it must be dropped; what was committed
/// in between is not heard.
#[derive(Debug)]
pub struct ProgressFeed {
    listener: PgListener,
}

impl ProgressFeed {
    /// Opens a session that hears of the progress from now on.
    pub async fn connect(store: &Store) -> Result<Self> {
        // sqlx opens listeners from a pool only.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .max_lifetime(None)
            .idle_timeout(None)
            .after_connect(|connection, _| {
                Box::pin(async { postgres::set_up(connection, &Settings::new("")).await })
            })
            .connect_lazy_with(
                store
                    .options()
                    .application_name(&format!("{SESSION_NAME} progress")),
            );
        within(RESPONSE_TIMEOUT, async {
            let mut listener = PgListener::connect_with(&pool).await?;
            listener.eager_reconnect(false);
            listener.listen(CHANNEL).await?;
            Ok::<_, StoreError>(Self { listener })
        })
        .await
    }

    /// Waits for the next notification.
    pub async fn next(&mut self) -> Result<Vec<Progressed>> {
        loop {
            match tokio::time::timeout(QUIET, self.listener.try_recv()).await {
                Ok(Ok(Some(notification))) => return Ok(parse(notification.payload())),
                // The connection was lost.
                Ok(Ok(None)) => return Err(timed_out()),
                Ok(Err(error)) => return Err(error.into()),
                Err(_quiet) => {
                    // A connection to a server that has gone without a word is quiet, too.
                    let test = sqlx::query("select").execute(&mut self.listener);
                    within(RESPONSE_TIMEOUT, async { Ok::<_, StoreError>(test.await?) }).await?;
                }
            }
        }
    }
}

impl Store {
    /// The present states of these participations, in no order.
    pub async fn states(&self, keys: &[ParticipationKey]) -> Result<Vec<State>> {
        let (users, promotions): (Vec<UserId>, Vec<PromotionId>) = keys.iter().copied().unzip();
        // A probe of the key for each, whatever the planner thinks of the table.
        let rows = sqlx::query!(
            r#"select p.user_id, p.promotion_id, m.promotion_key, p.status as "status: StatusName", p.version,
                      p.rides_completed, p.rides_target, p.further_goals as "further_goals: Json<FurtherGoals>",
                      p.started_at, p.challenge_deadline, p.completed_at, p.reward_deadline, p.rewarded_at, p.expired_at,
                      p.expired_reason as "expired_reason: ExpiredReason", p.reward as "reward: Json<Reward>"
                 from unnest($1::bigint[], $2::bigint[]) v (user_id, promotion_id)
                cross join lateral (
                      select * from promotion_user p
                       where p.user_id = v.user_id and p.promotion_id = v.promotion_id
                      offset 0) p
                 join promotion m on m.promotion_id = p.promotion_id"#,
            &users,
            &promotions
        )
        .fetch_all(&mut *self.acquire().await?)
        .await?;
        rows.into_iter().map(|row| state_of!(row)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progressed(user_id: UserId, traceparent: Option<&str>) -> Progressed {
        Progressed {
            key: (user_id, 1),
            traceparent: traceparent.map(str::to_owned),
        }
    }

    #[test]
    fn a_payload_says_what_was_put_into_it() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let all = [progressed(48_151, None), progressed(48_152, Some(trace))];
        assert_eq!(payload(&all), format!("48151:1 48152:1:{trace}"));
        assert_eq!(parse(&payload(&all)), all);
        assert_eq!(parse("48151 a:1 :2 48153:1"), [progressed(48_153, None)]);
    }

    #[test]
    fn a_payload_is_no_longer_than_postgres_takes() {
        let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let all = vec![progressed(i64::MAX, Some(trace)); MAX_KEYS];
        let payload = payload(&all);
        assert!(payload.len() <= MAX_PAYLOAD, "{}", payload.len());
        let said = parse(&payload);
        assert_eq!(said, all[..said.len()]);
        assert!(said.len() > 90, "{}", said.len());
    }
}
