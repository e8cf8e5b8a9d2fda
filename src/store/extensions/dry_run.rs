//! The dry run of an extension: the checks and the count, without the gate, so that no transaction waits for it.

use uuid::Uuid;

use super::{ExtendOutcome, check, count_covered, of_key, plan_for_counting};
use crate::domain::extension::ExtensionState;
use crate::store::{Result, Store};
use crate::wire::extension::{ExtensionView, NewExtension, RequestedLength};

impl Store {
    /// What [`Store::extend`] would return, by the same checks; nothing is changed. The id of a new extension is
    /// never used.
    pub async fn try_extend(&self, new: &NewExtension, key: &str) -> Result<ExtendOutcome> {
        self.require_finished_upgrade().await?;
        let mut connection = self.acquire().await?;
        if let Some(earlier) = of_key(&mut connection, key).await? {
            if !earlier.is_of(new) {
                return Ok(ExtendOutcome::OtherBody);
            }
            return Ok(ExtendOutcome::Accepted(Box::new(earlier.view()?)));
        }
        if let Err(outcome) = check(&mut connection, new).await? {
            return Ok(outcome);
        }
        drop(connection);
        let at = self.now().await?;
        let (of, scope) = (new.of, new.scope);
        let counted = self
            .run_or_try_tx("try_extend", true, move |connection| {
                Box::pin(async move {
                    plan_for_counting(connection).await?;
                    count_covered(connection, of, scope, at).await
                })
            })
            .await;
        let matched = counted.unwrap_or_else(|error| {
            tracing::warn!(%error, "the participations of a dry run of an extension were not counted");
            0
        });
        Ok(ExtendOutcome::Accepted(Box::new(ExtensionView {
            extension_id: Uuid::now_v7(),
            at,
            promotion_id: scope.promotion_id,
            country_code: scope
                .country_code
                .map(|country| country.as_str().to_owned()),
            user_id: scope.user_id,
            of,
            by: match new.length {
                RequestedLength::By(period) => Some(period),
                RequestedLength::Outage(_) => None,
            },
            outage_id: match new.length {
                RequestedLength::By(_) => None,
                RequestedLength::Outage(outage_id) => Some(outage_id),
            },
            reason: new.reason.clone(),
            matched,
            done: 0,
            skipped: 0,
            state: ExtensionState::Running,
            finished_at: None,
        })))
    }
}
