use std::collections::BTreeSet;

use super::read::{is_broker, is_topic};
use super::*;

fn env(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
    pairs
        .iter()
        .map(|(name, value)| (name.into(), value.into()))
        .collect()
}

const REQUIRED: [(&str, &str); 4] = [
    ("DATABASE_URL", "postgres://u:hunter2@db:5432/promo"),
    ("KAFKA_BROKERS", "kafka:9092"),
    ("RIDE_PROMO__AUTH__ALGORITHM", "HS256"),
    (
        "RIDE_PROMO__AUTH__HS256_SECRET",
        "0123456789abcdef0123456789abcdef",
    ),
];

fn load(file: Option<&str>, more: &[(&str, &str)]) -> Result<Config, Vec<String>> {
    let mut pairs = REQUIRED.to_vec();
    pairs.extend(more);
    Config::from_sources(file, env(&pairs), Needs::ALL).map_err(|error| {
        error
            .problems
            .iter()
            .map(std::string::ToString::to_string)
            .collect()
    })
}

#[test]
fn a_provider_needs_both_settings_and_a_safe_url() {
    let read = |settings: &[(&str, &str)]| {
        let required = [
            ("DATABASE_URL", "postgres://db/promo"),
            ("KAFKA_BROKERS", "a:1"),
            ("RIDE_PROMO__AUTH__ALGORITHM", "HS256"),
            (
                "RIDE_PROMO__AUTH__HS256_SECRET",
                "a secret for tests, long enough for HS256",
            ),
        ];
        let set = required.iter().chain(settings);
        let set = set.map(|(name, value)| ((*name).into(), (*value).into()));
        Config::from_sources(None, set, Needs::ALL)
    };
    let (issuer, client) = (
        "RIDE_PROMO__CONSOLE__OIDC_ISSUER",
        "RIDE_PROMO__CONSOLE__OIDC_CLIENT_ID",
    );
    assert_eq!(read(&[]).expect("valid").console.oidc, None);
    for url in [
        "https://id.example.com/realms/a",
        "http://127.0.0.1:9",
        "http://[::1]:9",
        "http://localhost",
    ] {
        let config = read(&[(issuer, url), (client, "console")]).expect(url);
        assert_eq!(config.console.oidc.expect("set").issuer, url);
    }
    for url in [
        "http://id.example.com",
        "https://id.example.com?a=b",
        "https://me@id.example.com",
        "id.example.com",
        "https://id.example.com/\"><b>",
    ] {
        assert!(
            read(&[(issuer, url), (client, "console")]).is_err(),
            "{url}"
        );
    }
    assert!(read(&[(issuer, "https://id.example.com"), (client, "a b")]).is_err());
    for alone in [(issuer, "https://id.example.com"), (client, "console")] {
        let error = read(&[alone]).expect_err("one without the other");
        assert!(error.to_string().contains("is needed with"), "{error}");
    }
}

#[test]
fn what_was_set_is_told_without_what_is_secret() {
    let file =
        "[api]\nlisten = \"127.0.0.1:1\"\n[kafka.properties]\n\"sasl.password\" = \"hunter2\"\n";
    let environment = [
        ("DATABASE_URL", "postgres://me:hunter2@db/promo"),
        ("KAFKA_BROKERS", "a:1"),
        ("RIDE_PROMO__AUTH__ALGORITHM", "HS256"),
        (
            "RIDE_PROMO__AUTH__HS256_SECRET",
            "hunter2 hunter2 hunter2 hunter2 hunter2",
        ),
        (
            "RIDE_PROMO__TRACES__OTLP_ENDPOINT",
            "http://me:hunter2@collector:4318",
        ),
    ];
    let environment = environment.map(|(name, value)| (name.into(), value.into()));
    let config = Config::from_sources(Some(file), environment, Needs::ALL).expect("valid");
    let shown = format!("{:?}", config.settings);
    assert!(!shown.contains("hunter2"), "{shown}");
    let setting = |key: &str| &config.settings[key];
    assert_eq!(setting("api.listen").value.as_deref(), Some("127.0.0.1:1"));
    assert_eq!(setting("api.listen").variable, None);
    assert_eq!(
        setting("kafka.brokers").variable.as_deref(),
        Some("KAFKA_BROKERS")
    );
    assert_eq!(setting("kafka.brokers").value.as_deref(), Some("a:1"));
    for secret in [
        "database.url",
        "auth.hs256_secret",
        "kafka.properties.sasl.password",
        "traces.otlp_endpoint",
    ] {
        assert_eq!(setting(secret).value, None, "{secret}");
    }
    assert!(!config.settings.contains_key("api.request_timeout"));
}

#[test]
fn defaults_need_only_what_has_none() {
    let config = load(None, &[]).expect("loads");
    assert_eq!(config.api.listen, "127.0.0.1:8080".parse().expect("addr"));
    assert_eq!(config.admin.listen, "127.0.0.1:8081".parse().expect("addr"));
    assert_eq!(config.probes(), (config.admin.listen, "admin.listen"));
    let apart = load(None, &[("RIDE_PROMO__METRICS__LISTEN", "0.0.0.0:8082")]).expect("loads");
    let address = "0.0.0.0:8082".parse().expect("addr");
    assert_eq!(apart.probes(), (address, "metrics.listen"));
    assert_eq!(config.sweep.allowed_lateness, Duration::from_secs(600));
    assert_eq!(config.auth, config.admin_auth);
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn what_is_not_needed_may_be_missing_but_not_wrong() {
    assert!(Config::from_sources(None, env(&[]), Needs::NOTHING).is_ok());
    let problems = Config::from_sources(None, env(&[]), Needs::ALL)
        .expect_err("all missing")
        .problems;
    let keys: Vec<&str> = problems.iter().map(|problem| &*problem.key).collect();
    assert_eq!(keys, ["database.url", "kafka.brokers", "auth.algorithm"]);
    let wrong = env(&[("KAFKA_BROKERS", "kafka")]);
    assert!(Config::from_sources(None, wrong, Needs::DATABASE).is_err());
}

#[test]
fn the_environment_wins_over_the_file_and_the_prefix_over_the_plain_name() {
    let file = "[database]\nurl_file = \"/nowhere\"\n[kafka]\npartitions = 3\nride_topic = 'r'";
    let config = load(
        Some(file),
        &[
            ("RIDE_PROMO__KAFKA__PARTITIONS", "7"),
            ("RIDE_PROMO__KAFKA__BROKERS", "a:1, b:2"),
            ("RIDE_PROMO__API__LISTEN", ""),
        ],
    )
    .expect("loads");
    assert_eq!(config.kafka.partitions, 7);
    assert_eq!(config.kafka.ride_topic, "r");
    assert_eq!(config.kafka.brokers, "a:1, b:2");
    assert!(config.database.url.expose().contains("hunter2"));
}

#[test]
fn everything_wrong_is_reported_at_once_by_key_value_and_form() {
    let file = "shutdown_timeout = 'soon'\n[api]\nlisten = 8080\nlistem = 'x'\n[sweep]\ninterval = ['PT1S']\n[kafka]\nstatus_topic = 'ride-completed'\nreminder_topic = 'ride-completed'";
    let problems = load(
        Some(file),
        &[
            ("RIDE_PROMO__API__RATE_LIMIT_BURST", "-1"),
            ("RIDE_PROMO__KAFKA__CREATE_TOPICS", "perhaps"),
            ("RIDE_PROMO__KAFKA__PARTITONS", "12"),
            ("RIDE_PROMO__LOG__LEVEL", "ride_promo=loud"),
        ],
    )
    .expect_err("wrong");
    let all = problems.join("\n");
    for expected in [
        "shutdown_timeout: \"soon\" is not an ISO 8601 duration from PT1S to PT1H, such as PT25S",
        "api.listen: \"8080\" is not an IP address and a port",
        "api.listem: unknown key; did you mean api.listen?",
        "sweep.interval: is not a single plain value; expected an ISO 8601 duration",
        "api.rate_limit_burst: \"-1\" (from RIDE_PROMO__API__RATE_LIMIT_BURST) is not a whole number from 1 to 1000000",
        "kafka.create_topics: \"perhaps\" (from RIDE_PROMO__KAFKA__CREATE_TOPICS) is not true or false",
        "kafka.partitons: unknown key (from RIDE_PROMO__KAFKA__PARTITONS); did you mean kafka.partitions?",
        "log.level: \"ride_promo=loud\"",
        "kafka.status_topic: \"ride-completed\" is kafka.ride_topic too",
        "kafka.reminder_topic: \"ride-completed\" is kafka.ride_topic too",
    ] {
        assert!(all.contains(expected), "{expected}\n--\n{all}");
    }
    assert_eq!(problems.len(), 10, "{all}");
}

#[test]
fn secrets_are_never_shown() {
    let config = load(
        None,
        &[(
            "RIDE_PROMO__KAFKA__PROPERTIES__SASL_PASSWORD",
            "correct horse",
        )],
    )
    .expect("loads");
    assert_eq!(
        config.kafka.properties["sasl.password"], "correct horse",
        "handed through"
    );
    let shown = format!("{config:?}");
    for secret in ["hunter2", "0123456789abcdef", "correct horse"] {
        assert!(!shown.contains(secret), "{shown}");
    }
    let file = "[kafka]\npassword = \"correct horse";
    let problems = load(
        Some(file),
        &[("RIDE_PROMO__DATABASE__URL", "mysql://u:hunter3@db/x")],
    )
    .expect_err("wrong")
    .join("\n");
    assert!(!problems.contains("hunter3"), "{problems}");
    assert!(!problems.contains("correct horse"), "{problems}");
    assert!(problems.contains("file: line 2 is not TOML"), "{problems}");
    assert!(
        problems.contains(
            "database.url: the value (from RIDE_PROMO__DATABASE__URL), not shown here, is not a URL"
        ),
        "{problems}"
    );
}

#[test]
fn a_secret_comes_from_a_file_too_but_not_from_both() {
    let file = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(file.path(), "from-a-file-that-is-long-enough-for-it\n").expect("write");
    let path = file.path().to_str().expect("path").to_owned();
    let name = "RIDE_PROMO__ADMIN_AUTH__HS256_SECRET_FILE";
    let config = load(None, &[(name, &path)]).expect("loads");
    assert_eq!(
        config.admin_auth.hs256_secret,
        Some(Secret::new("from-a-file-that-is-long-enough-for-it"))
    );
    assert_ne!(config.auth.hs256_secret, config.admin_auth.hs256_secret);
    let both = load(
        None,
        &[(name, &path), ("RIDE_PROMO__ADMIN_AUTH__HS256_SECRET", "x")],
    );
    assert_eq!(
        both.expect_err("both"),
        ["admin_auth.hs256_secret: is set together with admin_auth.hs256_secret_file; set one"]
    );
    let missing = load(None, &[(name, "/nowhere")]).expect_err("missing");
    assert!(missing[0].starts_with("admin_auth.hs256_secret_file: \"/nowhere\" (from "));
}

#[test]
fn one_algorithm_and_its_key() {
    let pairs = |more: &[(&str, &str)]| {
        let mut pairs = vec![REQUIRED[0], REQUIRED[1]];
        pairs.extend(more);
        Config::from_sources(None, env(&pairs), Needs::ALL)
    };
    let keys = |result: Result<Config, ConfigError>| -> Vec<String> {
        let problems = result.expect_err("wrong").problems;
        problems.into_iter().map(|problem| problem.key).collect()
    };
    assert_eq!(
        keys(pairs(&[("RIDE_PROMO__AUTH__ALGORITHM", "RS256")])),
        ["auth.jwks"]
    );
    assert_eq!(
        keys(pairs(&[("RIDE_PROMO__AUTH__ALGORITHM", "HS256")])),
        ["auth.hs256_secret"]
    );
    assert_eq!(
        keys(pairs(&[("RIDE_PROMO__AUTH__ALGORITHM", "none")])),
        ["auth.algorithm"]
    );
    assert_eq!(
        keys(load_admin(&[(
            "RIDE_PROMO__ADMIN_AUTH__ALGORITHM",
            "ES256"
        )])),
        ["admin_auth.jwks"]
    );
    let config = load_admin(&[
        ("RIDE_PROMO__ADMIN_AUTH__ALGORITHM", "ES256"),
        (
            "RIDE_PROMO__ADMIN_AUTH__JWKS",
            "https://id.example.org/keys",
        ),
        ("RIDE_PROMO__ADMIN_AUTH__AUDIENCE", "promo-admin"),
    ])
    .expect("loads");
    assert_eq!(config.admin_auth.audience, "promo-admin");
    assert_eq!(config.admin_auth.issuer, "ride-promo");
    assert_eq!(config.admin_auth.hs256_secret, None);
    assert_eq!(config.auth.algorithm, Algorithm::Hs256);
}

fn load_admin(more: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut pairs = REQUIRED.to_vec();
    pairs.extend(more);
    Config::from_sources(None, env(&pairs), Needs::ALL)
}

#[test]
fn a_short_secret_is_a_warning() {
    let config = load(None, &[("RIDE_PROMO__AUTH__HS256_SECRET", "short")]).expect("loads");
    assert_eq!(config.warnings.len(), 1);
    assert!(!config.warnings[0].contains("short\""));
}

#[test]
fn properties_are_handed_through_but_ours_stay_ours() {
    let file = "[kafka.properties]\n\"linger.ms\" = 5\nsecurity.protocol = \"PLAINTEXT\"\n\"enable.auto.commit\" = true\n\"no.such.thing\" = 1";
    let (config, problems, _) = read(Some(file), env(&REQUIRED), Needs::ALL);
    assert_eq!(config.kafka.properties["linger.ms"], "5");
    assert_eq!(config.kafka.properties["security.protocol"], "PLAINTEXT");
    let keys: Vec<&str> = problems.iter().map(|problem| &*problem.key).collect();
    assert_eq!(
        keys,
        [
            "kafka.properties.enable.auto.commit",
            "kafka.properties.no.such.thing"
        ]
    );
}

#[test]
fn properties_that_are_wrong_only_together_are_named() {
    let keys = |lines: &str| -> Vec<String> {
        let file = format!("[kafka.properties]\n{lines}");
        let (_, problems, _) = read(Some(&file), env(&REQUIRED), Needs::ALL);
        problems.into_iter().map(|problem| problem.key).collect()
    };
    assert_eq!(
        keys("security.protocol = \"SASL_SSL\""),
        ["kafka.properties.sasl.mechanisms"]
    );
    assert_eq!(
        keys("security.protocol = \"SSL\"\nssl.ca.location = \"/no/such/file\""),
        ["kafka.properties.ssl.ca.location"]
    );
    assert_eq!(keys("security.protocol = \"SSL\"").len(), 0);
}

#[test]
fn traces_are_off_until_an_endpoint_is_named() {
    assert_eq!(load(None, &[]).expect("loads").traces.otlp_endpoint, None);
    let standard = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318/");
    let config = load(Some("[traces]\nsample_ratio = 0.25"), &[standard]).expect("loads");
    let traces = config.traces;
    assert_eq!(
        traces.otlp_endpoint.as_deref(),
        Some("http://collector:4318")
    );
    assert_eq!((traces.sample_ratio, traces.max_queue), (0.25, 2_048));
    for (value, is_off) in [
        ("true", true),
        ("TRUE", true),
        ("false", false),
        ("", false),
        ("1", false),
    ] {
        let variables = [standard, ("OTEL_SDK_DISABLED", value)];
        let endpoint = load(None, &variables).expect(value).traces.otlp_endpoint;
        assert_eq!(endpoint.is_none(), is_off, "{value}");
    }
    for (key, value) in [
        ("RIDE_PROMO__TRACES__OTLP_ENDPOINT", "collector:4318"),
        ("RIDE_PROMO__TRACES__SAMPLE_RATIO", "1.1"),
        ("RIDE_PROMO__TRACES__SAMPLE_RATIO", "NaN"),
        ("RIDE_PROMO__TRACES__MAX_QUEUE", "0"),
    ] {
        assert_eq!(load(None, &[(key, value)]).expect_err(value).len(), 1);
    }
}

#[test]
fn brokers_and_topics_have_their_forms() {
    for good in ["a:1", "a:1,b:2", " a:1 , b:2", "[::1]:9092", "SSL://a:9093"] {
        assert!(good.split(',').all(is_broker), "{good}");
    }
    for bad in ["", "a", "a:", ":1", "a:0", "a:70000", "a:1,", "a b:1"] {
        assert!(!bad.split(',').all(is_broker), "{bad}");
    }
    assert!(is_topic("a.b_c-9") && !is_topic("") && !is_topic("..") && !is_topic("a b"));
}

/// The keys of the example, those that are commented out (`#key = …`, no space) as well.
fn example_keys(text: &str) -> BTreeSet<String> {
    let live: String = text
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '"') => rest,
            _ => line,
        })
        .flat_map(|line| [line, "\n"])
        .collect();
    let table: toml::Table = live.parse().expect("the example is TOML");
    let mut keys = BTreeSet::new();
    for (name, value) in table {
        match value {
            toml::Value::Table(section) => keys.extend(
                section
                    .into_iter()
                    .filter(|(key, _)| key != "properties")
                    .map(|(key, _)| format!("{name}.{key}")),
            ),
            _ => {
                keys.insert(name);
            }
        }
    }
    keys
}

#[test]
fn the_example_has_every_key_and_says_the_defaults() {
    let example = include_str!("../../config.example.toml");
    let (defaults, problems, known) = read(None, env(&REQUIRED), Needs::ALL);
    assert_eq!(problems, []);
    let (config, problems, _) = read(Some(example), env(&REQUIRED), Needs::ALL);
    assert_eq!(problems, []);
    // Only the values are compared, not where they were set.
    let unset = |config| Config {
        settings: BTreeMap::new(),
        ..config
    };
    assert_eq!(unset(config), unset(defaults));
    assert_eq!(example_keys(example), known);
    // The example shows each default as a live line. Only a key without a default may be commented
    // out.
    let commented: Vec<&str> = example
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()))
        .filter_map(|line| line.split(' ').next())
        .collect();
    for key in commented {
        assert!(
            [
                // In [metrics]; the other listeners have a default.
                "listen",
                "url",
                "url_file",
                "brokers",
                "algorithm",
                "secret",
                "secret_file",
                "hs256_secret",
                "hs256_secret_file",
                "jwks",
                "issuer",
                "audience",
                "otlp_endpoint",
                "cors_origins",
                "oidc_issuer",
                "oidc_client_id",
                // in [admin_auth], where the default is the value of [auth]
                "jwks_max_age",
                "leeway",
            ]
            .contains(&key),
            "{key} has a default"
        );
    }
}

#[test]
fn what_is_said_of_operators_tokens_is_used_or_refused() {
    let jwks = "https://id.example.org/jwks.json";
    let problems = load(None, &[("RIDE_PROMO__ADMIN_AUTH__JWKS", jwks)]).expect_err("unused");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("admin_auth.jwks: is not used with the algorithm HS256"));
    let problems = load(
        None,
        &[
            ("RIDE_PROMO__ADMIN_AUTH__ALGORITHM", "RS256"),
            ("RIDE_PROMO__ADMIN_AUTH__JWKS", jwks),
            ("RIDE_PROMO__ADMIN_AUTH__HS256_SECRET", "0123456789abcdef"),
        ],
    )
    .expect_err("unused");
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].starts_with("admin_auth.hs256_secret: is not used"));
    let config = load(
        None,
        &[
            ("RIDE_PROMO__ADMIN_AUTH__ALGORITHM", "RS256"),
            ("RIDE_PROMO__ADMIN_AUTH__JWKS", jwks),
            ("RIDE_PROMO__ADMIN_AUTH__JWKS_MAX_AGE", "PT2H"),
            ("RIDE_PROMO__AUTH__LEEWAY", "PT1S"),
        ],
    )
    .expect("used");
    assert_eq!(config.admin_auth.jwks_max_age, Duration::from_secs(7_200));
    assert_eq!(config.admin_auth.leeway, Duration::from_secs(1));
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn weak_keys_of_tokens_are_warned_of_in_both_sections() {
    let config = load(None, &[("RIDE_PROMO__ADMIN_AUTH__HS256_SECRET", "short")]);
    let warnings = config.expect("loads").warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("admin_auth.hs256_secret is shorter"));
    let config = load(
        None,
        &[
            ("RIDE_PROMO__ADMIN_AUTH__ALGORITHM", "ES256"),
            (
                "RIDE_PROMO__ADMIN_AUTH__JWKS",
                "http://id.example.org/jwks.json",
            ),
        ],
    );
    let warnings = config.expect("loads").warnings;
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].starts_with("admin_auth.jwks is fetched without TLS"));
}

#[test]
fn origins_are_written_as_browsers_send_them() {
    let origins = |text: &str| load(None, &[("RIDE_PROMO__API__CORS_ORIGINS", text)]);
    let config = origins("https://app.example.org, http://localhost:3000").expect("loads");
    assert_eq!(
        config.api.cors_origins,
        ["https://app.example.org", "http://localhost:3000"]
    );
    assert_eq!(origins("*").expect("loads").api.cors_origins, ["*"]);
    for wrong in [
        "app.example.org",
        "https://app.example.org/",
        "https://App.example.org",
        "https://app.example.org:443",
        "https://app.example.org/app",
        "*, https://app.example.org",
        "null",
        "ftp://app.example.org",
        "https://*.example.org",
    ] {
        assert!(origins(wrong).is_err(), "{wrong}");
    }
}
