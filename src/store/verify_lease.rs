//! Decides which process recounts regularly: the one whose session holds an advisory lock.

use sqlx::{Connection as _, PgConnection};

use super::{Result, Store, TRANSACTION_TIMEOUT, within};
use crate::postgres::Settings;

/// The advisory lock of the recount: "RPVF" in ASCII.
const LOCK: i64 = 0x5250_5646;

/// The lock of the recount; it ends with its session.
#[derive(Debug)]
pub struct VerifyLease(PgConnection);

impl Store {
    /// Takes the lock, unless another process has it.
    pub async fn try_verify_lease(&self) -> Result<Option<VerifyLease>> {
        let mut connection = self.connect(&Settings::new("verify lease")).await?;
        let taken = sqlx::query_scalar!(r#"select pg_try_advisory_lock($1) as "taken!""#, LOCK)
            .fetch_one(&mut connection)
            .await?;
        Ok(taken.then_some(VerifyLease(connection)))
    }
}

impl VerifyLease {
    /// Fails if the session, and with it the lock, is gone.
    pub async fn check(&mut self) -> Result<()> {
        within(TRANSACTION_TIMEOUT, async { Ok(self.0.ping().await?) }).await
    }
}
