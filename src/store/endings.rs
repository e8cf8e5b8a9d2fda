//! Which participations ended since one last asked, through whatever process: exactly, by Postgres'
//! own account of what became visible.

use sqlx::postgres::PgConnection;

use super::{Result, Store};
use crate::domain::{PromotionId, UserId};

/// A database session that tells of endings, to be given up at its first error. A new one knows
/// nothing of what came before it.
#[derive(Debug)]
pub struct EndingFeed {
    connection: PgConnection,
    /// The `pg_snapshot` up to which everything was told.
    snapshot: String,
}

impl EndingFeed {
    /// Opens a session that tells of what ends from now on.
    pub async fn connect(store: &Store) -> Result<Self> {
        let (connection, snapshot) = store.session_from_now("endings").await?;
        Ok(Self {
            connection,
            snapshot,
        })
    }

    /// The participations that were committed as `REWARDED` or `EXPIRED` since the last call.
    /// Everything that was answered before this call is among them.
    pub async fn next(&mut self) -> Result<Vec<(UserId, PromotionId)>> {
        // As in the batch of rides: what is visible now and was not at the last snapshot. In one
        // statement, so that the snapshot is the one the rows were read with.
        let news = sqlx::query!(
            r#"select pg_current_snapshot()::text as "snapshot!", array_agg(user_id) as users, array_agg(promotion_id) as promotions
                 from promotion_user
                where ended_xid is not null
                  and ended_xid >= pg_snapshot_xmin($1::text::pg_snapshot)
                  and not pg_visible_in_snapshot(ended_xid, $1::text::pg_snapshot)"#,
            self.snapshot.as_str()
        )
        .fetch_one(&mut self.connection)
        .await?;
        self.snapshot = news.snapshot;
        let users = news.users.unwrap_or_default();
        Ok(users
            .into_iter()
            .zip(news.promotions.unwrap_or_default())
            .collect())
    }
}
