//! `doctor`: one line for everything the service needs, with what to do where it is not so.

use std::io::{self, Write};
use std::time::Duration;

use jsonwebtoken::jwk::JwkSet;
use rdkafka::producer::{BaseProducer, Producer as _};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions as _, Connection as _};

use crate::clock::Clock;
use crate::config::{AuthConfig, Config, ConfigError};
use crate::kafka::{self, Cluster, ClusterError, STATUS_COMPACTION_LAG_MS};
use crate::store::schema::{RESET_LIVE_XIDS, foreign_live_xids};

/// How long any one thing may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The oldest Postgres with what the schema uses (`xid8`, `pg_current_snapshot`).
const OLDEST_POSTGRES: i32 = 130_000;

/// From here on this machine's clock is wrong: tokens would be taken or refused at the wrong time.
const LARGEST_CLOCK_DIFFERENCE_MS: i64 = 2_000;

/// What the examination found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every line is `ok`.
    Healthy,
    /// Some line is `FAIL`.
    Unhealthy,
    /// The configuration is wrong; nothing was contacted.
    Misconfigured,
}

/// Examines everything and writes a line each to `out`. `schema` says how the database's schema
/// stands to what this program knows: what is fine, or what to do.
///
/// Bounded: with nothing reachable it takes about half a minute. Changes nothing; the only trace
/// is the transactional id `<group>-doctor`.
pub async fn run(
    config: &Result<Config, ConfigError>,
    schema: impl AsyncFnOnce(&PgPool) -> Result<String, String>,
    out: &mut dyn Write,
) -> io::Result<Outcome> {
    let mut report = Report { out, failed: false };
    let config = match config {
        Ok(config) => config,
        Err(error) => {
            for problem in &error.problems {
                report.fail("config", &problem.to_string(), "")?;
            }
            return Ok(Outcome::Misconfigured);
        }
    };
    report.ok("config", "every key is known and valid")?;
    for warning in &config.warnings {
        report.ok("config", &format!("note: {warning}"))?;
    }
    auth(&mut report, "auth", &config.auth).await?;
    if config.admin_auth != config.auth {
        auth(&mut report, "admin_auth", &config.admin_auth).await?;
    }
    examine_kafka(&mut report, config).await?;
    examine_postgres(&mut report, config, schema).await?;
    Ok(if report.failed {
        Outcome::Unhealthy
    } else {
        Outcome::Healthy
    })
}

/// Writes the lines.
struct Report<'a> {
    out: &'a mut dyn Write,
    failed: bool,
}

impl Report<'_> {
    fn ok(&mut self, subject: &str, finding: &str) -> io::Result<()> {
        writeln!(self.out, "ok    {subject}: {finding}")
    }

    /// `cure` says what to do, if `finding` does not.
    fn fail(&mut self, subject: &str, finding: &str, cure: &str) -> io::Result<()> {
        self.failed = true;
        let arrow = if cure.is_empty() { "" } else { " -> " };
        writeln!(self.out, "FAIL  {subject}: {finding}{arrow}{cure}")
    }
}

async fn auth(report: &mut Report<'_>, section: &str, auth: &AuthConfig) -> io::Result<()> {
    let algorithm = auth.algorithm.as_str();
    let Some(location) = &auth.jwks else {
        return report.ok(section, &format!("tokens are checked with {algorithm}"));
    };
    match jwks(location).await {
        Ok(keys) => report.ok(
            section,
            &format!("tokens are checked with {algorithm}; {location} has {keys} keys"),
        ),
        Err(error) => report.fail(
            section,
            &format!("{location} is no JSON Web Key Set: {error:#}"),
            &format!("check {section}.jwks and whether it can be reached from here"),
        ),
    }
}

/// The number of keys there; none is an error.
async fn jwks(location: &str) -> anyhow::Result<usize> {
    let text = if location.starts_with("http://") || location.starts_with("https://") {
        let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
        let response = client.get(location).send().await?.error_for_status()?;
        response.text().await?
    } else {
        tokio::fs::read_to_string(location).await?
    };
    let keys = serde_json::from_str::<JwkSet>(&text)?.keys.len();
    anyhow::ensure!(keys > 0, "it has no keys");
    Ok(keys)
}

async fn examine_kafka(report: &mut Report<'_>, config: &Config) -> io::Result<()> {
    let kafka = &config.kafka;
    let asked = async {
        let cluster = Cluster::new(kafka)?;
        let info = cluster.info().await?;
        Ok::<_, ClusterError>((cluster, info))
    };
    let (cluster, info) = match asked.await {
        Ok(asked) => asked,
        Err(error) => {
            return report.fail(
                "kafka",
                &error.to_string(),
                "check KAFKA_BROKERS, that the broker runs, and security settings in [kafka.properties]",
            );
        }
    };
    let brokers: Vec<String> = info.brokers.iter().map(ToString::to_string).collect();
    report.ok(
        "kafka",
        &format!(
            "{} answers: cluster {}, brokers {}",
            kafka.brokers,
            info.cluster_id,
            brokers.join(", ")
        ),
    )?;
    ride_topic(report, &cluster, config).await?;
    status_topic(report, &cluster, config).await?;
    transactions(report, config).await
}

async fn ride_topic(report: &mut Report<'_>, cluster: &Cluster, config: &Config) -> io::Result<()> {
    let topic = &config.kafka.ride_topic;
    let Some((partitions, settings)) = topic_facts(report, cluster, config, topic).await? else {
        return Ok(());
    };
    let policy = settings("cleanup.policy");
    if policy.contains("compact") {
        return report.fail(
            topic,
            &format!("cleanup.policy is {policy}: all but the last ride of a client get lost"),
            "set cleanup.policy=delete on the topic",
        );
    }
    let retention = settings("retention.ms");
    report.ok(
        topic,
        &format!("{partitions} partitions, retention.ms {retention}"),
    )
}

async fn status_topic(
    report: &mut Report<'_>,
    cluster: &Cluster,
    config: &Config,
) -> io::Result<()> {
    let topic = &config.kafka.status_topic;
    let Some((partitions, settings)) = topic_facts(report, cluster, config, topic).await? else {
        return Ok(());
    };
    let policy = settings("cleanup.policy");
    if policy != "compact" {
        return report.fail(
            topic,
            &format!("cleanup.policy is {policy}: the newest state of a participation gets lost"),
            "set cleanup.policy=compact on the topic",
        );
    }
    let lag = settings("min.compaction.lag.ms");
    if !lag
        .parse()
        .is_ok_and(|lag: i64| lag >= STATUS_COMPACTION_LAG_MS)
    {
        return report.fail(
            topic,
            &format!(
                "min.compaction.lag.ms is {lag}: subscribers may miss events of the last 7 days"
            ),
            &format!("set min.compaction.lag.ms={STATUS_COMPACTION_LAG_MS} on the topic"),
        );
    }
    report.ok(topic, &format!("{partitions} partitions, compacted"))
}

/// The number of partitions, each with a leader that answers, and a look-up of settings; `None`
/// where a line was written already.
async fn topic_facts(
    report: &mut Report<'_>,
    cluster: &Cluster,
    config: &Config,
    topic: &str,
) -> io::Result<Option<(usize, impl Fn(&str) -> String + use<>)>> {
    let asked = async {
        let partitions = cluster.end_offsets(topic).await?.len();
        let settings = cluster.topic_settings(&config.kafka, topic).await?;
        Ok((partitions, settings))
    };
    match asked.await {
        Ok((partitions, settings)) => Ok(Some((partitions, move |name: &str| {
            settings.get(name).cloned().unwrap_or_else(|| "?".into())
        }))),
        Err(ClusterError::NoSuchTopic { .. }) if config.kafka.create_topics => {
            let partitions = config.kafka.partitions;
            report.ok(
                topic,
                &format!("does not exist; serve creates it with {partitions} partitions"),
            )?;
            Ok(None)
        }
        Err(error @ ClusterError::NoSuchTopic { .. }) => {
            report.fail(
                topic,
                &error.to_string(),
                "create it, or set kafka.create_topics = true",
            )?;
            Ok(None)
        }
        Err(error) => {
            report.fail(
                topic,
                &error.to_string(),
                "check that the brokers' advertised addresses can be reached from here and that we may describe the topic",
            )?;
            Ok(None)
        }
    }
}

/// Whether the relay could publish: its transactions need a coordinator and a permission.
async fn transactions(report: &mut Report<'_>, config: &Config) -> io::Result<()> {
    let id = format!("{}-doctor", config.kafka.group_id);
    let client = kafka::transactional_producer(&config.kafka, &id);
    let tried = tokio::task::spawn_blocking(move || {
        let producer: BaseProducer = client.create()?;
        producer.init_transactions(TIMEOUT)
    });
    let error = match tried.await {
        Ok(Ok(())) => return report.ok("kafka transactions", "can be used"),
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    report.fail(
        "kafka transactions",
        &error,
        "check that __transaction_state can be created (its replication factor against the number of brokers) and the permission on transactional ids",
    )
}

async fn examine_postgres(
    report: &mut Report<'_>,
    config: &Config,
    schema: impl AsyncFnOnce(&PgPool) -> Result<String, String>,
) -> io::Result<()> {
    // Its form was checked with the configuration.
    let options = match config.database.url.expose().parse::<PgConnectOptions>() {
        Ok(options) => options,
        Err(error) => return report.fail("postgres", &error.to_string(), "check DATABASE_URL"),
    };
    let place = format!(
        "{}:{}/{}",
        options.get_host(),
        options.get_port(),
        options
            .get_database()
            .unwrap_or_else(|| options.get_username())
    );
    // A connection of its own first: a pool goes on trying and then only says that time is up.
    let connected = match tokio::time::timeout(TIMEOUT, options.connect()).await {
        Ok(Ok(connection)) => connection.close().await,
        Ok(Err(error)) => Err(error),
        Err(_) => Err(sqlx::Error::PoolTimedOut),
    };
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(TIMEOUT)
        .connect_lazy_with(options);
    let examined = match connected {
        Ok(()) => examine_server(report, &pool, &place, config).await?,
        Err(error) => Err(error),
    };
    if let Err(error) = examined {
        let (finding, cure) = match &error {
            sqlx::Error::PoolTimedOut => (
                "no answer in time".to_owned(),
                "check DATABASE_URL and that Postgres can be reached from here",
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
            live_xids(report, &pool).await?;
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

/// Whether the participations were written by this server: a dump brings another one's transaction
/// ids along.
async fn live_xids(report: &mut Report<'_>, pool: &PgPool) -> io::Result<()> {
    const SUBJECT: &str = "participations";
    match tokio::time::timeout(TIMEOUT, foreign_live_xids(pool)).await {
        Ok(Ok(0)) => report.ok(SUBJECT, "all transaction ids are this server's"),
        Ok(Ok(count)) => report.fail(
            SUBJECT,
            &format!("{count} have a live_xid from the future, as after a restore from a dump"),
            &format!("run: {RESET_LIVE_XIDS}"),
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
    fsync: String,
    synchronous_commit: String,
    max_connections: i32,
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
           current_setting('fsync') as fsync,
           current_setting('synchronous_commit') as synchronous_commit,
           current_setting('max_connections')::int as max_connections";

async fn examine_server(
    report: &mut Report<'_>,
    pool: &PgPool,
    place: &str,
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
    match &server.forbidden_tables {
        Some(tables) => report.fail(
            "postgres privileges",
            &format!("not all rights on {tables}"),
            "grant select, insert, update and delete on them to this user",
        ),
        None if server.can_create => {
            report.ok("postgres privileges", "may read, write and create tables")
        }
        None => report.ok(
            "postgres privileges",
            "may read and write; may not create tables, so migrate as another user",
        ),
    }
}

/// Kafka tells nobody its time, so there is only Postgres' to compare with.
async fn clock(report: &mut Report<'_>, pool: &PgPool) -> io::Result<Result<(), sqlx::Error>> {
    let before = Clock::System.now();
    let there: chrono::DateTime<chrono::Utc> = match sqlx::query_scalar("select clock_timestamp()")
        .fetch_one(pool)
        .await
    {
        Ok(there) => there,
        Err(error) => return Ok(Err(error)),
    };
    let after = Clock::System.now();
    // It was read there somewhere between our two readings.
    let half = (after - before) / 2;
    let difference = (there - (before + half)).num_milliseconds();
    let uncertainty = half.num_milliseconds() + 1;
    let finding = format!("Postgres is {difference} ms ahead of this machine, ±{uncertainty} ms");
    if difference.abs() > LARGEST_CLOCK_DIFFERENCE_MS + uncertainty {
        report.fail("clock", &finding, "let both machines follow NTP")?;
    } else {
        report.ok("clock", &finding)?;
    }
    Ok(Ok(()))
}
