//! Reads the progress that waiting clients follow as soon as it is committed. The status topic brings the
//! same later, after two Kafka transactions at most; so if this fails, clients only wait longer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::Model;
use crate::backoff::Backoff;
use crate::domain::ParticipationKey;
use crate::store::progress_feed::{ProgressFeed, Progressed};
use crate::store::{self, Store};
use crate::telemetry::traces;

/// The timeout of reading the participations of one notification.
const READ_TIMEOUT: Duration = Duration::from_secs(3);

/// The first and the longest pause between two attempts to open a session.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// Tells the model of progress, as long as it is polled.
pub async fn listen(store: Store, model: Arc<Model>) {
    let mut backoff = BACKOFF;
    loop {
        let Err(error) = follow(&store, &model, &mut backoff).await;
        tracing::debug!(%error, "progress is not heard from postgres; it comes by the status topic");
        sleep(backoff.pause()).await;
    }
}

async fn follow(store: &Store, model: &Model, backoff: &mut Backoff) -> store::Result<Infallible> {
    let mut feed = ProgressFeed::connect(store).await?;
    loop {
        let mut progressed = feed.next().await?;
        backoff.reset();
        progressed.retain(|progressed| model.is_watched(&progressed.key));
        if progressed.is_empty() {
            continue;
        }
        let keys: Vec<ParticipationKey> = progressed.iter().map(|one| one.key).collect();
        let Ok(states) = timeout(READ_TIMEOUT, store.states(&keys)).await else {
            continue;
        };
        for state in states? {
            let key = (state.user_id, state.promotion_id);
            let cause = progressed.iter().find(|one| one.key == key);
            let cause = cause.and_then(|Progressed { traceparent, .. }| traceparent.as_deref());
            model.apply(state, cause.and_then(traces::recorded));
        }
    }
}
