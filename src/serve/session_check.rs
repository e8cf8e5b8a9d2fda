//! Checks whether Postgres can be used, before anything else starts.

use std::time::Duration;

use sqlx::Connection as _;

use crate::postgres::{
    NoServer, NoServerReason, SHARED_SESSIONS, Settings, lost_options, shares_sessions,
};
use crate::store::Store;

/// The timeout of the check of sessions.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why serving cannot begin.
pub(super) enum SessionProblem {
    /// It may pass: no response, starting up, a standby or read-only, no free connection, or a
    /// password that is not accepted, which may be corrected on the server too.
    Unavailable(String),
    /// Only another configuration helps.
    Unusable(String),
}

/// Whether Postgres gives each connection a session of its own.
pub(super) async fn check_sessions(store: &Store) -> Result<(), SessionProblem> {
    let settings = Settings::new("");
    let connector = store.connector();
    let refused = |error: NoServer| match error.why {
        NoServerReason::Proxy => SessionProblem::Unusable(error.to_string()),
        NoServerReason::Unavailable | NoServerReason::Login => SessionProblem::Unavailable(
            format!("Postgres at {} is unavailable: {error}", connector.places()),
        ),
        NoServerReason::Standby | NoServerReason::ReadOnly => {
            SessionProblem::Unavailable(format!("Postgres takes no writes: {error}"))
        }
    };
    let mut one = connector.connect(&settings).await.map_err(refused)?;
    let mut other = connector.connect(&settings).await.map_err(refused)?;
    let asked = tokio::time::timeout(CHECK_TIMEOUT, async {
        if shares_sessions(&mut one, &mut other).await? {
            return Ok(Some(SHARED_SESSIONS.to_owned()));
        }
        let (_, options) = connector.current();
        let lost = lost_options(&mut one, options.get_options()).await?;
        Ok::<_, sqlx::Error>((!lost.is_empty()).then(|| {
            let lost = lost.join(", ");
            format!("a proxy drops the session settings of DATABASE_URL ({lost}): take them out")
        }))
    });
    match asked.await {
        Ok(Ok(None)) => {
            // They were opened only for this check.
            let _ = tokio::join!(one.close(), other.close());
            Ok(())
        }
        Ok(Ok(Some(why))) => Err(SessionProblem::Unusable(format!(
            "{}: {why}",
            connector.places()
        ))),
        Ok(Err(error)) => Err(SessionProblem::Unavailable(format!(
            "Postgres at {} is unavailable: {error}",
            connector.places()
        ))),
        Err(_elapsed) => Err(SessionProblem::Unavailable(format!(
            "Postgres at {} is unavailable: no response in time",
            connector.places()
        ))),
    }
}
