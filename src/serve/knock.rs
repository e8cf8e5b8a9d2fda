//! Checks whether Postgres can be used, before anything else starts.

use std::time::Duration;

use sqlx::Connection as _;

use crate::postgres::{NoServer, SHARED_SESSIONS, Settings, Why, lost_options, shares_sessions};
use crate::store::Store;

/// The timeout of the check of sessions.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why serving cannot begin.
pub(super) enum Knock {
    /// It may pass: no response, starting up, a standby or read-only, no free connection, or a
    /// password that is not accepted, which may be corrected on the server too.
    Away(String),
    /// Only another configuration helps.
    Unusable(String),
}

/// Whether Postgres gives each connection a session of its own.
pub(super) async fn knock(store: &Store) -> Result<(), Knock> {
    let settings = Settings::new("");
    let connector = store.connector();
    let refused = |error: NoServer| match error.why {
        Why::Proxy => Knock::Unusable(error.to_string()),
        Why::Away | Why::Login => Knock::Away(format!(
            "Postgres at {} is away: {error}",
            connector.places()
        )),
        Why::Standby | Why::ReadOnly => Knock::Away(format!("Postgres takes no writes: {error}")),
    };
    let mut one = connector.connect(&settings).await.map_err(refused)?;
    let mut other = connector.connect(&settings).await.map_err(refused)?;
    let asked = tokio::time::timeout(KNOCK_TIMEOUT, async {
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
        Ok(Ok(Some(why))) => Err(Knock::Unusable(format!("{}: {why}", connector.places()))),
        Ok(Err(error)) => Err(Knock::Away(format!(
            "Postgres at {} is away: {error}",
            connector.places()
        ))),
        Err(_elapsed) => Err(Knock::Away(format!(
            "Postgres at {} is away: no answer in time",
            connector.places()
        ))),
    }
}
