//! Applies running extensions to the participations that they cover.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{Sweep, in_time};
use crate::causes;
use crate::store::extensions::ExtensionStep;

impl Sweep {
    /// Applies extensions until stopped. It needs Postgres, not Kafka.
    pub async fn extend_deadlines(self: Arc<Self>, stop: CancellationToken) -> anyhow::Result<()> {
        let mut tick = self.tick();
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = stop.cancelled() => return Ok(()),
            }
            if let Err(error) = self.extend_all(&stop).await {
                tracing::warn!(
                    error = causes::in_words(&error),
                    "a step of an extension failed, trying again"
                );
            }
            if let Err(error) = self.count_extensions().await {
                tracing::debug!(
                    error = causes::in_words(&error),
                    "running extensions could not be counted"
                );
            }
        }
    }

    /// Step by step, until nothing is left to do now.
    async fn extend_all(&self, stop: &CancellationToken) -> anyhow::Result<()> {
        let limit = i64::try_from(self.limits.batch_max)?;
        while !stop.is_cancelled() {
            let step = in_time(async { Ok(self.store.extend_step(limit).await?) }).await?;
            let Some(ExtensionStep {
                extension_id,
                extended,
                is_done,
            }) = step
            else {
                return Ok(());
            };
            if extended > 0 {
                self.outbox_wake.send_replace(());
            }
            if is_done {
                tracing::info!(%extension_id, "an extension is complete");
            }
            self.metrics.sweep.extension_steps.inc();
        }
        Ok(())
    }

    async fn count_extensions(&self) -> anyhow::Result<()> {
        let (running, oldest) =
            in_time(async { Ok(self.store.running_extensions().await?) }).await?;
        self.metrics.sweep.extensions_running.set(running);
        self.metrics.sweep.extension_oldest_age_seconds.set(oldest);
        Ok(())
    }
}
