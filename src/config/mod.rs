//! Configuration: one struct per concern, read from the defaults, then a TOML file, then the
//! environment. All errors are reported at once, before the process connects to anything.
//!
//! A key `section.name` of the file is the variable `RIDE_PROMO__SECTION__NAME`. An empty variable
//! counts as not set. An unknown key or `RIDE_PROMO__` variable is an error, since it is most likely
//! a typo. Secrets can be read from a file (`…_FILE`). `config.example.toml` lists every key with its
//! default and meaning.

mod auth;
mod secret;
mod source;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use crate::kafka;

pub use secret::Secret;
use source::SettingsReader;
pub use source::{ConfigProblem, Setting};

pub use crate::domain::period::format_duration;
use crate::postgres::DatabaseUrl;

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);

/// librdkafka properties that this service sets itself, because its guarantees depend on them.
pub const RESERVED_PROPERTIES: [&str; 21] = [
    "acks",
    "allow.auto.create.topics",
    "auto.commit.enable",
    "auto.offset.reset",
    "bootstrap.servers",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "enable.partition.eof",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "transactional.id",
];

/// The settings that a subcommand requires. Other settings may be missing, but if they are set, they
/// must be valid.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// `database.url`.
    pub database: bool,
    /// `kafka.brokers`.
    pub kafka: bool,
    /// `auth.algorithm` and its key.
    pub auth: bool,
}

impl Needs {
    /// All settings, as `serve` and `doctor` require.
    pub const ALL: Self = Self {
        database: true,
        kafka: true,
        auth: true,
    };
    /// Only the database, for `migrate` and `import`.
    pub const DATABASE: Self = Self {
        database: true,
        kafka: false,
        auth: false,
    };
    /// Only Kafka, for `replay`.
    pub const KAFKA: Self = Self {
        database: false,
        kafka: true,
        auth: false,
    };
    /// Database and Kafka, for `positions`.
    pub const DATABASE_AND_KAFKA: Self = Self {
        database: true,
        kafka: true,
        auth: false,
    };
    /// Only the signing key of tokens, for `token`.
    pub const AUTH: Self = Self {
        database: false,
        kafka: false,
        auth: true,
    };
    /// No setting, for `demo`.
    pub const NOTHING: Self = Self {
        database: false,
        kafka: false,
        auth: false,
    };
}

/// All errors of the configuration. The process exits with 2.
#[derive(Debug, thiserror::Error)]
#[error("the configuration is wrong:{}", .problems.iter().map(|problem| format!("\n  {problem}")).collect::<String>())]
pub struct ConfigError {
    /// In the order of the keys' sections; unknown keys last. Never empty.
    pub problems: Vec<ConfigProblem>,
}

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Postgres.
    pub database: DatabaseConfig,
    /// Kafka.
    pub kafka: KafkaConfig,
    /// Tokens of the client API.
    pub auth: AuthConfig,
    /// Tokens of the admin API; settings that `[admin_auth]` leaves out are those of `[auth]`.
    pub admin_auth: AuthConfig,
    /// The operators' console.
    pub console: ConsoleConfig,
    /// The client API.
    pub api: ApiConfig,
    /// The admin API, which also serves metrics and probes.
    pub admin: AdminConfig,
    /// A separate listener of metrics and probes.
    pub metrics: MetricsConfig,
    /// Reading rides.
    pub ingest: IngestConfig,
    /// Publishing status changes.
    pub relay: RelayConfig,
    /// Expiring challenges and rewards.
    pub sweep: SweepConfig,
    /// Recounting participations.
    pub verify: VerifyConfig,
    /// Erasing clients.
    pub erase: EraseConfig,
    /// The log.
    pub log: LogConfig,
    /// Traces.
    pub traces: TracesConfig,
    /// The longest time of a shutdown; after it, running work is cut off.
    pub shutdown_timeout: Duration,
    /// Warnings to log at the start: settings that are valid but unwise.
    pub warnings: Vec<String>,
    /// The settings that were set, by key, without secret values. All others have their defaults.
    pub settings: BTreeMap<String, Setting>,
}

/// `[database]`: Postgres.
#[derive(Clone, Debug, PartialEq)]
pub struct DatabaseConfig {
    /// `postgres://user:password@host:port/database`, or several `host:port` separated by commas. Empty
    /// if the subcommand does not require it.
    pub url: Secret,
    /// The file that `url` was read from, if any. It is read again when no host accepts a session.
    pub url_file: Option<PathBuf>,
    /// The most connections of this process's pool. Ingest, relay and api each hold one more of their
    /// own.
    pub max_connections: u32,
}

/// `[kafka]`: Kafka.
#[derive(Clone, PartialEq)]
pub struct KafkaConfig {
    /// `host:port`, comma-separated. Empty if the subcommand does not require it.
    pub brokers: String,
    /// Topic of completed rides.
    pub ride_topic: String,
    /// Topic of status changes.
    pub status_topic: String,
    /// Topic of reminders.
    pub reminder_topic: String,
    /// Consumer group of ingest.
    pub group_id: String,
    /// Whether missing topics are created.
    pub create_topics: bool,
    /// Partitions of a topic that is created.
    pub partitions: i32,
    /// Replicas of a topic that is created.
    pub replication_factor: i32,
    /// librdkafka properties, passed on unchanged; none of [`RESERVED_PROPERTIES`].
    pub properties: BTreeMap<String, String>,
    /// The files that some of the properties come from. Each new client reads them again.
    pub property_files: BTreeMap<String, PathBuf>,
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Any librdkafka property may hold a secret, so only the names are shown.
        let properties: Vec<&String> = self.properties.keys().collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("ride_topic", &self.ride_topic)
            .field("status_topic", &self.status_topic)
            .field("reminder_topic", &self.reminder_topic)
            .field("group_id", &self.group_id)
            .field("create_topics", &self.create_topics)
            .field("partitions", &self.partitions)
            .field("replication_factor", &self.replication_factor)
            .field("properties", &properties)
            .finish()
    }
}

/// How tokens are signed. There is one algorithm, so that a token cannot choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC with a shared secret.
    Hs256,
    /// RSA; public keys come as a JWKS.
    Rs256,
    /// ECDSA on P-256; public keys come as a JWKS.
    Es256,
}

impl Algorithm {
    /// The name in a token's header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hs256 => "HS256",
            Self::Rs256 => "RS256",
            Self::Es256 => "ES256",
        }
    }
}

/// `[auth]` and `[admin_auth]`: how tokens are verified.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthConfig {
    /// The one algorithm; HS256 without a secret if the subcommand does not require it.
    pub algorithm: Algorithm,
    /// Set if the algorithm is HS256.
    pub hs256_secret: Option<Secret>,
    /// File path or `http(s)` URL of the key set; set if the algorithm is RS256 or ES256.
    pub jwks: Option<String>,
    /// How long keys are used while the key set cannot be fetched.
    pub jwks_max_age: Duration,
    /// The required `iss`.
    pub issuer: String,
    /// The value that `aud` must contain.
    pub audience: String,
    /// How far `nbf` and `iat` may lie in the future.
    pub leeway: Duration,
}

impl AuthConfig {
    /// Whether both sections check tokens with the same keys, fetched in the same way.
    pub fn has_keys_of(&self, other: &Self) -> bool {
        self.algorithm == other.algorithm
            && self.hs256_secret == other.hs256_secret
            && self.jwks == other.jwks
            && self.jwks_max_age == other.jwks_max_age
    }
}

/// The operators' console.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleConfig {
    /// How operators sign in, besides pasting a token; `None` if not configured.
    pub oidc: Option<OidcConfig>,
}

/// An OpenID Connect provider, for the authorization code flow with PKCE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OidcConfig {
    /// The issuer's URL.
    pub issuer: String,
    /// The console's public client at the provider.
    pub client_id: String,
}

/// `[api]`: the client API.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The most requests per second and client; 0 for no limit.
    pub rate_limit_per_second: u32,
    /// The most requests that a client may send at once.
    pub rate_limit_burst: u32,
    /// The timeout of a request's head.
    pub header_timeout: Duration,
    /// The longest time that a connection may stay open between two requests.
    pub idle_timeout: Duration,
    /// The most connections from one address at a time; 0 for half of all.
    pub max_connections_per_address: usize,
    /// The origins of pages that may call the API from browsers; `*` for all.
    pub cors_origins: Vec<String>,
    /// The timeout of a response; a long poll's wait does not count.
    pub request_timeout: Duration,
    /// The timeout of a request's body.
    pub body_timeout: Duration,
    /// The largest body, in bytes.
    pub body_limit_bytes: usize,
    /// The most long polls and streams of one client at a time.
    pub max_waits_per_client: usize,
    /// The most long polls and streams in total.
    pub max_waits: usize,
    /// The most participations in the read model.
    pub model_capacity: usize,
    /// What the client's pages say about a loan's cost.
    pub repayment_rate: RepaymentRate,
}

/// What `repayment_rate` of a pre-offer is a percentage of. Scoring sends only a number, so the operator
/// configures its meaning. The client's pages compute no cost without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepaymentRate {
    /// Not configured: the pages show the rate and refer to the full terms.
    Unstated,
    /// Of the amount, charged once and repaid together with it, `term_days` days after the acceptance:
    /// the pages show the charge, the total and the day.
    OnceOfAmount,
}

impl RepaymentRate {
    /// Its name in the configuration and in the page.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unstated => "unstated",
            Self::OnceOfAmount => "once-of-amount",
        }
    }
}

/// `[admin]`: the admin API, metrics and probes.
#[derive(Clone, Debug, PartialEq)]
pub struct AdminConfig {
    /// The address to listen on.
    pub listen: SocketAddr,
    /// The longest silence within the body of an import, which may be of any size.
    pub import_body_timeout: Duration,
}

/// `[metrics]`: metrics and probes on a listener of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsConfig {
    /// The address to serve them on besides the admin listener; `None` for only the admin listener.
    pub listen: Option<SocketAddr>,
}

impl Config {
    /// The address of this process's probes, and the setting that it comes from.
    pub fn probes(&self) -> (SocketAddr, &'static str) {
        match self.metrics.listen {
            Some(address) => (address, "metrics.listen"),
            None => (self.admin.listen, "admin.listen"),
        }
    }
}

/// `[ingest]`: reading rides.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestConfig {
    /// The most records in a batch.
    pub batch_max_records: usize,
    /// The most records in a batch that are of clients with a live participation.
    pub batch_max_applied: usize,
    /// The most payload bytes in a batch.
    pub batch_max_bytes: usize,
    /// The longest time that a record waits for its batch to fill.
    pub batch_max_age: Duration,
    /// How often ingest checks that cluster and topic are still the same.
    pub identity_check_interval: Duration,
    /// How long a partition with rides to read may make no progress before ingest is not ready. After
    /// three times as long, the Kafka client is replaced.
    pub progress_timeout: Duration,
    /// librdkafka's buffer of fetched records, in KiB; its `queued.max.messages.kbytes`.
    pub queue_kbytes: u32,
}

/// `[relay]`: publishing status changes.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayConfig {
    /// The most events in one Kafka transaction.
    pub batch_max: usize,
    /// How often the relay checks the outbox without being woken.
    pub poll_interval: Duration,
}

/// `[sweep]`: expiring challenges and rewards.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepConfig {
    /// How long after its end a ride may be published and still count.
    pub allowed_lateness: Duration,
    /// The time between two rounds of the sweeper.
    pub interval: Duration,
    /// The most participations that expire in one transaction.
    pub batch_max: usize,
}

/// `[verify]`: recounting participations regularly.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyConfig {
    /// The time from the end of one recount to the start of the next; zero for no recounts.
    pub interval: Duration,
}

/// `[erase]`: erasing clients.
#[derive(Clone, Debug, PartialEq)]
pub struct EraseConfig {
    /// The key of the hashes of clients' ids in the erasure ledger, at least 32 bytes.
    pub secret: Option<Secret>,
    /// The topic of the ledger.
    pub topic: String,
}

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// For people.
    Pretty,
}

/// `[log]`: the log, on stderr.
#[derive(Clone, Debug, PartialEq)]
pub struct LogConfig {
    /// The format.
    pub format: LogFormat,
    /// Filter directives of `tracing`, such as `info,ride_promo=debug`.
    pub level: String,
}

/// `[traces]`: spans to an OpenTelemetry collector.
#[derive(Clone, Debug, PartialEq)]
pub struct TracesConfig {
    /// The base URL of an OTLP/HTTP receiver, without `/v1/traces`. `None` for no traces, also if they
    /// are disabled.
    pub otlp_endpoint: Option<String>,
    /// The share of the traces begun here that is recorded, 0 to 1. Other traces follow their caller.
    pub sample_ratio: f64,
    /// The most spans that wait to be sent; further ones are dropped.
    pub max_queue: usize,
}

impl Config {
    /// Reads the defaults, `file` if given, and this process's environment.
    pub fn load(file: Option<&Path>, needs: Needs) -> Result<Self, ConfigError> {
        let text = file
            .map(source::read_file)
            .transpose()
            .map_err(|problem| ConfigError {
                problems: vec![problem],
            })?;
        Self::from_sources(text.as_deref(), std::env::vars_os(), needs)
    }

    /// As [`Config::load`], from a file's text and any environment.
    pub fn from_sources(
        file: Option<&str>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        needs: Needs,
    ) -> Result<Self, ConfigError> {
        let (config, problems, _) = read(file, environment, needs);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(ConfigError { problems })
        }
    }
}

/// Reads all settings. Returns the configuration, with defaults in place of invalid values, the problems,
/// and every known key.
fn read(
    file: Option<&str>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    needs: Needs,
) -> (Config, Vec<ConfigProblem>, BTreeSet<String>) {
    let mut reader = SettingsReader::new(file, environment);
    let mut warnings = Vec::new();
    let database = database(&mut reader, needs.database);
    let kafka = kafka(&mut reader, needs.kafka);
    let topics = [
        kafka.ride_topic.clone(),
        kafka.status_topic.clone(),
        kafka.reminder_topic.clone(),
    ];
    let (auth, admin_auth) = auth::sections(&mut reader, needs.auth, &mut warnings);
    let config = Config {
        database,
        kafka,
        auth,
        admin_auth,
        console: console(&mut reader),
        api: api(&mut reader),
        admin: AdminConfig {
            listen: listen(&mut reader, "admin.listen", 8081),
            import_body_timeout: reader.duration(
                "admin.import_body_timeout",
                MINUTE,
                SECOND..=HOUR,
            ),
        },
        metrics: MetricsConfig {
            listen: reader.optional("metrics.listen", LISTEN, |text| text.parse().ok()),
        },
        ingest: IngestConfig {
            batch_max_records: reader.number("ingest.batch_max_records", 20_000, 1..=1_000_000),
            batch_max_applied: reader.number("ingest.batch_max_applied", 10_000, 1..=100_000),
            batch_max_bytes: reader.number("ingest.batch_max_bytes", 16 << 20, 65_536..=1 << 30),
            batch_max_age: reader.duration(
                "ingest.batch_max_age",
                100 * MILLISECOND,
                MILLISECOND..=10 * SECOND,
            ),
            identity_check_interval: reader.duration(
                "ingest.identity_check_interval",
                5 * SECOND,
                100 * MILLISECOND..=HOUR,
            ),
            progress_timeout: reader.duration("ingest.progress_timeout", MINUTE, SECOND..=HOUR),
            queue_kbytes: reader.number("ingest.queue_kbytes", 8_192, 1_024..=2_097_151),
        },
        relay: RelayConfig {
            batch_max: reader.number("relay.batch_max", 3_000, 1..=50_000),
            poll_interval: reader.duration(
                "relay.poll_interval",
                200 * MILLISECOND,
                10 * MILLISECOND..=MINUTE,
            ),
        },
        sweep: SweepConfig {
            allowed_lateness: reader.duration(
                "sweep.allowed_lateness",
                10 * MINUTE,
                Duration::ZERO..=30 * DAY,
            ),
            interval: reader.duration("sweep.interval", SECOND, 50 * MILLISECOND..=HOUR),
            batch_max: reader.number("sweep.batch_max", 500, 1..=10_000),
        },
        verify: VerifyConfig {
            interval: reader.duration("verify.interval", Duration::ZERO, Duration::ZERO..=30 * DAY),
        },
        erase: erase(&mut reader, &topics),
        log: log(&mut reader),
        traces: traces(&mut reader),
        shutdown_timeout: reader.duration("shutdown_timeout", 25 * SECOND, SECOND..=HOUR),
        warnings,
        settings: BTreeMap::new(),
    };
    let config = Config {
        settings: reader.settings(),
        ..config
    };
    let (problems, known) = reader.finish();
    (config, problems, known)
}

/// The form of a listener's address, for error messages.
const LISTEN: &str = "an IP address and a port, such as 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080";

fn listen(reader: &mut SettingsReader, key: &str, port: u16) -> SocketAddr {
    reader.value(
        key,
        SocketAddr::from(([127, 0, 0, 1], port)),
        LISTEN,
        |text| text.parse().ok(),
    )
}

fn database(reader: &mut SettingsReader, needed: bool) -> DatabaseConfig {
    const KEY: &str = "database.url";
    let set = reader.is_set(KEY);
    let url_file = reader.secret_file(KEY);
    let url = reader.secret(KEY, |text| {
        DatabaseUrl::parse(text)
            .map(drop)
            .map_err(|error| error.to_string().into())
    });
    if needed && !set {
        reader.problem(
            KEY,
            "is missing; set DATABASE_URL to postgres://user:password@host:port/database",
        );
    }
    DatabaseConfig {
        url: url.unwrap_or_default(),
        url_file,
        max_connections: reader.number("database.max_connections", 16, 2..=1_000),
    }
}

fn kafka(reader: &mut SettingsReader, needed: bool) -> KafkaConfig {
    const KEY: &str = "kafka.brokers";
    if needed && !reader.is_set(KEY) {
        reader.problem(
            KEY,
            "is missing; set KAFKA_BROKERS to host:port, or several with commas between",
        );
    }
    let brokers = reader.value(
        KEY,
        String::new(),
        "host:port, or several with commas between",
        |text| text.split(',').all(is_broker).then(|| text.to_owned()),
    );
    let mut topic = |key: &str, default: &str| {
        reader.value(
            key,
            default.to_owned(),
            "a topic name: 1 to 249 of the characters a-z A-Z 0-9 . _ -",
            |text| is_topic(text).then(|| text.to_owned()),
        )
    };
    let ride_topic = topic("kafka.ride_topic", "ride-completed");
    let status_topic = topic("kafka.status_topic", "promotion-status");
    let reminder_topic = topic("kafka.reminder_topic", "promotion-reminder");
    for (key, name, others) in [
        (
            "kafka.status_topic",
            &status_topic,
            &[("kafka.ride_topic", &ride_topic)][..],
        ),
        (
            "kafka.reminder_topic",
            &reminder_topic,
            &[
                ("kafka.ride_topic", &ride_topic),
                ("kafka.status_topic", &status_topic),
            ],
        ),
    ] {
        if let Some((other, _)) = others.iter().find(|(_, other)| *other == name) {
            let message = format!("{name:?} is {other} too; expected another topic");
            reader.problem(key, message);
        }
    }
    // Read before the properties, which take the same keys.
    let property_files = reader.property_files();
    let (properties, each_is_valid) = properties(reader);
    let config = KafkaConfig {
        brokers,
        ride_topic,
        status_topic,
        reminder_topic,
        group_id: text(reader, "kafka.group_id"),
        create_topics: reader.flag("kafka.create_topics", true),
        partitions: reader.number("kafka.partitions", 12, 1..=10_000),
        replication_factor: reader.number("kafka.replication_factor", 1, 1..=100),
        property_files,
        properties,
    };
    if each_is_valid
        && !config.properties.is_empty()
        && let Err((name, reason)) = kafka::check_properties(&config)
    {
        let message = format!("is missing, or not valid with the other properties: {reason}");
        reader.problem(&format!("kafka.properties.{name}"), message);
    }
    config
}

fn erase(reader: &mut SettingsReader, others: &[String]) -> EraseConfig {
    const TOPIC: &str = "erase.topic";
    let secret = reader.secret("erase.secret", |text| {
        if text.len() >= 32 {
            Ok(())
        } else {
            Err("is shorter than 32 bytes".into())
        }
    });
    let topic = reader.value(
        TOPIC,
        "ride-promo-erasures".to_owned(),
        "a topic name: 1 to 249 of the characters a-z A-Z 0-9 . _ -",
        |text| is_topic(text).then(|| text.to_owned()),
    );
    if others.contains(&topic) {
        let message = format!("{topic:?} is a topic of [kafka] too; expected another topic");
        reader.problem(TOPIC, message);
    }
    EraseConfig { secret, topic }
}

/// A name, by default the service's name.
fn text(reader: &mut SettingsReader, key: &str) -> String {
    reader.value(
        key,
        "ride-promo".to_owned(),
        "1 to 200 printable characters",
        |text| {
            let printable = !text.chars().any(char::is_control) && text.trim() == text;
            (printable && (1..=200).contains(&text.len())).then(|| text.to_owned())
        },
    )
}

fn is_broker(text: &str) -> bool {
    let text = text.trim();
    // librdkafka accepts a protocol as a prefix, `PLAINTEXT://host:port`.
    let address = text.split_once("://").map_or(text, |(_, address)| address);
    match address.rsplit_once(':') {
        Some((host, port)) => {
            !host.is_empty()
                && !host.contains(char::is_whitespace)
                && port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        None => false,
    }
}

fn is_topic(text: &str) -> bool {
    (1..=249).contains(&text.len())
        && text != "."
        && text != ".."
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}

/// The properties, and whether librdkafka accepts all of them.
fn properties(reader: &mut SettingsReader) -> (BTreeMap<String, String>, bool) {
    let properties = reader.properties();
    let mut each_is_valid = true;
    for (name, value) in &properties {
        let key = format!("kafka.properties.{name}");
        if RESERVED_PROPERTIES.contains(&name.as_str()) {
            each_is_valid = false;
            reader.problem(
                &key,
                "is set by ride-promo itself and cannot be changed; expected any other librdkafka property",
            );
        } else if rdkafka::ClientConfig::new()
            .set(name, value)
            .create_native_config()
            .is_err()
        {
            each_is_valid = false;
            // librdkafka's own message contains the value, which may be a password.
            reader.problem(
                &key,
                "is not a librdkafka property, or has an invalid value (not shown here); see librdkafka's CONFIGURATION.md",
            );
        }
    }
    (properties, each_is_valid)
}

fn console(reader: &mut SettingsReader) -> ConsoleConfig {
    const ISSUER: &str = "console.oidc_issuer";
    const CLIENT_ID: &str = "console.oidc_client_id";
    let issuer = reader.optional(
        ISSUER,
        "an https URL without a query; http on the loopback interface only",
        oidc_issuer,
    );
    let client_id = reader.optional(
        CLIENT_ID,
        "1 to 200 printable ASCII characters without \" < > & '",
        |text| {
            let plain = |byte: u8| byte.is_ascii_graphic() && !b"\"<>&'".contains(&byte);
            let taken = (1..=200).contains(&text.len()) && text.bytes().all(plain);
            taken.then(|| text.to_owned())
        },
    );
    if issuer.is_some() != client_id.is_some() {
        let (missing, other) = match issuer {
            Some(_) => (CLIENT_ID, ISSUER),
            None => (ISSUER, CLIENT_ID),
        };
        reader.problem(missing, format!("is needed with {other}"));
    }
    ConsoleConfig {
        oidc: issuer
            .zip(client_id)
            .map(|(issuer, client_id)| OidcConfig { issuer, client_id }),
    }
}

/// An issuer's URL, kept as it is written: it is compared as text with the provider's.
fn oidc_issuer(text: &str) -> Option<String> {
    let url = reqwest::Url::parse(text).ok()?;
    let host = url.host_str()?;
    let is_loopback = host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let is_safe = url.scheme() == "https" || (url.scheme() == "http" && is_loopback);
    let is_plain = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && !text.contains(['"', '<', '>', '&', '\'', ' ']);
    (is_safe && is_plain).then(|| text.to_owned())
}

fn api(reader: &mut SettingsReader) -> ApiConfig {
    ApiConfig {
        listen: listen(reader, "api.listen", 8080),
        rate_limit_per_second: reader.number("api.rate_limit_per_second", 50, 0..=1_000_000),
        rate_limit_burst: reader.number("api.rate_limit_burst", 100, 1..=1_000_000),
        header_timeout: reader.duration("api.header_timeout", 10 * SECOND, SECOND..=5 * MINUTE),
        idle_timeout: reader.duration("api.idle_timeout", 75 * SECOND, SECOND..=15 * MINUTE),
        max_connections_per_address: reader.number(
            "api.max_connections_per_address",
            0,
            0..=1_000_000,
        ),
        cors_origins: reader.value(
            "api.cors_origins",
            Vec::new(),
            "*, or origins such as https://app.example.org with commas between",
            cors_origins,
        ),
        request_timeout: reader.duration("api.request_timeout", 30 * SECOND, SECOND..=10 * MINUTE),
        body_timeout: reader.duration("api.body_timeout", 10 * SECOND, SECOND..=5 * MINUTE),
        body_limit_bytes: reader.number("api.body_limit_bytes", 65_536, 1_024..=16 << 20),
        max_waits_per_client: reader.number("api.max_waits_per_client", 16, 1..=1_000),
        max_waits: reader.number("api.max_waits", 20_000, 1..=1_000_000),
        model_capacity: reader.number("api.model_capacity", 200_000, 1_000..=100_000_000),
        repayment_rate: reader.value(
            "api.repayment_rate",
            RepaymentRate::Unstated,
            "unstated or once-of-amount",
            |text| {
                [RepaymentRate::Unstated, RepaymentRate::OnceOfAmount]
                    .into_iter()
                    .find(|rate| rate.as_str() == text)
            },
        ),
    }
}

fn log(reader: &mut SettingsReader) -> LogConfig {
    LogConfig {
        format: reader.value(
            "log.format",
            LogFormat::Json,
            "json or pretty",
            |text| match text {
                "json" => Some(LogFormat::Json),
                "pretty" => Some(LogFormat::Pretty),
                _ => None,
            },
        ),
        level: reader.value(
            "log.level",
            "info".to_owned(),
            "filter directives, such as info or warn,ride_promo=debug",
            |text| EnvFilter::try_new(text).ok().map(|_| text.to_owned()),
        ),
    }
}

fn traces(reader: &mut SettingsReader) -> TracesConfig {
    // As OpenTelemetry specifies for OTEL_SDK_DISABLED: any value except `true` is false.
    let is_true = |text: &str| Some(text.eq_ignore_ascii_case("true"));
    let disabled = reader.value("traces.disabled", false, "true or false", is_true);
    TracesConfig {
        otlp_endpoint: reader
            .optional(
                "traces.otlp_endpoint",
                "an http or https URL, such as http://localhost:4318",
                |text| {
                    let http = text.starts_with("http://") || text.starts_with("https://");
                    let url = reqwest::Url::parse(text).ok().filter(|_| http)?;
                    (url.has_host() && url.query().is_none() && url.fragment().is_none())
                        .then(|| text.trim_end_matches('/').to_owned())
                },
            )
            .filter(|_| !disabled),
        sample_ratio: reader.value(
            "traces.sample_ratio",
            1.0,
            "a number from 0 to 1, such as 0.05",
            |text| {
                text.parse()
                    .ok()
                    .filter(|ratio| (0.0..=1.0).contains(ratio))
            },
        ),
        max_queue: reader.number("traces.max_queue", 2_048, 1..=1_000_000),
    }
}

/// Origins as browsers send them (RFC 6454, 6.2): scheme and host in lower case, a port only if it is not
/// the scheme's default, no path.
fn cors_origins(text: &str) -> Option<Vec<String>> {
    let origin = |text: &str| {
        let url = reqwest::Url::parse(text).ok()?;
        let http = ["http", "https"].contains(&url.scheme());
        // Patterns are not supported.
        let whole = http && !text.contains('*');
        (whole && url.origin().ascii_serialization() == text).then(|| text.to_owned())
    };
    match text.trim() {
        "*" => Some(vec!["*".to_owned()]),
        list => list.split(',').map(|text| origin(text.trim())).collect(),
    }
}
