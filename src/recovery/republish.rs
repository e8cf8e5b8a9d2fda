//! `republish`: publishes the present state of participations again, for subscribers that lost
//! their state. It runs while everything else runs.

use std::time::{Duration, Instant as Monotonic};

use anyhow::bail;
use tokio_util::sync::CancellationToken;

use crate::progress::Progress;
use crate::store::Store;
use crate::store::audit::Author;
use crate::store::republish::RepublishSelection;

/// Participations per transaction.
const PAGE: i64 = 500;

/// It pauses while more events than this wait to be published, so that new changes do not wait
/// behind a large number of repeats.
const MAX_WAITING: i64 = 10_000;

/// How often the outbox is checked during a pause.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// After a pause of this length, it is assumed that no relay publishes.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(300);

/// The result of a republication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepublishSummary {
    /// Participations put into the outbox.
    pub published: u64,
    /// How many of them got a new version.
    pub lifted: u64,
}

/// Puts the present state of the selected participations into the outbox, in pages. If interrupted,
/// it fails; the events that are already in the outbox are published.
pub async fn republish(
    store: &Store,
    selection: RepublishSelection,
    author: &Author,
    stop: &CancellationToken,
    progress: &mut Progress,
) -> anyhow::Result<RepublishSummary> {
    let audit_id = store.begin_republish(selection, author).await?;
    let mut summary = RepublishSummary::default();
    let mut after = None;
    loop {
        wait_for_the_relay(store, stop).await?;
        let page = store
            .republish_page(selection, after, PAGE, audit_id, summary.published)
            .await?;
        summary.published += page.published;
        summary.lifted += page.lifted;
        progress.set(summary.published);
        if page.last.is_none() {
            return Ok(summary);
        }
        after = page.last;
        if stop.is_cancelled() {
            bail!(
                "interrupted after {} participations; those are published",
                summary.published
            );
        }
    }
}

async fn wait_for_the_relay(store: &Store, stop: &CancellationToken) -> anyhow::Result<()> {
    let began = Monotonic::now();
    while store.outbox_exceeds(MAX_WAITING).await? {
        if began.elapsed() > PAUSE_TIMEOUT {
            bail!(
                "more than {MAX_WAITING} events have waited to be published for {PAUSE_TIMEOUT:?}: is a process with the role relay running?"
            );
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => bail!("interrupted while events waited to be published"),
        }
    }
    Ok(())
}
