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
        // A snapshot does not show exactly the transactions from its xmax on and those in its list.
        // Asked for by these, and not by its xmin, one transaction that stays open does not have
        // everything since read again and again. Ordered, and as ranges, so that the planner takes no
        // other index whatever it thinks is in the table. In one statement, so that the new snapshot is the
        // one the rows were read with.
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
