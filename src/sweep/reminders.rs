//! Records reminders before deadlines. The loop is separate because it needs only Postgres' clock.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{MAX_BATCHES, Sweep, in_time, told};

impl Sweep {
    /// Puts due reminders into the outbox until stopped. It needs Postgres, not Kafka.
    pub async fn remind(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = self.tick();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            let reminded = told(self.remind_all(&stop).await);
            *self.failing_of(&self.reminders_failing) = reminded.err();
        }
    }

    /// Batch by batch, until none is due or the round had its most batches.
    async fn remind_all(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let limit = i64::try_from(self.limits.batch_max)?;
        let now = in_time(async { Ok(self.store.now().await?) }).await?;
        for _ in 0..MAX_BATCHES {
            if stop.is_cancelled() {
                break;
            }
            let reminded = in_time(async { Ok(self.store.remind(now, limit).await?) }).await?;
            if reminded.recorded > 0 {
                tracing::debug!(count = reminded.recorded, "reminders recorded");
                self.outbox_wake.send_replace(());
            }
            if reminded.looked_at < self.limits.batch_max as u64 {
                break;
            }
        }
        Ok(())
    }
}
