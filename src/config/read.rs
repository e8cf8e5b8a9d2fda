//! Reads every section of the configuration, with its defaults and bounds.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::source::{ConfigProblem, SettingsReader};
use super::{
    AdminConfig, ApiConfig, Config, ConsoleConfig, DatabaseConfig, EraseConfig, IngestConfig,
    KafkaConfig, LogConfig, LogFormat, MetricsConfig, Needs, OidcConfig, RESERVED_PROPERTIES,
    RelayConfig, RepaymentRate, SweepConfig, TracesConfig, VerifyConfig, auth,
};
use crate::kafka;
use crate::postgres::DatabaseUrl;

const MILLISECOND: Duration = Duration::from_millis(1);
pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
pub(super) const DAY: Duration = Duration::from_secs(86_400);

/// Reads all settings. Returns the configuration, with defaults in place of invalid values, the problems,
/// and every known key.
pub(super) fn read(
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
            batch_max_records: reader.number("ingest.batch_max_records", 25_000, 1..=1_000_000),
            batch_max_applied: reader.number("ingest.batch_max_applied", 25_000, 1..=100_000),
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
pub(super) fn text(reader: &mut SettingsReader, key: &str) -> String {
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

pub(super) fn is_broker(text: &str) -> bool {
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

pub(super) fn is_topic(text: &str) -> bool {
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
