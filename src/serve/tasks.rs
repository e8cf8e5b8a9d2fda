//! The tasks of a process, by name.

use std::any::Any;
use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use tokio::task::JoinSet;

use crate::causes;

/// Tasks that run until they are stopped, each with a name for the case that it ends otherwise.
#[derive(Default)]
pub(super) struct Tasks(JoinSet<(&'static str, anyhow::Result<()>)>);

impl Tasks {
    pub(super) fn spawn(
        &mut self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        // State that a panicking task leaves behind is never read, because the process ends.
        let caught = AssertUnwindSafe(task).catch_unwind();
        self.0.spawn(async move {
            let result = match caught.await {
                Ok(Ok(())) => Ok(()),
                Ok(Err(error)) => Err(error.context(format!("{name} failed"))),
                Err(panic) => Err(anyhow::anyhow!("{name} died: {}", panic_text(&*panic))),
            };
            (name, result)
        });
    }

    /// Waits for a task that ends without being stopped, and returns its name and the reason;
    /// `None` at once if there is no task.
    pub(super) async fn ended(&mut self) -> Option<anyhow::Error> {
        Some(match self.0.join_next().await? {
            Ok((name, Ok(()))) => anyhow::anyhow!("{name} stopped unexpectedly"),
            Ok((_, Err(error))) => error,
            Err(error) => error.into(),
        })
    }

    /// Waits for all remaining tasks, which were stopped.
    pub(super) async fn drain(&mut self) {
        while let Some(ended) = self.0.join_next().await {
            if let Err(error) = ended.map_err(Into::into).and_then(|(_, result)| result) {
                tracing::error!(error = causes::in_words(&error), "shutdown failed");
            }
        }
    }
}

/// The message of a panic.
fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn message(task: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> String {
        let mut tasks = Tasks::default();
        tasks.spawn("the role sweep", task);
        let error = tasks.ended().await.expect("it ended");
        causes::in_words(&error)
    }

    #[tokio::test]
    async fn a_task_that_ends_by_itself_is_named_with_its_reason() {
        assert_eq!(
            message(async { anyhow::bail!("no more") }).await,
            "the role sweep failed: no more"
        );
        assert_eq!(
            message(async { Ok(()) }).await,
            "the role sweep stopped unexpectedly"
        );
        assert_eq!(
            message(async { panic!("number {}", 7) }).await,
            "the role sweep died: number 7"
        );
        assert!(Tasks::default().ended().await.is_none());
    }
}
