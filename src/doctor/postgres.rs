//! The checks of `doctor` on Postgres: the connection, rights, durability, schema, the clock.

use std::io;

use sqlx::postgres::{PgConnection, PgSslMode};

use super::{Report, TIMEOUT, privileges};
use crate::clock::Clock;
use crate::config::Config;
use crate::postgres::{
    Connector, NoServer, NoServerReason, SHARED_SESSIONS, Settings, lost_options, place,
    shares_sessions,
};
use crate::readiness::Role;
use crate::store::horizon::horizon;
use crate::store::identity::{Standing, standing};
use crate::store::schema::{
    RESET_XIDS, foreign_xids, missing_receipt_months, receipts_in_default_partition,
};
use crate::store::upgrade::{GATED_RELEASE, upgrade_is_finished};

/// The oldest Postgres that has what the schema uses (`xid8`, `pg_current_snapshot`).
const OLDEST_POSTGRES: i32 = 130_000;

/// The age at which a transaction holds back too much: dead rows since then stay, and are skipped
/// again and again.
const OLD_SECONDS: f64 = 3_600.0;
const OLD_TRANSACTIONS: i64 = 10_000_000;

const STRAY_CURE: &str = "run ride-promo receipts move-month, see the operator guide";

/// All checks on Postgres.
pub(super) async fn examine(
    report: &mut Report<'_>,
    config: &Config,
    roles: &[Role],
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
        // A server that accepts no writes is examined too, and reported.
        Err(error)
            if matches!(
                error.why,
                NoServerReason::Standby | NoServerReason::ReadOnly
            ) =>
        {
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
    let examined = examine_server(report, &mut connection, &place, mode, config, roles).await?;
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
            // Only a schema of this service can be examined.
            upgrade(report, &mut connection).await?;
            if roles.iter().any(|role| *role != Role::Relay) {
                xids(report, &mut connection).await?;
            }
            server(report, &mut connection).await?;
            if roles.contains(&Role::Sweep) {
                horizons(report, &mut connection).await?;
                receipts(report, &mut connection).await?;
            }
        }
        Ok(Err(finding)) => report.fail("schema", &finding, "")?,
        Err(_) => report.fail(
            "schema",
            "no response in time",
            "look for locks in pg_stat_activity",
        )?,
    }
    Ok(())
}

/// The cure if there is no session.
fn cure(error: &NoServer) -> &'static str {
    match (error.why, error.cause.as_deref()) {
        (NoServerReason::Proxy, _) => "",
        (NoServerReason::Login, _) => "check user, password and database in DATABASE_URL",
        (_, Some(sqlx::Error::Tls(_))) => {
            "check sslmode and sslrootcert in DATABASE_URL against the server's certificate and name"
        }
        // The text with which rustls reports an untrusted certificate.
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
        Err(_elapsed) => return report.fail(SUBJECT, "no response in time", "check DATABASE_URL"),
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

/// Whether the last upgrade is finished. An unfinished upgrade is not a fault while processes are
/// being replaced, but it must not be forgotten.
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
            "no response in time",
            "look for locks in pg_stat_activity",
        ),
    }
}

/// Whether the participations have transaction ids of this server. A dump brings those of another
/// one.
async fn xids(report: &mut Report<'_>, connection: &mut PgConnection) -> io::Result<()> {
    const SUBJECT: &str = "participations";
    match tokio::time::timeout(TIMEOUT, foreign_xids(connection)).await {
        Ok(Ok(0)) => report.ok(SUBJECT, "all transaction ids are from this server"),
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
            "no response in time",
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
            "note: it does not show its identity, so a fail-over with loss is not noticed",
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
            "no response in time",
            "look for locks in pg_stat_activity",
        ),
    }
}

/// Whether something keeps Postgres from removing dead rows.
async fn horizons(report: &mut Report<'_>, connection: &mut PgConnection) -> io::Result<()> {
    const SUBJECT: &str = "postgres horizon";
    let holders = match tokio::time::timeout(TIMEOUT, horizon(connection)).await {
        Ok(Ok(holders)) => holders,
        Ok(Err(error)) => return report.fail(SUBJECT, &error.to_string(), ""),
        Err(_) => return report.fail(SUBJECT, "no response in time", "run doctor again"),
    };
    let old = holders.iter().find(|holder| {
        holder.transactions > OLD_TRANSACTIONS
            || holder.seconds.is_some_and(|seconds| seconds > OLD_SECONDS)
    });
    match old {
        Some(holder) => {
            let age = holder
                .seconds
                .map(|seconds| format!(", for {seconds:.0} s"))
                .unwrap_or_default();
            report.fail(
                SUBJECT,
                &format!(
                    "no dead row is removed since {} transactions{age}",
                    holder.transactions
                ),
                &format!("end it if it is not needed: {}", holder.who),
            )
        }
        None => report.ok(SUBJECT, "no transaction is older than an hour"),
    }
}

/// Whether every receipt has a partition of its month.
async fn receipts(report: &mut Report<'_>, connection: &mut PgConnection) -> io::Result<()> {
    const SUBJECT: &str = "receipt partitions";
    let asked = async {
        let stray = receipts_in_default_partition(&mut *connection).await?;
        Ok::<_, crate::store::StoreError>((stray, missing_receipt_months(connection).await?))
    };
    match tokio::time::timeout(TIMEOUT, asked).await {
        Ok(Ok((0, missing))) if missing.is_empty() => {
            report.ok(SUBJECT, "all of the coming twelve months exist")
        }
        Ok(Ok((0, missing))) => {
            let months: Vec<String> = missing
                .iter()
                .map(|month| month.format("%Y-%m").to_string())
                .collect();
            report.fail(
                SUBJECT,
                &format!("missing: {}", months.join(", ")),
                "run ride-promo migrate as the owner while no pg_dump runs",
            )
        }
        Ok(Ok((_, _))) => report.fail(
            SUBJECT,
            "receipts are in the default partition, of which no month can be dropped",
            STRAY_CURE,
        ),
        Ok(Err(error)) => report.fail(SUBJECT, &error.to_string(), ""),
        Err(_) => report.fail(
            SUBJECT,
            "no response in time",
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
    roles: &[Role],
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
    let may =
        privileges::examine(report, connection, &server.role, roles, server.can_create).await?;
    if may.is_err() {
        return Ok(may);
    }
    if server.fsync == "off" || server.synchronous_commit == "off" {
        report.fail(
            "postgres durability",
            &format!(
                "fsync is {}, synchronous_commit {}: confirmed changes can be lost",
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
                "one process may open {needed} and the server accepts {}",
                server.max_connections
            ),
            "lower database.max_connections or raise the server's max_connections",
        )?;
    }
    clock(report, connection).await
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

/// How the connection is encrypted, and whether the server's identity is checked.
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
            format!("note: {version}, but the server's certificate is not checked: {CURE}")
        }
        (None, _) => format!(
            "note: not encrypted, which is fine within a network you trust; otherwise {CURE}"
        ),
    };
    report.ok(SUBJECT, &finding)
}
