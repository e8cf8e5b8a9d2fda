//! Finds what keeps Postgres from removing rows that are no longer needed.

use sqlx::PgConnection;

use super::Result;

/// The kinds of holders of the horizon, as metrics name them.
pub const HOLDERS: [&str; 4] = ["session", "prepared", "slot", "standby"];

/// One kind of holder, and the oldest of its kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Holder {
    /// One of [`HOLDERS`].
    pub kind: String,
    /// How many transaction ids were assigned since the oldest one that it needs.
    pub transactions: i64,
    /// Its age in seconds; `None` for slots and standbys, for which Postgres does not record it.
    pub seconds: Option<f64>,
    /// What it is, with the statement that ends it.
    pub who: String,
}

/// The oldest holder of each kind. Only a member of `pg_read_all_stats` sees what belongs to other
/// users.
pub async fn horizon(connection: &mut PgConnection) -> Result<Vec<Holder>> {
    Ok(sqlx::query_as!(
            Holder,
            r#"select distinct on (kind) kind as "kind!", transactions as "transactions!", seconds, who as "who!"
                 from (select 'session' as kind,
                              greatest(age(backend_xmin), age(backend_xid))::bigint as transactions,
                              extract(epoch from clock_timestamp() - xact_start)::float8 as seconds,
                              format('session %s of %s (%s), ended by: select pg_terminate_backend(%s)',
                                     pid, usename, application_name, pid) as who
                         from pg_stat_activity
                        where datname = current_database() and backend_type = 'client backend'
                          and pid <> pg_backend_pid() and coalesce(backend_xid, backend_xmin) is not null
                       union all
                       select 'prepared', age(transaction)::bigint,
                              extract(epoch from clock_timestamp() - prepared)::float8,
                              format('prepared transaction %s of %s, ended by: rollback prepared %L', gid, owner, gid)
                         from pg_prepared_xacts where database = current_database()
                       union all
                       select 'slot', greatest(age(xmin), age(catalog_xmin))::bigint, null,
                              format('replication slot %s, ended by: select pg_drop_replication_slot(%L)', slot_name, slot_name)
                         from pg_replication_slots where coalesce(xmin, catalog_xmin) is not null
                       union all
                       select 'standby', age(r.backend_xmin)::bigint,
                              null,
                              format('standby %s, which has hot_standby_feedback on', r.application_name)
                         from pg_stat_replication r where r.backend_xmin is not null) holders
                order by kind, transactions desc, seconds desc nulls last"#
        )
    .fetch_all(connection)
    .await?)
}
