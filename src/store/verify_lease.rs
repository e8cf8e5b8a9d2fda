//! Which process recounts by interval: the one whose session holds an advisory lock.

use sqlx::{Connection as _, PgConnection};

use super::{Result, Store, TRANSACTION_TIMEOUT, within};
use crate::postgres::Settings;

/// This service's advisory lock of the recount: "RPVF" in ASCII.
const LOCK: i64 = 0x5250_5646;

/// The hold on the recount; it ends with its session.
#[derive(Debug)]
pub struct VerifyLease(PgConnection);

impl Store {
    /// Takes the recount, unless another process has it.
    pub async fn try_verify_lease(&self) -> Result<Option<VerifyLease>> {
        let mut connection = self.connect(&Settings::new("verify lease")).await?;
        let taken = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "taken!""#, LOCK)
            .fetch_one(&mut connection)
            .await?;
        Ok(taken.then_some(VerifyLease(connection)))
    }
}

impl VerifyLease {
    /// Fails where the session, and the lock with it, is gone.
    pub async fn check(&mut self) -> Result<()> {
        within(TRANSACTION_TIMEOUT, async { Ok(self.0.ping().await?) }).await
    }
}
