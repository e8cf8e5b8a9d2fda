//! Whether Postgres can be worked with, asked before anything else.

use std::time::Duration;

use sqlx::Connection as _;

use crate::postgres::{NoServer, SHARED_SESSIONS, Settings, Why, lost_options, shares_sessions};
use crate::store::Store;

/// How long Postgres may take to answer whether its sessions are whole.
const KNOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// Why serving cannot begin.
pub(super) enum Knock {
    /// That may pass: nothing answers, it is starting up, a standby or read-only, has no connection
    /// to spare, or does not accept the password, which may be put right there as well.
    Away(String),
    /// Only another configuration helps.
    Unusable(String),
}

/// Whether Postgres takes sessions that are ours alone.
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
            // They were only for this.
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
