//! Configuration: one struct per concern, read from the defaults, then a TOML file, then the
//! environment. All errors are reported at once, before the process connects to anything.
//!
//! A key `section.name` of the file is the variable `RIDE_PROMO__SECTION__NAME`. An empty variable
//! counts as not set. An unknown key or `RIDE_PROMO__` variable is an error, since it is most likely
//! a typo. Secrets can be read from a file (`…_FILE`). `config.example.toml` lists every key with its
//! default and meaning.

mod auth;
mod read;
mod secret;
mod source;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use read::read;
pub use secret::Secret;
pub use source::{ConfigProblem, Setting};

pub use crate::domain::period::format_duration;

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
    /// The most connections of this process's pool. Ingest and relay each hold one more of their own,
    /// api two.
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
    /// About how many events a Kafka transaction has: rows of the outbox are read until they have as many,
    /// and the last one may have 999 more.
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
