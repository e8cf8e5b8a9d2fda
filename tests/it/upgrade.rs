//! An upgrade under traffic: migrate, then replace one process after the other. `make upgrade` runs it with the program of
//! the release before, and back again if the schema allows that.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::TimeDelta;
use serde_json::json;
use sqlx::{ConnectOptions as _, Connection as _, postgres::PgConnectOptions};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(120);

const USERS: std::ops::RangeInclusive<i64> = 1..=20;

/// What a migration may do while the version before still runs: add to what is there. One table a
/// transaction, since to lock several means to wait for each other with those who write to them.
async fn expand(world: &World) {
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname from pg_class c
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p')
            and not c.relispartition and c.relname <> '_sqlx_migrations'",
    )
    .fetch_all(world.pool())
    .await
    .expect("the database answers");
    assert!(tables.len() > 10, "{tables:?}");
    for table in tables {
        let statement = format!("alter table {table} add column added_by_a_later_release text");
        world.execute(&statement).await;
    }
}

/// A later release than this one is not at hand: its migrations are.
#[tokio::test(flavor = "multi_thread")]
async fn migrating_and_replacing_every_process_under_traffic_loses_nothing() {
    let world = Arc::new(World::new().await);
    let old = [world.service().start().await, world.service().start().await];
    upgrade(&world, old, expand).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "make upgrade"]
async fn from_the_release_before_nothing_is_lost_under_traffic_either() {
    let binary = std::env::current_exe().expect("it runs");
    let target = binary.ancestors().nth(3).expect("target/debug/deps/it");
    let before = target.join("previous-release/ride-promo");
    let world = Arc::new(World::builder().empty_database().build().await);
    let first = world.service().program(&before).argument("--migrate");
    let old = [
        first.start().await,
        world.service().program(&before).start().await,
    ];
    let schema = "select max(version) from _sqlx_migrations";
    let version = async |world: &World| -> i64 {
        let version = sqlx::query_scalar(schema).fetch_one(world.pool()).await;
        version.expect("the database answers")
    };
    let earlier = version(&world).await;
    upgrade(&world, old, async |world| {
        assert!(version(world).await > earlier, "the schema is the same");
        let refused = world.command(&["migrate", "--finish"]).run().await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        assert!(
            refused
                .stderr
                .contains("sessions of a release before 0.2.0 are connected"),
            "{refused:?}"
        );
    })
    .await;

    // With the old processes gone it can be finished, and they cannot come back.
    let finish = world.command(&["migrate", "--finish"]);
    let schema = format!("schema version {}\n", schema_version());
    assert_eq!(finish.run().await.expect_success(), schema);
    let back = world.service().program(&before).spawn();
    assert_eq!(back.wait().await.code(), Some(1));
    let known = "not one of those known here (up to 2)";
    assert!(back.log().contains(known), "{}", back.log());
    world.service().start().await;
}

/// A client whose challenge begins at one process and goes on to the loan at another, while both run.
async fn journey(world: &World, from: &Service, to: &Service, user: i64, promotion: &Promotion) {
    let (client, started) = from.started_client(user, promotion).await;
    let other = to.client(user);
    let progress = other.progress(promotion.id).await;
    assert_eq!(progress.expect(200)["started_at"], started["started_at"]);
    for _ in 0..3 {
        world.publish_ride(&ride(user)).await;
    }
    eventually(LIMIT, || async {
        let progress = other.progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED"))
    })
    .await;
    other.accept(promotion.id).await.expect(200);
    for client in [&client, &other] {
        let progress = client.progress(promotion.id).await;
        assert_eq!(progress.expect(200)["status"], "REWARDED");
    }
}

/// Migrates and replaces these two processes while rides come; `migrated` is called in between.
async fn upgrade(world: &Arc<World>, old: [Service; 2], migrated: impl AsyncFnOnce(&World)) {
    let challenges = Challenges::new(world, &conditions(10_000)).await;
    let users: Vec<i64> = USERS.collect();
    let hour = TimeDelta::hours(1);
    challenges.start(&users, now() - hour, now() + hour).await;
    let promotion = old[0].admin().open_promotion(&conditions(3)).await;

    // Rides all the while, a round of one each every few milliseconds.
    let stop = Arc::new(AtomicBool::new(false));
    let rides = tokio::spawn({
        let (world, stop) = (world.clone(), stop.clone());
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(20));
            let mut rounds = 0;
            while !stop.load(Ordering::Relaxed) && rounds < 9_000 {
                pace.tick().await;
                world
                    .publish_all(USERS.map(|user| Outgoing::ride(&ride(user))))
                    .await;
                rounds += 1;
            }
            rounds
        }
    });
    let rides_go_on = async || {
        let before = challenges.standing(1).await.rides_completed;
        eventually(LIMIT, || async {
            let now = challenges.standing(1).await.rides_completed;
            if now > before + 5 {
                Ok(())
            } else {
                Err(format!("{before}, then {now}"))
            }
        })
        .await;
    };

    rides_go_on().await;
    // The migrations of the release, under the processes of the one before.
    world.command(&["migrate"]).run().await.expect_success();
    migrated(world).await;
    rides_go_on().await;
    for service in &old {
        service.wait_ready().await;
    }
    // A client of an old process too.
    let mut clients = vec![old[1].started_client(1_000, &promotion).await.0.user_id];
    let mut new = Vec::new();
    for (index, service) in old.into_iter().enumerate() {
        let replacement = world.service().start().await;
        let user = 2_000 + 10 * i64::try_from(index).expect("small");
        journey(world, &service, &replacement, user, &promotion).await;
        journey(world, &replacement, &service, user + 1, &promotion).await;
        assert!(service.sigterm_and_wait().await.success());
        rides_go_on().await;
        let user = 1_001 + i64::try_from(index).expect("small");
        let (client, _) = replacement.started_client(user, &promotion).await;
        clients.push(client.user_id);
        new.push(replacement);
    }
    for service in &new {
        service.wait_ready().await;
        for user in &clients {
            let progress = service.client(*user).progress(promotion.id).await;
            assert_eq!(progress.expect(200)["status"], "IN_PROGRESS");
        }
    }

    stop.store(true, Ordering::Relaxed);
    let rounds: i32 = rides.await.expect("the rides were published");
    world.rides_are_applied().await;
    for standing in challenges.standings().await {
        assert_eq!(
            (standing.rides_completed, standing.counted),
            (rounds, i64::from(rounds)),
            "{standing:?}"
        );
    }
    world.events_are_published().await;
    let events = world.read_status_topic().await;
    let newest = last_by_key(events.clone());
    for user in USERS {
        let key = format!("{user}:{}", challenges.promotion_id);
        assert_eq!(newest[&key].event["rides_completed"], rounds, "{key}");
    }
    assert_contiguous(events);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_finished_once_no_session_of_an_older_release_is_connected() {
    let world = World::builder().without_topics().build().await;
    let finished = async || {
        let finished = "select count(*) from release_upgrade where finished_at is not null";
        world.count(finished).await == 1
    };
    assert!(finished().await, "a new database is finished at once");
    world
        .execute("update release_upgrade set finished_at = null")
        .await;
    let unfinished = "the upgrade to 0.2.0 is not finished: stop every process of an older release, \
                      then run `ride-promo migrate --finish`\n";
    let migrate = world.command(&["migrate"]).run().await.expect_success();
    let schema = format!("schema version {}\n", schema_version());
    assert_eq!(migrate, format!("{schema}{unfinished}"));
    let doctor = world.command(&["doctor"]).run().await;
    let note = "ok    upgrade: note: the upgrade to 0.2.0 is not finished";
    assert!(doctor.stdout.contains(note), "{}", doctor.stdout);

    // The user that migrates sees the sessions of other roles too, without being a superuser.
    let role = format!("{}_owner", world.database());
    world
        .execute(&format!(
            "create role {role} login; grant all on schema public to {role};
             grant all on all tables in schema public to {role}"
        ))
        .await;
    let url = world
        .database_url()
        .replace("postgres://postgres@", &format!("postgres://{role}@"));
    let finish = || {
        let finish = world.command(&["migrate", "--finish"]);
        finish.env("DATABASE_URL", &url).run()
    };
    let session = async |name: &str| {
        let options: PgConnectOptions = world.database_url().parse().expect("a URL");
        let session = options.application_name(name).connect().await;
        session.expect("Postgres answers")
    };
    for older in ["ride-promo", "ride-promo relay", "ride-promo/0.1.9 ingest"] {
        let connected = session(older).await;
        let refused = finish().await;
        assert_eq!(refused.status.code(), Some(1), "{refused:?}");
        for says in [
            "1 session of a release before 0.2.0 is connected",
            older,
            "--finish",
        ] {
            assert!(refused.stderr.contains(says), "{refused:?}");
        }
        assert!(!finished().await);
        connected.close().await.expect("it was open");
    }
    let newer = session("ride-promo/0.3.0 relay").await;
    let other = session("psql").await;
    // Finished twice is finished.
    for _ in 0..2 {
        assert_eq!(finish().await.expect_success(), schema);
        assert!(finished().await);
    }
    for session in [newer, other] {
        session.close().await.expect("it was open");
    }
    let usable = "select count(*) from schema_compatibility where version > 2 and works_since < 3";
    assert_eq!(
        world.count(usable).await,
        0,
        "the release before cannot start"
    );
    world
        .execute(&format!("drop owned by {role}; drop role {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_another_release_is_refused_at_the_start_and_does_not_stop_who_runs() {
    let world = World::builder().empty_database().build().await;
    let refused = world.service().spawn();
    assert_eq!(refused.wait().await.code(), Some(1));
    let known = schema_version();
    let needs =
        format!("the database has no schema, version {known} is needed: run `ride-promo migrate`");
    assert!(refused.log().contains(&needs), "{}", refused.log());
    // Two processes may apply them at once, and go on.
    let (first, second) = tokio::join!(
        world.service().argument("--migrate").start(),
        world.service().argument("--migrate").start()
    );
    assert!(second.sigterm_and_wait().await.success());

    world
        .execute(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'of a later release', true, '\\x00', 0)",
        )
        .await;
    let refused = world.service().spawn();
    assert_eq!(refused.wait().await.code(), Some(1));
    let newer = format!(
        "the database's schema is version 9999, which this release (up to {known}) does not know"
    );
    assert!(refused.log().contains(&newer), "{}", refused.log());
    let doctor = world.command(&["doctor"]).run().await;
    assert_eq!(doctor.status.code(), Some(1));
    assert!(
        doctor.stdout.contains(&format!("FAIL  schema: {newer}")),
        "{}",
        doctor.stdout
    );
    let migrate = world.command(&["migrate"]).run().await;
    assert_eq!(migrate.status.code(), Some(1), "{migrate:?}");

    let promotion = first.admin().open_promotion(&conditions(2)).await;
    let (client, _) = first.started_client(1, &promotion).await;
    world.publish_ride(&ride(1)).await;
    world.rides_are_applied().await;
    let progress = client.progress(promotion.id).await.expect(200);
    assert_eq!(progress["rides_completed"], 1);
    first.wait_ready().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_schema_that_says_so_is_used_by_this_release_and_left_as_it_is() {
    let world = World::new().await;
    world
        .execute(
            "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
             values (9999, 'of a later release', true, '\\x00', 0)",
        )
        .await;
    let allows = async |since: i64| {
        world
            .execute(&format!(
                "insert into schema_compatibility values (9999, {since})
                     on conflict (version) do update set works_since = {since}"
            ))
            .await;
    };
    let known = schema_version();
    let later = format!(
        "schema version 9999, of a later release, which this one can use (it knows {known})"
    );
    allows(known).await;
    let service = world.service().argument("--migrate").start().await;
    let migrate = world.command(&["migrate"]).run().await;
    assert!(migrate.stdout.contains(&later), "{migrate:?}");
    assert!(migrate.status.success());
    let doctor = world.command(&["doctor"]).run().await;
    assert!(
        doctor.stdout.contains(&format!("ok    schema: {later}")),
        "{}",
        doctor.stdout
    );
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    service.started_client(1, &promotion).await;

    // Where it asks for a newer program, or says nothing, that is the end of it.
    allows(known + 1).await;
    for _ in 0..2 {
        let refused = world.service().spawn();
        assert_eq!(refused.wait().await.code(), Some(1));
        let log = refused.log();
        assert!(
            log.contains("is version 9999, which this release (up to"),
            "{log}"
        );
        let migrate = world.command(&["migrate"]).run().await;
        assert_eq!(migrate.status.code(), Some(1), "{migrate:?}");
        world
            .execute("delete from schema_compatibility where version = 9999")
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_schema_version_since_the_second_says_which_releases_can_use_it() {
    let world = World::new().await;
    let silent: Vec<i64> = sqlx::query_scalar(
        "select version from _sqlx_migrations
          where version > 1 and version not in (select version from schema_compatibility)",
    )
    .fetch_all(world.pool())
    .await
    .expect("the database answers");
    assert!(silent.is_empty(), "{silent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_takes_its_time_is_nothing_to_warn_of() {
    let world = World::builder()
        .without_topics()
        .empty_database()
        .build()
        .await;
    // Who makes a table of the same name has to wait for this.
    let mut other = world.pool().begin().await.expect("a transaction");
    sqlx::raw_sql("create table promotion ()")
        .execute(&mut *other)
        .await
        .expect("an empty database");
    let migrate = tokio::spawn(world.command(&["migrate"]).run());
    waiting_for_a_lock(&world, 1).await;
    // A statement is slow from one second on.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    other.rollback().await.expect("a transaction");
    let migrated = migrate.await.expect("it ends");
    assert_eq!(migrated.stderr, "");
    assert!(migrated.expect_success().starts_with("schema version "));
}
