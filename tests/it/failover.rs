//! A database that responds but cannot be used: read-only, a standby, behind a proxy, with another password, on another
//! host, with a full disk. Calls return 503 with `Retry-After`, readiness names the database, nothing is lost, and
//! everything works again without a restart of the service.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(30);

/// How soon after the end of a failure everything works again, as `docs/failures.md` promises.
const SOON: Duration = Duration::from_secs(3);

/// The answers to calls that write.
async fn commands(
    service: &Service,
    client: &Client,
    promotion: &Promotion,
) -> Vec<(String, Answer)> {
    let id = promotion.id;
    let api = service.api().with_token(client_token(client.user_id));
    let mut answers = Vec::new();
    for path in [
        "/v1/landing".to_owned(),
        format!("/v1/promotions/{id}/start"),
        format!("/v1/promotions/{id}/accept_reward"),
        format!("/v1/promotions/{id}/acknowledge"),
    ] {
        answers.push((path.clone(), api.post(&path).await));
    }
    let admin = service.admin_listener().with_token(admin_token());
    let path = "/admin/v1/geo-config/MX";
    let request = admin.request(Method::PUT, path);
    let request = request.json(&json!({ "promotions_enabled": true }));
    answers.push((path.to_owned(), admin.send(request).await));
    answers
}

#[track_caller]
fn assert_unavailable(what: &str, answer: &Answer) {
    let problem: Value = answer.json();
    assert_eq!(
        (answer.status.as_u16(), problem["type"].as_str()),
        (503, Some("/problems/temporarily-unavailable")),
        "{what}: {problem}"
    );
    assert!(answer.headers.contains_key("retry-after"), "{what}");
}

/// What readiness says; nothing while it is ready.
async fn not_ready(service: &Service, role: &str) -> String {
    let path = if role.is_empty() {
        "/readyz".to_owned()
    } else {
        format!("/readyz?role={role}")
    };
    let listener = service.admin_listener();
    match listener
        .try_send(listener.request(Method::GET, &path))
        .await
    {
        Ok(answer) if answer.status == 503 => answer.text,
        // Or it does not listen yet.
        _ => String::new(),
    }
}

/// Waits until the roles asked for are not ready, with each of these words.
async fn is_not_ready(service: &Service, role: &str, words: &[&str]) {
    eventually(LIMIT, || async {
        let said = not_ready(service, role).await;
        match words.iter().find(|word| !said.contains(**word)) {
            None => Ok(()),
            Some(missing) => Err(format!("{missing} in {said:?}")),
        }
    })
    .await;
}

/// Everything works within this time.
async fn works_again(service: &Service, client: &Client, limit: Duration) {
    let ended = Instant::now();
    loop {
        let landing = service
            .api()
            .with_token(client_token(client.user_id))
            .post("/v1/landing")
            .await;
        let ready = service.readiness().await;
        let ready = ready.is_some_and(|answer| answer.status == 200);
        if landing.status == 200 && ready {
            return;
        }
        assert!(
            ended.elapsed() < limit,
            "{} {}, ready: {:?}",
            landing.status,
            landing.text,
            not_ready(service, "").await
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn end_sessions(world: &World) {
    world
        .postgres()
        .execute(format!(
            "select pg_terminate_backend(pid) from pg_stat_activity
              where datname = '{}' and pid <> pg_backend_pid() and application_name like 'ride-promo%'",
            world.database()
        ))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_turns_read_only_is_unavailable_and_its_sessions_are_not_kept() {
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    let read_only = |on: &str| {
        world.postgres().execute(format!(
            "alter database {} set default_transaction_read_only = {on}",
            world.database()
        ))
    };
    read_only("on").await.unwrap();
    end_sessions(&world).await;
    // Before any ride comes.
    is_not_ready(&service, "api", &["postgres", "read-only"]).await;
    is_not_ready(
        &service,
        "",
        &[
            "\"ingest\":\"postgres",
            "\"relay\":\"shard 0: postgres",
            "\"sweep\":\"postgres",
        ],
    )
    .await;
    for (what, answer) in commands(&service, &client, &promotion).await {
        assert_unavailable(&what, &answer);
    }
    // A single ride is a batch of one: it is not its fault.
    world.publish_ride(&ride(1)).await;
    eventually(LIMIT, || async {
        match service
            .log()
            .contains("a batch of rides could not be applied")
        {
            true => Ok(()),
            false => Err("not tried"),
        }
    })
    .await;
    let said = not_ready(&service, "ingest").await;
    assert!(
        said.contains("postgres") && !said.contains("of user"),
        "{said}"
    );
    for _ in 0..40 {
        world.publish_ride(&ride(1)).await;
    }
    assert!(
        !service.log().contains("\"user_id\":1"),
        "an innocent client is named"
    );
    // The sessions that were opened meanwhile stay read-only, if they are kept.
    read_only("off").await.unwrap();
    works_again(&service, &client, SOON).await;
    world.rides_are_applied().await;
    assert_eq!(
        client.progress(promotion.id).await.expect(200)["rides_completed"],
        41
    );
    assert_eq!(
        service
            .metrics()
            .await
            .sum("ride_promo_ingest_fenced_batches_total", &[]),
        0.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_that_the_server_itself_makes_read_only_are_given_up() {
    let postgres = Postgres::start_private().await;
    let world = World::builder().postgres(&postgres).build().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    // For sessions that exist as well.
    let read_only = async |on: &str| {
        for statement in [
            format!("alter system set default_transaction_read_only = {on}"),
            "select pg_reload_conf()".to_owned(),
        ] {
            postgres.execute(statement).await.unwrap();
        }
    };
    read_only("on").await;
    is_not_ready(
        &service,
        "",
        &[
            "\"api\":\"postgres",
            "\"ingest\":\"postgres",
            "\"sweep\":\"postgres",
        ],
    )
    .await;
    for (what, answer) in commands(&service, &client, &promotion).await {
        assert_unavailable(&what, &answer);
    }
    read_only("off").await;
    works_again(&service, &client, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_works_on_a_standby_and_the_primary_is_left_alone() {
    let postgres = Postgres::start_private().await;
    let world = World::builder().postgres(&postgres).build().await;
    let standby = Postgres::start_standby(&postgres.address()).await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    let url = standby.url(world.database());

    let misled = world.service().env("DATABASE_URL", &url).spawn();
    is_not_ready(&misled, "api", &["is a standby"]).await;
    is_not_ready(&misled, "relay", &["is a standby"]).await;
    let doctor = world
        .command(&["doctor"])
        .env("DATABASE_URL", &url)
        .run()
        .await;
    assert_eq!(doctor.status.code(), Some(1));
    assert!(doctor.stdout.contains("and is a standby"), "{doctor:#?}");
    let file = world.new_dir("import").join("pre-offers.ndjson");
    fs::write(&file, format!("{}\n", promotion.pre_offer(2))).unwrap();
    let file = file.display().to_string();
    for command in [
        &["migrate"][..],
        &["import", "pre-offers", &file],
        &[
            "positions",
            "set",
            "--all",
            "--to",
            "beginning",
            "--reason",
            "a test",
        ],
        &["positions", "show"],
    ] {
        let output = world.command(command).env("DATABASE_URL", &url).run().await;
        assert_eq!(output.status.code(), Some(1), "{output:#?}");
        assert!(output.stderr.contains("is a standby"), "{output:#?}");
    }
    // The relay of the primary is not fenced, and what it publishes stays the last word.
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    world.events_are_published().await;
    assert_eq!(
        client.progress(promotion.id).await.expect(200)["rides_completed"],
        1
    );
    assert_eq!(
        service
            .metrics()
            .await
            .sum("ride_promo_relay_failures_total", &[]),
        0.0
    );
    assert_contiguous(world.read_status_topic().await);
    let replicated = sqlx::PgPool::connect(&url).await.unwrap();
    let locks =
        sqlx::query_scalar::<_, i64>("select count(*) from pg_locks where locktype = 'advisory'");
    assert_eq!(locks.fetch_one(&replicated).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_hosts_the_primary_is_found_also_when_it_is_another_one() {
    let one = Postgres::start_private().await;
    let world = World::builder().postgres(&one).build().await;
    let (first, second) = (Port::reserve(), Port::reserve());
    let other = Postgres::start_standby(&one.address()).await;
    let hosts = [
        first.address(),
        other.address(),
        one.address(),
        second.address(),
    ]
    .join(",");
    let url = format!(
        "postgres://postgres@{hosts}/{}?target_session_attrs=read-write",
        world.database()
    );
    let service = world.service().env("DATABASE_URL", &url).start().await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    let doctor = world
        .command(&["doctor"])
        .env("DATABASE_URL", &url)
        .run()
        .await;
    let answers = format!("ok    postgres: {}/", one.address());
    assert!(doctor.stdout.contains(&answers), "{doctor:#?}");
    caught_up(&one).await;
    one.stop().await;
    is_not_ready(&service, "api", &["postgres"]).await;
    other.promote().await;
    works_on_the_api(&service, &client).await;
}

/// What the role `api` does: the others wait for an operator after a fail-over.
async fn works_on_the_api(service: &Service, client: &Client) {
    let ended = Instant::now();
    loop {
        let landing = service
            .api()
            .with_token(client_token(client.user_id))
            .post("/v1/landing")
            .await;
        if landing.status == 200 && not_ready(service, "api").await.is_empty() {
            return;
        }
        assert!(
            ended.elapsed() < LIMIT,
            "{} {}",
            landing.status,
            landing.text
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The standby has everything that was committed.
async fn caught_up(primary: &Arc<Postgres>) {
    let pool = sqlx::PgPool::connect(&primary.url("postgres"))
        .await
        .unwrap();
    eventually(LIMIT, || async {
        let behind = sqlx::query_scalar::<_, bool>(
            "select count(*) filter (where replay_lsn = pg_current_wal_lsn()) = 1 from pg_stat_replication",
        );
        equal(behind.fetch_one(&pool).await.unwrap(), true)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_pgbouncer_sessions_are_whole_or_it_is_said_what_is_wrong() {
    let world = World::new().await;
    let through = |bouncer: &PgBouncer| url(&bouncer.address(), world.database());

    // As it comes, with a pool of sessions: everything works, settings included.
    let sessions = PgBouncer::start(world.postgres(), "session", "").await;
    let service = world
        .service()
        .env("DATABASE_URL", through(&sessions))
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    assert_eq!(
        client.progress(promotion.id).await.expect(200)["rides_completed"],
        1
    );
    world.events_are_published().await;
    let doctor = world
        .command(&["doctor"])
        .env("DATABASE_URL", through(&sessions));
    let doctor = doctor.run().await.expect_success();
    assert!(doctor.contains("ok    postgres sessions: "), "{doctor}");
    assert!(service.sigterm_and_wait().await.success());

    let stops = async |url: String, words: &str| {
        let service = world.service().env("DATABASE_URL", &url).spawn();
        assert_eq!(service.wait().await.code(), Some(1));
        assert!(
            service.log().contains(words),
            "{words} in {}",
            service.log()
        );
        let doctor = world
            .command(&["doctor"])
            .env("DATABASE_URL", &url)
            .run()
            .await;
        assert_eq!(doctor.status.code(), Some(1));
        assert!(doctor.stdout.contains(words), "{words} in {doctor:#?}");
    };
    // What the URL sets is a parameter that it refuses, or drops.
    let with_options = format!("{}?options=-c%20work_mem%3D8MB", through(&sessions));
    stops(with_options, "unsupported startup parameter: options").await;
    let more = "ignore_startup_parameters = extra_float_digits,options";
    let dropping = PgBouncer::start(world.postgres(), "session", more).await;
    let with_options = format!("{}?options=-c%20work_mem%3D8MB", through(&dropping));
    stops(with_options, "work_mem").await;
    let service = world
        .service()
        .env("DATABASE_URL", through(&dropping))
        .start()
        .await;
    assert!(service.sigterm_and_wait().await.success());

    for (mode, more) in [
        ("transaction", ""),
        ("transaction", "server_round_robin = 1"),
        (
            "transaction",
            "ignore_startup_parameters = extra_float_digits,options",
        ),
    ] {
        let transactions = PgBouncer::start(world.postgres(), mode, more).await;
        stops(through(&transactions), "pool_mode=session").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_was_changed_is_read_again_from_its_file() {
    let postgres = Postgres::start_with_passwords().await;
    let world = World::builder().postgres(&postgres).build().await;
    let as_app = |password: &str| {
        let address = postgres.address();
        format!("postgres://app:{password}@{address}/{}\n", world.database())
    };
    let set_password =
        |password: &str| postgres.execute(format!("alter role app password '{password}'"));
    postgres
        .execute("create role app login superuser".to_owned())
        .await
        .unwrap();
    set_password("first").await.unwrap();
    let file = world.new_dir("secret").join("url");
    fs::write(&file, as_app("first")).unwrap();
    let service = world
        .service()
        .env("DATABASE_URL", "")
        .env("DATABASE_URL_FILE", file.display())
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    set_password("second").await.unwrap();
    end_sessions(&world).await;
    is_not_ready(&service, "api", &["password authentication failed"]).await;
    is_not_ready(
        &service,
        "",
        &["\"ingest\":\"postgres", "\"relay\":\"shard 0: postgres"],
    )
    .await;
    for (what, answer) in commands(&service, &client, &promotion).await {
        assert_unavailable(&what, &answer);
    }
    assert!(!service.log().contains("first"), "a password in the log");
    fs::write(&file, as_app("second")).unwrap();
    // A password costs every new session a second of work in a debug build.
    works_again(&service, &client, LIMIT).await;
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    // A role that is gone and comes back, likewise.
    postgres
        .execute("alter role app nologin".to_owned())
        .await
        .unwrap();
    end_sessions(&world).await;
    is_not_ready(&service, "api", &["not permitted to log in"]).await;
    assert_unavailable(
        "landing",
        &service
            .api()
            .with_token(client_token(1))
            .post("/v1/landing")
            .await,
    );
    postgres
        .execute("alter role app login".to_owned())
        .await
        .unwrap();
    works_again(&service, &client, LIMIT).await;
    let file = file.display().to_string();
    assert!(
        !service.log().contains("second"),
        "a password in the log beside {file}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_needs_only_room() {
    let postgres = Postgres::start_on_small_disk(220).await;
    let world = World::builder().postgres(&postgres).build().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(10_000)).await;
    let users: Vec<i64> = (1..=3_000).collect();
    let offers: Vec<Value> = users
        .iter()
        .map(|user| promotion.pre_offer(*user))
        .collect();
    service.admin().import_pre_offers(&offers).await;
    let mut started = Vec::new();
    for user in &users[..20] {
        service.client(*user).start(promotion.id).await.expect(201);
        started.push(*user);
    }
    let mut published = 0;
    let publish = async |count: usize| {
        let rides = (0..count).map(|number| Outgoing::ride(&ride(1 + (number % 20) as i64)));
        world.publish_all(rides).await;
    };
    publish(1_000).await;
    published += 1_000;
    world.rides_are_applied().await;

    postgres.fill_disk();
    let mut refused = None;
    for user in &users[20..] {
        let answer = service.client(*user).start(promotion.id).await;
        match answer.status.as_u16() {
            201 => started.push(*user),
            _ => {
                refused = Some((*user, answer));
                break;
            }
        }
    }
    let (refused, answer) = refused.expect("the disk is full");
    assert_unavailable("start", &answer);
    publish(20_000).await;
    published += 20_000;
    is_not_ready(&service, "ingest", &["postgres"]).await;
    assert!(
        !service.log().contains("\"user_id\":"),
        "an innocent client is named"
    );

    postgres.free_disk();
    if postgres.has_ended() {
        // Postgres stops if it cannot write its log; its supervisor starts it again.
        postgres.start().await;
    }
    eventually(LIMIT, || async {
        let answer = service.client(refused).start(promotion.id).await;
        match answer.status.as_u16() {
            200 | 201 => Ok(()),
            _ => Err(answer.text),
        }
    })
    .await;
    started.push(refused);
    service.wait_ready().await;
    world.rides_are_applied().await;
    world.events_are_published().await;
    let counted = world
        .count("select count(*) from ride_receipt where verdict = 'COUNTED'")
        .await;
    assert_eq!(counted, published);
    let kept = world
        .count("select sum(rides_completed)::bigint from promotion_user")
        .await;
    assert_eq!(kept, published);
    assert_eq!(
        world.count("select count(*) from promotion_user").await,
        i64::try_from(started.len()).unwrap()
    );
    assert_contiguous(world.read_status_topic().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_fail_over_nothing_is_read_or_published_until_an_operator_accepts_the_server() {
    let one = Postgres::start_private().await;
    let world = World::builder().postgres(&one).build().await;
    let replication = FaultProxy::start(one.address());
    let other = Postgres::start_standby(replication.address()).await;
    let hosts = format!("{},{}", one.address(), other.address());
    let url = url(&hosts, world.database());
    let service = world
        .service()
        .env("DATABASE_URL", &url)
        .lateness("PT0S")
        .start()
        .await;
    let promotion = service.admin().open_promotion(&conditions(1_000)).await;
    let (client, _) = service.started_client(1, &promotion).await;
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    caught_up(&one).await;
    // What is committed and published from here on is lost.
    replication.refuse(true);
    replication.cut_all();
    for _ in 0..3 {
        world.publish_ride(&ride(1)).await;
    }
    world.rides_are_applied().await;
    world.events_are_published().await;
    assert_eq!(
        client.progress(promotion.id).await.expect(200)["rides_completed"],
        4
    );
    one.stop_immediate().await;
    other.promote().await;

    works_on_the_api(&service, &client).await;
    let held = [
        "\"ingest\":\"the database is on another server",
        "\"relay\":\"shard 0: the database is on another server",
        "\"sweep\":\"the database is on another server",
    ];
    is_not_ready(&service, "", &held).await;
    let published = world.read_status_topic().await.len();
    // A start goes to the outbox and waits there; rides wait in Kafka.
    let late = service.eligible_client(2, &promotion).await;
    late.start(promotion.id).await.expect(201);
    world.publish_ride(&ride(1)).await;
    let show = world
        .command(&["positions", "show"])
        .env("DATABASE_URL", &url)
        .run()
        .await
        .expect_success();
    assert!(
        show.contains("timeline 2: STOPPED") && show.contains("timeline 1"),
        "{show}"
    );
    let doctor = world
        .command(&["doctor"])
        .env("DATABASE_URL", &url)
        .run()
        .await;
    assert!(
        doctor
            .stdout
            .contains("FAIL  postgres server: system identifier"),
        "{doctor:#?}"
    );
    // A process that starts now waits likewise.
    let second = world.service().env("DATABASE_URL", &url).spawn();
    is_not_ready(&second, "", &held).await;
    let metrics = service.metrics().await;
    assert_eq!(metrics.sum("ride_promo_ingest_stopped", &[]), 1.0);
    let pool = sqlx::PgPool::connect(&other.url(world.database()))
        .await
        .unwrap();
    let waiting = async |sql: &'static str| {
        sqlx::query_scalar::<_, i64>(sql)
            .fetch_one(&pool)
            .await
            .unwrap()
    };
    assert!(waiting("select count(*) from event_outbox").await >= 1);
    assert_eq!(
        waiting("select max(rides_completed)::bigint from promotion_user").await,
        1
    );
    assert_eq!(world.read_status_topic().await.len(), published);

    let accept = [
        "positions",
        "accept",
        "--reason",
        "the standby lagged; nothing to be had of the old primary",
    ];
    let accepted = world
        .command(&accept)
        .env("DATABASE_URL", &url)
        .run()
        .await
        .expect_success();
    assert!(accepted.contains("timeline 2: ok"), "{accepted}");
    service.wait_ready().await;
    second.wait_ready().await;
    eventually(LIMIT, || async {
        let rides = client.progress(promotion.id).await.expect(200)["rides_completed"].clone();
        equal(
            (rides, waiting("select count(*) from event_outbox").await),
            (json!(5), 0),
        )
    })
    .await;
    assert_eq!(
        waiting("select count(*) from admin_audit where call = 'server accept'").await,
        1
    );
    let doctor = world
        .command(&["doctor"])
        .env("DATABASE_URL", &url)
        .run()
        .await
        .expect_success();
    assert!(doctor.contains("timeline 2, as accepted"), "{doctor}");
}

/// As after a dump was restored into another cluster.
#[tokio::test(flavor = "multi_thread")]
async fn setting_positions_accepts_another_server_too() {
    let world = World::new().await;
    world
        .execute("update server_identity set system_identifier = 1")
        .await;
    let service = world.service().roles("ingest,relay,sweep").spawn();
    is_not_ready(
        &service,
        "",
        &[
            "\"ingest\":\"the database is on another server",
            "system identifier 1,",
        ],
    )
    .await;
    let set = [
        "positions",
        "set",
        "--all",
        "--to",
        "beginning",
        "--reason",
        "restored from a dump",
    ];
    let set = world.command(&set).run().await.expect_success();
    assert!(set.contains("timeline 1: ok"), "{set}");
    service.wait_ready().await;
}
