//! `doctor`: each check passes, or fails with a remedy; and the remedy works.

use std::fs;

use serde_json::json;

use crate::harness::*;

/// The doctor's lines, and whether it found everything well.
struct Findings {
    code: Option<i32>,
    lines: Vec<String>,
}

impl Findings {
    async fn of(doctor: Cli) -> Self {
        let output = doctor.run().await;
        Self {
            code: output.status.code(),
            lines: output.stdout.lines().map(str::to_owned).collect(),
        }
    }

    /// The `ok` line about this subject that says this.
    #[track_caller]
    fn ok(&self, subject: &str, says: &str) {
        self.line("ok    ", subject, says);
    }

    /// What to do, of the `FAIL` line about this subject that says this.
    #[track_caller]
    fn cure(&self, subject: &str, says: &str) -> String {
        assert_eq!(self.code, Some(1), "{:#?}", self.lines);
        let line = self.line("FAIL  ", subject, says);
        let (_, cure) = line
            .rsplit_once(" -> ")
            .unwrap_or_else(|| panic!("nothing to do in {line}"));
        cure.to_owned()
    }

    #[track_caller]
    fn line(&self, verdict: &str, subject: &str, says: &str) -> &str {
        let start = format!("{verdict}{subject}: ");
        let found = self
            .lines
            .iter()
            .find(|line| line.starts_with(&start) && line.contains(says));
        found.unwrap_or_else(|| panic!("no {start}…{says} in {:#?}", self.lines))
    }

    #[track_caller]
    fn all_well(&self) {
        assert_eq!(self.code, Some(0), "{:#?}", self.lines);
        let bad = self.lines.iter().find(|line| !line.starts_with("ok    "));
        assert_eq!(bad, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_well_is_a_line_each() {
    let world = World::new().await;
    let doctor = world.command(&["doctor", "--broker-clock"]);
    let found = Findings::of(doctor).await;
    found.all_well();
    found.ok("config", "every key is known");
    found.ok("kafka tls", "not encrypted");
    found.ok("kafka", "answers: cluster ");
    found.ok(world.ride_topic(), "4 partitions, retention.ms ");
    found.ok(world.ride_topic(), "may Read, Describe");
    found.ok(world.status_topic(), "4 partitions, compacted");
    found.ok(world.status_topic(), "may Read, Write, Describe");
    found.ok(
        world.reminder_topic(),
        "4 partitions, retention.ms 604800000",
    );
    found.ok(world.reminder_topic(), "may Write, Describe");
    found.ok("kafka transactions", "can be used");
    found.ok("kafka clock", "ms ahead of this machine");
    found.ok("postgres", "version ");
    found.ok("postgres tls", "not encrypted");
    found.ok("postgres privileges", "and may create tables");
    found.ok("postgres durability", "on");
    found.ok("postgres clock", "ms ahead of this machine");
    found.ok("postgres sessions", "a session of its own");
    found.ok("postgres server", "timeline 1, as accepted");
    found.ok("schema", &format!("schema version {}", schema_version()));
    found.ok("upgrade", "finished, to 0.2.0");
    found.ok("participations", "all transaction ids are from this server");
    found.ok("postgres horizon", "no transaction is older than an hour");
    found.ok(
        "receipt partitions",
        "all of the coming twelve months exist",
    );
    found.ok("positions", "no partition of the ride topic is stopped");

    // Nothing is left of the record that told the broker's clock, and without it there is none.
    let found = Findings::of(world.command(&["doctor"])).await;
    found.all_well();
    found.ok("kafka clock", "doctor --broker-clock");
    let topics = world.kafka().topics().await;
    let left = topics.iter().find(|topic| topic.contains("doctor"));
    assert_eq!(left, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_never_had_a_group_is_well() {
    let kafka = Kafka::start_with_many_group_partitions().await;
    let world = World::builder()
        .kafka(&kafka)
        .without_topics()
        .build()
        .await;
    let found = Findings::of(world.command(&["doctor"])).await;
    found.all_well();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_a_socket_is_named_by_the_sockets_file() {
    let world = World::builder().without_topics().build().await;
    for url in [
        "postgres:///rides?host=/run/nowhere&port=5433",
        "postgres://u@%2Frun%2Fnowhere:5433/rides",
    ] {
        let doctor = world.command(&["doctor"]).env("DATABASE_URL", url);
        let found = Findings::of(doctor).await;
        let file = "socket /run/nowhere/.s.PGSQL.5433, database rides: ";
        found.cure("postgres", file);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_without_an_address_are_named_with_where_they_are_from() {
    let world = World::builder().without_topics().build().await;
    let doctor = world
        .command(&["doctor"])
        .env("KAFKA_BROKERS", "kafka.invalid:9092")
        .env("DATABASE_URL", "postgres://u@database.invalid/x")
        .env("RIDE_PROMO__AUTH__ALGORITHM", "RS256")
        .env("RIDE_PROMO__AUTH__JWKS", "https://id.invalid/keys");
    let found = Findings::of(doctor).await;
    found.cure("dns", "kafka.invalid (KAFKA_BROKERS)");
    found.cure("dns", "database.invalid (DATABASE_URL)");
    found.cure("dns", "id.invalid (auth.jwks)");
    let cure = found.cure("auth", "https://id.invalid/keys is not a JSON Web Key Set");
    assert!(cure.contains("auth.jwks"), "{cure}");
    assert_eq!(
        found.cure("kafka", "does not answer"),
        "check the names in KAFKA_BROKERS"
    );
    found.cure("postgres", "database.invalid:5432/x");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_are_not_there_are_named() {
    let world = World::builder().without_topics().build().await;
    let nobody = Port::reserve();
    let doctor = world
        .command(&["doctor"])
        .env("KAFKA_BROKERS", nobody.address())
        .env("DATABASE_URL", url(&nobody.address(), "x"));
    let found = Findings::of(doctor).await;
    let cure = found.cure("kafka", "Connection refused");
    assert!(cure.contains("that the broker runs"), "{cure}");
    let cure = found.cure("postgres", "Connection refused");
    assert!(cure.contains("that Postgres runs there"), "{cure}");
    // What is wrong with the configuration is found before anybody is contacted.
    let doctor = world.command(&["doctor"]).env("KAFKA_BROKERS", "nonsense");
    let output = doctor.run().await;
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.starts_with("FAIL  config: kafka.brokers: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_are_missing_or_would_lose_something() {
    let world = World::builder().without_topics().build().await;
    let found = Findings::of(world.command(&["doctor"])).await;
    found.all_well();
    found.ok(world.ride_topic(), "serve creates it with 4 partitions");

    let forbidden = world
        .command(&["doctor"])
        .env("RIDE_PROMO__KAFKA__CREATE_TOPICS", "false");
    let cure = Findings::of(forbidden)
        .await
        .cure(world.ride_topic(), "does not exist");
    assert!(cure.contains("create it"), "{cure}");

    let replicas = world
        .command(&["doctor"])
        .env("RIDE_PROMO__KAFKA__REPLICATION_FACTOR", "3");
    let found = Findings::of(replicas).await;
    let cure = found.cure(world.ride_topic(), "serve cannot create it");
    assert!(cure.contains("kafka.replication_factor"), "{cure}");
    let topics = world.kafka().topics().await;
    assert!(!topics.iter().any(|topic| topic == world.ride_topic()));

    let compacted = [("cleanup.policy", "compact")];
    for topic in [
        world.ride_topic(),
        world.status_topic(),
        world.reminder_topic(),
    ] {
        world.kafka().create_topic(topic, 1, &compacted).await;
    }
    let found = Findings::of(world.command(&["doctor"])).await;
    let cure = found.cure(world.ride_topic(), "cleanup.policy is compact");
    assert!(cure.contains("cleanup.policy=delete"), "{cure}");
    let cure = found.cure(world.status_topic(), "min.compaction.lag.ms is 0");
    assert!(cure.contains("min.compaction.lag.ms=604800000"), "{cure}");
    let cure = found.cure(world.reminder_topic(), "cleanup.policy is compact");
    assert!(cure.contains("cleanup.policy=delete"), "{cure}");

    let other = World::builder().without_topics().build().await;
    for topic in [other.ride_topic(), other.status_topic()] {
        other.kafka().create_topic(topic, 1, &[]).await;
    }
    let found = Findings::of(other.command(&["doctor"])).await;
    let cure = found.cure(other.status_topic(), "cleanup.policy is delete");
    assert!(cure.contains("cleanup.policy=compact"), "{cure}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_schema_rights_or_durability() {
    let empty = World::builder()
        .without_topics()
        .empty_database()
        .build()
        .await;
    let found = Findings::of(empty.command(&["doctor"])).await;
    let line = found.line("FAIL  ", "schema", "has no schema");
    assert!(line.contains("run `ride-promo migrate`"), "{line}");

    let world = World::builder().without_topics().build().await;
    let role = format!("{}_app", world.database());
    let sql = |text: String| {
        let world = &world;
        async move { world.execute(&text).await }
    };
    sql(format!("create role {role} login")).await;
    let as_role = || {
        let url = world
            .database_url()
            .replace("postgres://postgres@", &format!("postgres://{role}@"));
        world.command(&["doctor"]).env("DATABASE_URL", url)
    };
    let found = Findings::of(as_role()).await;
    let cure = found.cure("postgres privileges", "not all rights on ");
    let statements = "run deploy/postgres/roles.sql, or as the owner: ";
    assert!(cure.starts_with(statements), "{cure}");
    // What the doctor says is enough, and less is not.
    sql(format!("grant usage on schema public to {role}")).await;
    sql(format!("grant select on _sqlx_migrations to {role}")).await;
    sql(cure
        .strip_prefix(statements)
        .expect("statements")
        .to_owned())
    .await;
    let found = Findings::of(as_role()).await;
    found.all_well();
    found.ok("postgres privileges", "may not create tables");
    sql(format!(
        "revoke usage on sequence pre_offer_import_seq from {role}"
    ))
    .await;
    let found = Findings::of(as_role()).await;
    let cure = found.cure("postgres privileges", "pre_offer_import_seq");
    let grants = cure.strip_prefix(statements).expect("statements");
    for statement in grants.split(';') {
        sql(statement.to_owned()).await;
    }
    Findings::of(as_role()).await.all_well();

    sql(format!("alter role {role} set synchronous_commit = off")).await;
    sql(format!(
        "alter role {role} set default_transaction_read_only = on"
    ))
    .await;
    let found = Findings::of(as_role()).await;
    found.cure("postgres durability", "synchronous_commit off");
    found.cure("postgres", "read-only");
    let many = as_role().env("RIDE_PROMO__DATABASE__MAX_CONNECTIONS", 1_000);
    let cure = Findings::of(many)
        .await
        .cure("postgres connections", "1008");
    assert!(cure.contains("database.max_connections"), "{cure}");
    sql(format!("drop owned by {role}; drop role {role}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_ids_of_another_server_are_found_and_put_right() {
    let world = World::builder().without_topics().build().await;
    let challenges = Challenges::new(&world, &json!({ "target_rides": 3 })).await;
    let (from, to) = (now(), now() + chrono::TimeDelta::days(1));
    challenges.start(&[1, 2, 3], from, to).await;
    world
        .execute("update promotion_user set live_xid = '9000000000' where user_id > 1")
        .await;
    let found = Findings::of(world.command(&["doctor"])).await;
    let cure = found.cure("participations", "2 have a transaction id from the future");
    world
        .execute(cure.strip_prefix("run: ").expect("a statement"))
        .await;
    Findings::of(world.command(&["doctor"])).await.all_well();
}

/// The environment in which the secured servers are reached.
fn secured(
    command: Cli,
    kafka: &Kafka,
    postgres: &Postgres,
    database: &str,
    authority: &Authority,
) -> Cli {
    secured_environment(kafka, postgres, database, authority)
        .into_iter()
        .fold(command, |command, (name, value)| command.env(name, value))
}

/// The secrets come from files, as where it is deployed.
fn secured_environment(
    kafka: &Kafka,
    postgres: &Postgres,
    database: &str,
    authority: &Authority,
) -> [(&'static str, String); 8] {
    let trusted = authority.certificate().display().to_string();
    let address = postgres.address().replace("127.0.0.1", "localhost");
    let url = url(&address, database);
    let secret = |name: &str, text: &str| {
        let file = authority.certificate().with_file_name(name);
        fs::write(&file, format!("{text}\n")).expect("the run's directory is ours");
        file.display().to_string()
    };
    let url = format!("{url}?sslmode=verify-full&sslrootcert={trusted}");
    [
        ("DATABASE_URL", String::new()),
        ("DATABASE_URL_FILE", secret("database-url", &url)),
        ("KAFKA_BROKERS", kafka.secured_brokers()),
        (
            "RIDE_PROMO__KAFKA__PROPERTIES__SECURITY_PROTOCOL",
            "SASL_SSL".to_owned(),
        ),
        (
            "RIDE_PROMO__KAFKA__PROPERTIES__SASL_MECHANISMS",
            "SCRAM-SHA-512".to_owned(),
        ),
        (
            "RIDE_PROMO__KAFKA__PROPERTIES__SASL_USERNAME",
            KAFKA_USER.to_owned(),
        ),
        (
            "RIDE_PROMO__KAFKA__PROPERTIES__SASL_PASSWORD_FILE",
            secret("kafka-password", KAFKA_PASSWORD),
        ),
        ("RIDE_PROMO__KAFKA__PROPERTIES__SSL_CA_LOCATION", trusted),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_and_postgres_over_tls_with_a_password_and_no_more_rights_than_needed() {
    let authority = Authority::new();
    let (kafka, postgres) = tokio::join!(
        Kafka::start_secured(&authority),
        Postgres::start_secured(&authority)
    );
    let world = World::builder()
        .kafka(&kafka)
        .postgres(&postgres)
        .build()
        .await;
    let doctor = || {
        let doctor = world.command(&["doctor"]);
        secured(doctor, &kafka, &postgres, world.database(), &authority)
    };

    // A user that nothing is allowed to: one who sees no topics is not told that they are there.
    let blind = Findings::of(doctor()).await;
    assert_eq!(blind.code, Some(1), "{:#?}", blind.lines);
    let readable = [
        "--add",
        "--allow-principal",
        "User:ride-promo",
        "--operation",
    ];
    for topic in [
        world.ride_topic(),
        world.status_topic(),
        world.reminder_topic(),
    ] {
        let describe = ["DescribeConfigs", "--topic", topic];
        kafka.acls(&[&readable[..], &describe[..]].concat()).await;
        let describe = ["Describe", "--topic", topic];
        kafka.acls(&[&readable[..], &describe[..]].concat()).await;
    }
    // Now every line says what to run; after it, all is well.
    let found = Findings::of(doctor()).await;
    for (subject, says) in [
        (world.ride_topic().to_owned(), "may not Read"),
        (world.status_topic().to_owned(), "may not Read, Write"),
        (world.reminder_topic().to_owned(), "may not Write"),
        (format!("kafka group {}", world.group_id()), ""),
        ("kafka transactions".to_owned(), ""),
    ] {
        let cure = found.cure(&subject, says);
        let (_, arguments) = cure
            .split_once("kafka-acls.sh --bootstrap-server ")
            .unwrap_or_else(|| panic!("no command in {cure}"));
        let arguments: Vec<&str> = arguments.split(' ').skip(1).collect();
        kafka.acls(&arguments).await;
    }
    let found = Findings::of(doctor()).await;
    found.all_well();
    found.ok("dns", "localhost is 127.0.0.1");
    found.ok(
        "kafka tls",
        "sasl_ssl, the brokers' certificates and hosts are checked",
    );
    found.ok(
        "postgres tls",
        "TLSv1.3, the server's certificate and host are checked",
    );
    let refused = Findings::of(doctor_with_broker_clock(
        &world, &kafka, &postgres, &authority,
    ))
    .await;
    let cure = refused.cure("kafka clock", "cannot be read");
    assert!(cure.contains("ride-promo-doctor-*"), "{cure}");

    // What is wrong with a connection is said, and what to look at.
    let other = Authority::new().certificate().display().to_string();
    let distrusting = doctor().env("RIDE_PROMO__KAFKA__PROPERTIES__SSL_CA_LOCATION", &other);
    let cure = Findings::of(distrusting).await.cure("kafka", "certificate");
    assert!(cure.contains("ssl.ca.location"), "{cure}");
    let impostor = doctor()
        .env("RIDE_PROMO__KAFKA__PROPERTIES__SASL_PASSWORD_FILE", "")
        .env("RIDE_PROMO__KAFKA__PROPERTIES__SASL_PASSWORD", "wrong");
    let cure = Findings::of(impostor).await.cure("kafka", "uthentication");
    assert!(cure.contains("sasl.password"), "{cure}");
    let plain = doctor().env(
        "RIDE_PROMO__KAFKA__PROPERTIES__SECURITY_PROTOCOL",
        "SASL_PLAINTEXT",
    );
    let found = Findings::of(plain).await;
    let cure = found.cure("kafka", "");
    assert!(cure.contains("security.protocol"), "{:#?}", found.lines);
    let trusting = doctor().env(
        "RIDE_PROMO__KAFKA__PROPERTIES__ENABLE_SSL_CERTIFICATE_VERIFICATION",
        "false",
    );
    let cure = Findings::of(trusting)
        .await
        .cure("kafka tls", "not checked");
    assert!(
        cure.contains("enable.ssl.certificate.verification"),
        "{cure}"
    );
    let address = postgres.address().replace("127.0.0.1", "localhost");
    let database = url(&address, world.database());
    let distrusting = doctor().env(
        "RIDE_PROMO__DATABASE__URL",
        format!("{database}?sslmode=verify-full&sslrootcert={other}"),
    );
    let cure = Findings::of(distrusting)
        .await
        .cure("postgres", "certificate");
    assert!(cure.contains("sslrootcert"), "{cure}");
    let trusted = authority.certificate().display().to_string();
    // The certificate is for the name, not for the address behind it.
    let misnamed = doctor().env(
        "RIDE_PROMO__DATABASE__URL",
        format!(
            "{}?sslmode=verify-full&sslrootcert={trusted}",
            world.database_url()
        ),
    );
    Findings::of(misnamed).await.cure("postgres", "certificate");
    let unchecked = doctor().env(
        "RIDE_PROMO__DATABASE__URL",
        format!("{database}?sslmode=require"),
    );
    let found = Findings::of(unchecked).await;
    found.all_well();
    found.ok("postgres tls", "the server's certificate is not checked");

    // And the service works so, end to end.
    let service = secured_environment(&kafka, &postgres, world.database(), &authority)
        .into_iter()
        .fold(world.service(), |service, (name, value)| {
            service.env(name, value)
        })
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(2)).await;
    let (client, _) = service.started_client(48_151, &promotion).await;
    for _ in 0..2 {
        world.publish_ride(&ride(48_151)).await;
    }
    world.rides_are_applied().await;
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["status"], "COMPLETED");
    world.events_are_published().await;
    let events = world.status_of(48_151, promotion.id).await;
    let last = events.last().expect("published");
    assert_eq!(last.kind(), "promotion.completed");
    assert!(service.sigterm_and_wait().await.success());
}

fn doctor_with_broker_clock(
    world: &World,
    kafka: &Kafka,
    postgres: &Postgres,
    authority: &Authority,
) -> Cli {
    let doctor = world.command(&["doctor", "--broker-clock"]);
    secured(doctor, kafka, postgres, world.database(), authority)
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_properties_that_are_wrong_only_together_are_named_before_anything_is_contacted() {
    let world = World::new().await;
    const PROTOCOL: &str = "RIDE_PROMO__KAFKA__PROPERTIES__SECURITY_PROTOCOL";
    const AUTHORITY: &str = "RIDE_PROMO__KAFKA__PROPERTIES__SSL_CA_LOCATION";
    for command in ["serve", "doctor"] {
        let run = world.command(&[command]).env(PROTOCOL, "SASL_SSL");
        let refused = run.run().await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains("kafka.properties.sasl.mechanisms"), "{said}");

        let run = world.command(&[command]).env(PROTOCOL, "SSL");
        let refused = run.env(AUTHORITY, "/no/such/file").run().await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(said.contains("kafka.properties.ssl.ca.location"), "{said}");
    }
}

/// A misspelled `sslmode` left unseen would mean a connection without encryption.
#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_parameter_of_the_database_url_is_named_before_anything_is_contacted() {
    let world = World::new().await;
    for command in ["serve", "doctor", "migrate"] {
        let run = world.command(&[command]).env(
            "DATABASE_URL",
            "postgres://u@127.0.0.1:1/db?sslmoed=verify-full",
        );
        let refused = run.run().await;
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = format!("{}{}", refused.stdout, refused.stderr);
        assert!(
            said.contains("\"sslmoed\"") && said.contains("did you mean sslmode?"),
            "{said}"
        );
    }
}
