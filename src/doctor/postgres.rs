//! What `doctor` asks Postgres: the connection, rights, durability, schema, the clock.

use std::io;
use std::path::{Path, PathBuf};

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions as _, Connection as _};

use super::{Report, TIMEOUT};
use crate::clock::Clock;
use crate::config::Config;
use crate::store::schema::{RESET_XIDS, foreign_xids};
use crate::store::upgrade::{GATED_RELEASE, upgrade_is_finished};

/// The oldest Postgres with what the schema uses (`xid8`, `pg_current_snapshot`).
const OLDEST_POSTGRES: i32 = 130_000;

/// Everything about Postgres.
pub(super) async fn examine(
    report: &mut Report<'_>,
    config: &Config,
    schema: impl AsyncFnOnce(&PgPool) -> Result<String, String>,
) -> io::Result<()> {
    // Its form was checked with the configuration.
    let options = match config.database.url.expose().parse::<PgConnectOptions>() {
        Ok(options) => options,
        Err(error) => return report.fail("postgres", &error.to_string(), "check DATABASE_URL"),
    };
    let place = place(&options);
    // A connection of its own first: a pool goes on trying and then only says that time is up.
    let connected = match tokio::time::timeout(TIMEOUT, options.connect()).await {
        Ok(Ok(connection)) => connection.close().await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    };
    let mode = options.get_ssl_mode();
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(TIMEOUT)
        .connect_lazy_with(options);
    let examined = match connected {
        Ok(()) => examine_server(report, &pool, &place, mode, config).await?,
        Err(error) => Err(error),
    };
    if let Err(error) = examined {
        let (finding, cure) = match &error {
            sqlx::Error::PoolTimedOut => (
                "no answer in time".to_owned(),
                "check DATABASE_URL and that Postgres can be reached from here",
            ),
            sqlx::Error::Tls(error) => (
                error.to_string(),
                "check sslmode and sslrootcert in DATABASE_URL against the server's certificate and name",
            ),
            // How rustls says that it does not believe the server.
            sqlx::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => (
                error.to_string(),
                "check sslrootcert in DATABASE_URL against the authority that signed the server's certificate, and that this names the host",
            ),
            sqlx::Error::Io(error) => (
                error.to_string(),
                "check DATABASE_URL and that Postgres runs there",
            ),
            // Its message alone; the place in the server's source helps nobody here.
            sqlx::Error::Database(error) => (
                error.message().to_owned(),
                "check user, password and database in DATABASE_URL",
            ),
            error => (error.to_string(), "check DATABASE_URL"),
        };
        return report.fail("postgres", &format!("{place}: {finding}"), cure);
    }
    match tokio::time::timeout(TIMEOUT, schema(&pool)).await {
        Ok(Ok(finding)) => {
            report.ok("schema", &finding)?;
            // Only a schema that is ours can be asked.
            upgrade(report, &pool).await?;
            xids(report, &pool).await?;
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

/// Where the server is and which database is meant: `host:port/database`, or the socket's file.
fn place(options: &PgConnectOptions) -> String {
    let port = options.get_port();
    let database = options
        .get_database()
        .unwrap_or_else(|| options.get_username());
    let host = options.get_host();
    // As sqlx decides: a host that is a path is a socket's directory too.
    let socket = options.get_socket().map(PathBuf::as_path);
    match socket.or_else(|| host.starts_with('/').then(|| Path::new(host))) {
        Some(directory) => {
            let file = directory.join(format!(".s.PGSQL.{port}"));
            format!("socket {}, database {database}", file.display())
        }
        None => format!("{host}:{port}/{database}"),
    }
}

/// Whether the last upgrade is finished. Not being so is no fault while processes are replaced, but
/// it must not be forgotten.
async fn upgrade(report: &mut Report<'_>, pool: &PgPool) -> io::Result<()> {
    const SUBJECT: &str = "upgrade";
    match tokio::time::timeout(TIMEOUT, upgrade_is_finished(pool)).await {
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
async fn xids(report: &mut Report<'_>, pool: &PgPool) -> io::Result<()> {
    const SUBJECT: &str = "participations";
    match tokio::time::timeout(TIMEOUT, foreign_xids(pool)).await {
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

/// The server's facts, in one row.
#[derive(sqlx::FromRow)]
struct Server {
    version: String,
    version_number: i32,
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
           pg_is_in_recovery() or current_setting('transaction_read_only')::bool as read_only,
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
    pool: &PgPool,
    place: &str,
    mode: PgSslMode,
    config: &Config,
) -> io::Result<Result<(), sqlx::Error>> {
    let server = match sqlx::query_as::<_, Server>(SERVER).fetch_one(pool).await {
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
    } else if server.read_only {
        report.fail(
            "postgres",
            &format!("{found}, read-only"),
            "use the primary, and a user whose transactions may write",
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
    clock(report, pool).await
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

async fn clock(report: &mut Report<'_>, pool: &PgPool) -> io::Result<Result<(), sqlx::Error>> {
    let before = Clock::System.now();
    let there = sqlx::query_scalar("select clock_timestamp()");
    let there = match there.fetch_one(pool).await {
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
