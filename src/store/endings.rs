//! Which participations ended since the last call, through any process. The result is exact, because it uses
//! Postgres' own snapshots.

use sqlx::postgres::PgConnection;

use super::{Result, Store};
use crate::domain::{PromotionId, UserId};

/// A database session that reports terminal transitions. After its first error it must be dropped. A new
/// one does not know earlier transitions.
#[derive(Debug)]
pub struct EndingFeed {
    connection: PgConnection,
    /// The `pg_snapshot` up to which everything was reported.
    snapshot: String,
}

impl EndingFeed {
    /// Opens a session that reports the transitions from now on.
    pub async fn connect(store: &Store) -> Result<Self> {
        let (connection, snapshot) = store.session_from_now("endings").await?;
        Ok(Self {
            connection,
            snapshot,
        })
    }

    /// The participations that were committed as `REWARDED` or `EXPIRED` since the last call. It
    /// contains every transition that was confirmed before this call.
    pub async fn next(&mut self) -> Result<Vec<(UserId, PromotionId)>> {
        // A snapshot hides exactly the transactions from its xmax on and those in its list. The query
        // asks for these, not for all from its xmin on; otherwise one open transaction would make it
        // read all later ones at every call. The ranges are ordered, so that the planner uses this index
        // in any state of the table. It is one statement, so that the new snapshot is the one with which
        // the rows were read.
        let news = sqlx::query!(
            r#"select pg_current_snapshot()::text as "snapshot!", array_agg(user_id) as users, array_agg(promotion_id) as promotions
                 from ((select user_id, promotion_id from promotion_user
                         where ended_xid is not null and ended_xid >= pg_snapshot_xmax($1::text::pg_snapshot)
                         order by ended_xid)
                       union all
                       select p.user_id, p.promotion_id
                         from unnest(array(select pg_snapshot_xip($1::text::pg_snapshot))) x (xid)
                        cross join lateral (select user_id, promotion_id from promotion_user
                                             where ended_xid is not null and ended_xid >= x.xid and ended_xid <= x.xid
                                             order by ended_xid) p) news"#,
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
