//! The end of a run: every participation is recounted from its receipts.

use super::{DemoOutcome, RunResult, Stage};
use crate::store::Store;

/// The most disagreements that are printed.
const MAX_PRINTED: usize = 20;

impl Stage {
    /// Compares every participation with its receipts, with what accepting created, and with the
    /// published events.
    pub(super) async fn recount(&self, played: RunResult) -> anyhow::Result<DemoOutcome> {
        let store = Store::new(self.config.database.url.expose(), 2)?;
        let recount = store.recount().await?;
        store.close().await;
        let (mut amiss, events) = played.audience.compare(&recount.versions).await;
        amiss.extend(played.complaints);
        amiss.extend(recount.disagreements.iter().map(|disagreement| {
            format!(
                "client {}, promotion {}: {}",
                disagreement.user_id, disagreement.promotion_id, disagreement.what
            )
        }));
        let counts = played.publisher.counts();
        // Not a disagreement: a client repeats a failed call.
        for (count, what) in [
            (counts.lost(), "rides were rejected by Kafka"),
            (played.failed_calls, "calls of clients failed"),
        ] {
            if count > 0 {
                self.screen.say(&format!("Note: {count} {what}."));
            }
        }
        for (count, what) in [
            (
                recount.unpublished.unsigned_abs(),
                "events were not published",
            ),
            (
                u64::from(!counts.is_drained()),
                "topic of rides is not read to its end",
            ),
            (
                u64::from(recount.participations == 0),
                "run without any participation",
            ),
        ] {
            if count > 0 {
                amiss.push(format!("{count} {what}"));
            }
        }
        self.screen.say(&format!(
            "Recount: {} participations ({} rewarded, {} challenge not completed, {} reward not claimed), {} receipts of \
             which {} counted, {events} events",
            recount.participations,
            recount.rewarded,
            recount.not_completed,
            recount.not_claimed,
            recount.receipts,
            recount.counted
        ));
        if amiss.is_empty() {
            self.screen
                .say("Every participation agrees with its receipts, its loan and its events.");
            return Ok(DemoOutcome::Agreed);
        }
        for what in amiss.iter().take(MAX_PRINTED) {
            self.screen.say(&format!("  {what}"));
        }
        self.screen.say(&format!("{} disagreements.", amiss.len()));
        Ok(DemoOutcome::Disagreed)
    }
}
