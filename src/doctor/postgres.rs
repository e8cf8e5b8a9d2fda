//! What `doctor` asks Postgres: the connection, rights, durability, schema, the clock.

use std::io;

use sqlx::postgres::{PgConnection, PgSslMode};

use super::{Report, TIMEOUT};
use crate::clock::Clock;
use crate::config::Config;
use crate::postgres::{
    Connector, NoServer, SHARED_SESSIONS, Settings, Why, lost_options, place, shares_sessions,
};
use crate::store::identity::{Standing, standing};
use crate::store::schema::{RESET_XIDS, foreign_xids};
use crate::store::upgrade::{GATED_RELEASE, upgrade_is_finished};

/// The oldest Postgres with what the schema uses (`xid8`, `pg_current_snapshot`).
const OLDEST_POSTGRES: i32 = 130_000;

/// Everything about Postgres.
pub(super) async fn examine(
    report: &mut Report<'_>,
    config: &Config,
    schema: impl AsyncFnOnce(&mut PgConnection) -> Result<String, String>,
) -> io::Result<()> {
    // Its form was checked with the configuration.
    let connector = match Connector::new(
        config.database.url.expose(),
        config.database.url_file.clone(),
    ) {
        Ok(connector) => connector,
        Err(error) => return report.fail("postgres", &error.to_string(), "check DATABASE_URL"),
    };
    let settings = Settings::new("doctor");
    let connected = match connector.connect(&settings).await {
        // What takes no writes is examined all the same, and says so.
        Err(error) if matches!(error.why, Why::Standby | Why::ReadOnly) => {
            connector.connect_any(&settings).await
        }
        connected => connected,
    };
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(error) => {
            let cure = cure(&error);
            return report.fail("postgres", &error.text, cure);
        }
    };
    let (_, options) = connector.current();
    let place = place(&options);
    let mode = options.get_ssl_mode();
    let examined = examine_server(report, &mut connection, &place, mode, config).await?;
    if let Err(error) = examined {
        return report.fail(
            "postgres",
            &format!("{place}: {error}"),
            "check DATABASE_URL",
        );
    }
    sessions(report, &connector, &mut connection).await?;
    match tokio::time::timeout(TIMEOUT, schema(&mut connection)).await {
        Ok(Ok(finding)) => {
            report.ok("schema", &finding)?;
            // Only a schema that is ours can be asked.
            upgrade(report, &mut connection).await?;
            xids(report, &mut connection).await?;
            server(report, &mut connection).await?;
        }
        Ok(Err(finding)) => report.fail("schema", &finding, "")?,
        Err(_) => report.fail(
            "schema",
            "no answer in time",
            "look for locks in pg_stat_activity",
        )?,
    }
    Ok(())
}

/// What to do where there is no session.
fn cure(error: &NoServer) -> &'static str {
    match (error.why, error.cause.as_deref()) {
        (Why::Proxy, _) => "",
        (Why::Login, _) => "check user, password and database in DATABASE_URL",
        (_, Some(sqlx::Error::Tls(_))) => {
            "check sslmode and sslrootcert in DATABASE_URL against the server's certificate and name"
        }
        // How rustls says that it does not believe the server.
        (_, Some(sqlx::Error::Io(error))) if error.kind() == io::ErrorKind::InvalidData => {
            "check sslrootcert in DATABASE_URL against the authority that signed the server's certificate, and that this names the host"
        }
        (_, Some(sqlx::Error::Database(_))) => "check user, password and database in DATABASE_URL",
        _ => "check DATABASE_URL and that Postgres runs there and can be reached from here",
    }
}

/// Whether a session stays on one server process.
async fn sessions(
    report: &mut Report<'_>,
    connector: &Connector,
    one: &mut PgConnection,
) -> io::Result<()> {
    const SUBJECT: &str = "postgres sessions";
    let settings = Settings::new("doctor");
    let mut other = match connector.connect_any(&settings).await {
        Ok(other) => other,
        Err(error) => return report.fail(SUBJECT, &error.text, cure(&error)),
    };
    match tokio::time::timeout(TIMEOUT, shares_sessions(one, &mut other)).await {
        Ok(Ok(false)) => report.ok(SUBJECT, "each connection is a session of its own")?,
        Ok(Ok(true)) => return report.fail(SUBJECT, SHARED_SESSIONS, ""),
        Ok(Err(error)) => {
            return report.fail(SUBJECT, &error.to_string(), "check DATABASE_URL");
        }
        Err(_elapsed) => return report.fail(SUBJECT, "no answer in time", "check DATABASE_URL"),
    }
    let (_, options) = connector.current();
    match lost_options(one, options.get_options()).await {
        Ok(lost) if lost.is_empty() => Ok(()),
        Ok(lost) => report.fail(
            SUBJECT,
            &format!(
                "a proxy drops the session settings of DATABASE_URL: {}",
                lost.join(", ")
            ),
            "take them out of DATABASE_URL; `alter role … set …` sets them without the proxy",
        ),
        Err(error) => report.fail(SUBJECT, &error.to_string(), "check DATABASE_URL"),
    }
}

/// Whether the last upgrade is finished. Not being so is no fault while processes are replaced, but
/// it must not be forgotten.
async fn upgrade(report: &mut Report<'_>, connection: &mut PgConnection) -> io::Result<()> {
    const SUBJECT: &str = "upgrade";
    match tokio::time::timeout(TIMEOUT, upgrade_is_finished(connection)).await {
        Ok(Ok(true)) => report.ok(SUBJECT, &format!("finished, to {GATED_RELEASE}")),
        Ok(Ok(false)) => report.ok(
            SUBJECT,
            &format!(
                "note: the upgrade to {GATED_RELEASE} is not finished, so what is new in it cannot be used: \
                 stop every process of an older release, then run `ride-promo migrate --finish`"
            ),
        ),
        Ok(Err(error)) => report.fail(
            SUBJECT,
            &error.to_string(),
            "check the rights on the table release_upgrade",
        ),
        Err(_) => report.fail(
            SUBJECT,
            "no answer in time",
            "look for locks in pg_stat_activity",
        ),
    }
}

/// Whether the participations were written by this server: a dump brings another one's transaction
/// ids along.
async fn xids(report: &mut Report<'_>, connection: &mut PgConnection) -> io::Result<()> {
    const SUBJECT: &str = "participations";
    match tokio::time::timeout(TIMEOUT, foreign_xids(connection)).await {
        Ok(Ok(0)) => report.ok(SUBJECT, "all transaction ids are this server's"),
        Ok(Ok(count)) => report.fail(
            SUBJECT,
            &format!(
                "{count} have a transaction id from the future, as after a restore from a dump"
            ),
            &format!("run: {RESET_XIDS}"),
        ),
        Ok(Err(error)) => report.fail(
            SUBJECT,
            &error.to_string(),
            "check the rights on the table promotion_user",
        ),
        Err(_) => report.fail(
            SUBJECT,
            "no answer in time",
            "look for locks in pg_stat_activity",
        ),
    }
}

/// Whether the database is on the server that an operator has accepted.
async fn server(report: &mut Report<'_>, connection: &mut PgConnection) -> io::Result<()> {
    const SUBJECT: &str = "postgres server";
    match tokio::time::timeout(TIMEOUT, standing(connection)).await {
        Ok(Ok(Standing::Accepted(now))) => report.ok(SUBJECT, &format!("{now}, as accepted")),
        Ok(Ok(Standing::Unknown)) => report.ok(
            SUBJECT,
            "note: it does not tell its identity, so a fail-over that lost something is not noticed",
        ),
        Ok(Ok(Standing::Other(other))) => report.fail(
            SUBJECT,
            &format!(
                "{} is not what was accepted, {}: it was failed over, restored or moved",
                other.now, other.accepted
            ),
            "see the operator guide, \"Fail-over\"; then run: ride-promo positions accept --reason TEXT",
        ),
        Ok(Err(error)) => report.fail(
            SUBJECT,
            &error.to_string(),
            "check the rights on the table server_identity",
        ),
        Err(_elapsed) => report.fail(
            SUBJECT,
            "no answer in time",
            "look for locks in pg_stat_activity",
        ),
    }
}

/// The server's facts, in one row.
#[derive(sqlx::FromRow)]
struct Server {
    version: String,
    version_number: i32,
    standby: bool,
    read_only: bool,
    can_create: bool,
    forbidden_tables: Option<String>,
    forbidden_sequences: Option<String>,
    role: String,
    fsync: String,
    synchronous_commit: String,
    max_connections: i32,
    tls: Option<String>,
}

const SERVER: &str = "
    select current_setting('server_version') as version,
           current_setting('server_version_num')::int as version_number,
           pg_is_in_recovery() as standby,
           current_setting('transaction_read_only')::bool as read_only,
           coalesce(has_schema_privilege(current_schema(), 'CREATE'), false) as can_create,
           (select string_agg(c.relname, ', ' order by c.relname)
              from pg_class c
             where c.relnamespace = to_regnamespace(quote_ident(current_schema()))
               and c.relkind in ('r', 'p')
               and not c.relispartition
               and c.relname <> '_sqlx_migrations'
               and not (has_table_privilege(c.oid, 'SELECT')
                    and has_table_privilege(c.oid, 'INSERT')
                    and has_table_privilege(c.oid, 'UPDATE')
                    and has_table_privilege(c.oid, 'DELETE'))) as forbidden_tables,
           -- those of identity columns need no rights of their own
           (select string_agg(c.relname, ', ' order by c.relname)
              from pg_class c
             where c.relnamespace = to_regnamespace(quote_ident(current_schema()))
               and not exists (select from pg_depend d where d.objid = c.oid and d.deptype = 'i')
               -- in this order, since asked of anything else it is an error
               and case when c.relkind = 'S' then not has_sequence_privilege(c.oid, 'USAGE') end) as forbidden_sequences,
           quote_ident(current_user) as role,
           current_setting('fsync') as fsync,
           current_setting('synchronous_commit') as synchronous_commit,
           current_setting('max_connections')::int as max_connections,
           (select version from pg_stat_ssl where pid = pg_backend_pid() and ssl) as tls";

async fn examine_server(
    report: &mut Report<'_>,
    connection: &mut PgConnection,
    place: &str,
    mode: PgSslMode,
    config: &Config,
) -> io::Result<Result<(), sqlx::Error>> {
    let server = match sqlx::query_as::<_, Server>(SERVER)
        .fetch_one(&mut *connection)
        .await
    {
        Ok(server) => server,
        Err(error) => return Ok(Err(error)),
    };
    let found = format!("{place} answers: version {}", server.version);
    if server.version_number < OLDEST_POSTGRES {
        let oldest = OLDEST_POSTGRES / 10_000;
        report.fail(
            "postgres",
            &found,
            &format!("use Postgres {oldest} or newer"),
        )?;
    } else if server.standby {
        report.fail(
            "postgres",
            &format!("{found}, and is a standby or being restored (in recovery)"),
            "use the primary; with several hosts in DATABASE_URL the service finds it by itself",
        )?;
    } else if server.read_only {
        report.fail(
            "postgres",
            &format!("{found}, read-only"),
            "set default_transaction_read_only to off for the server, this database and this user",
        )?;
    } else {
        report.ok("postgres", &found)?;
    }
    security(report, mode, server.tls.as_deref())?;
    privileges(report, &server)?;
    if server.fsync == "off" || server.synchronous_commit == "off" {
        report.fail(
            "postgres durability",
            &format!(
                "fsync is {}, synchronous_commit {}: what was answered can get lost",
                server.fsync, server.synchronous_commit
            ),
            "switch both on",
        )?;
    } else {
        report.ok("postgres durability", "fsync and synchronous_commit are on")?;
    }
    let needed = i64::from(config.database.max_connections) + 8;
    if needed > i64::from(server.max_connections) {
        report.fail(
            "postgres connections",
            &format!(
                "one process may open {needed} and the server takes {}",
                server.max_connections
            ),
            "lower database.max_connections or raise the server's max_connections",
        )?;
    }
    clock(report, connection).await
}

fn privileges(report: &mut Report<'_>, server: &Server) -> io::Result<()> {
    const SUBJECT: &str = "postgres privileges";
    let role = &server.role;
    let mut forbidden = Vec::new();
    let mut grants = Vec::new();
    if let Some(tables) = &server.forbidden_tables {
        forbidden.push(tables.as_str());
        grants.push(format!(
            "grant select, insert, update, delete on {tables} to {role}"
        ));
    }
    if let Some(sequences) = &server.forbidden_sequences {
        forbidden.push(sequences.as_str());
        grants.push(format!("grant usage on sequence {sequences} to {role}"));
    }
    if !forbidden.is_empty() {
        return report.fail(
            SUBJECT,
            &format!("not all rights on {}", forbidden.join(", ")),
            &format!("run as the owner: {}", grants.join("; ")),
        );
    }
    report.ok(
        SUBJECT,
        if server.can_create {
            "may read, write and create tables"
        } else {
            "may read and write; may not create tables, so migrate as another user, at least once in eleven months"
        },
    )
}

async fn clock(
    report: &mut Report<'_>,
    connection: &mut PgConnection,
) -> io::Result<Result<(), sqlx::Error>> {
    let before = Clock::System.now();
    let there = sqlx::query_scalar("select clock_timestamp()");
    let there = match there.fetch_one(connection).await {
        Ok(there) => there,
        Err(error) => return Ok(Err(error)),
    };
    let after = Clock::System.now();
    super::compare_clocks(report, "postgres clock", there, before, after)?;
    Ok(Ok(()))
}

/// How well the connection keeps secrets and tells impostors.
fn security(report: &mut Report<'_>, mode: PgSslMode, tls: Option<&str>) -> io::Result<()> {
    const SUBJECT: &str = "postgres tls";
    const CURE: &str = "add sslmode=verify-full&sslrootcert=FILE to DATABASE_URL";
    let finding = match (tls, mode) {
        (Some(version), PgSslMode::VerifyFull) => {
            format!("{version}, the server's certificate and host are checked")
        }
        (Some(version), PgSslMode::VerifyCa) => format!(
            "note: {version}, the server's certificate is checked but not its host: use sslmode=verify-full in DATABASE_URL"
        ),
        (Some(version), _) => {
            format!("note: {version}, but anybody could be the server: {CURE}")
        }
        (None, _) => format!(
            "note: not encrypted, which is fine within a network you trust; otherwise {CURE}"
        ),
    };
    report.ok(SUBJECT, &finding)
}
