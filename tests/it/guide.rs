//! What docs/operator-guide.md tells people to run, run: a restore, retention, a client's erasure.

use std::{collections::BTreeMap, fs, time::Duration};

use chrono::TimeDelta;
use sqlx::{PgPool, Row as _};

use crate::harness::*;

const GUIDE: &str = "docs/operator-guide.md";

const LIMIT: Duration = Duration::from_secs(60);

const USERS: std::ops::RangeInclusive<i64> = 1..=20;

async fn run(pool: &PgPool, sql: &str) {
    let ran = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await;
    if let Err(error) = ran {
        panic!("{error}: {sql}");
    }
}

/// `rides_completed` and `version` of each participation, which has as many counted receipts.
async fn standings(pool: &PgPool) -> BTreeMap<i64, (i32, i32)> {
    let rows = sqlx::query(
        "select p.user_id, p.rides_completed, p.version,
                (select count(*) from ride_receipt r where r.user_id = p.user_id and r.verdict = 'COUNTED') as counted
           from promotion_user p",
    )
    .fetch_all(pool)
    .await
    .expect("the database answers");
    rows.into_iter()
        .map(|row| {
            let (user, rides, counted): (i64, i32, i64) = (
                row.get("user_id"),
                row.get("rides_completed"),
                row.get("counted"),
            );
            assert_eq!(i64::from(rides), counted, "receipts of {user}");
            (user, (rides, row.get("version")))
        })
        .collect()
}

async fn everybody_has(pool: &PgPool, rides: i32) {
    eventually(LIMIT, || async {
        let least = standings(pool)
            .await
            .values()
            .map(|(rides, _)| *rides)
            .min();
        equal(least, Some(rides))
    })
    .await;
    let standings = standings(pool).await;
    assert!(
        standings.values().all(|(counted, _)| *counted == rides),
        "{standings:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restored_into_a_new_cluster_goes_on_where_it_was_and_counts_nothing_twice() {
    let lost = Postgres::start_private().await;
    let world = World::builder().postgres(&lost).build().await;
    // A cluster that has lived: its transaction ids are ahead of a new one's.
    world
        .execute("do $$ begin for i in 1..20000 loop perform pg_current_xact_id(); commit; end loop; end $$")
        .await;
    let challenges = Challenges::new(&world, &conditions(10_000)).await;
    let users: Vec<i64> = USERS.collect();
    challenges.start_an_hour_ago(&users).await;
    let service = world.service().start().await;
    // A round is applied before the next comes: each is a version of its own.
    let rounds = async |from: i32, to: i32| {
        for round in from..=to {
            world
                .publish_all(USERS.map(|user| Outgoing::ride(&ride(user))))
                .await;
            everybody_has(world.pool(), round).await;
        }
    };
    rounds(1, 3).await;
    world.events_are_published().await;
    let dump = world.new_dir("backup").join("ride-promo.dump");
    lost.dump(world.database(), &dump).await;
    rounds(4, 8).await;
    world.events_are_published().await;
    assert!(service.sigterm_and_wait().await.success());
    lost.stop().await;

    let restored = Postgres::start_private().await;
    restored.create_empty_database("restored").await;
    restored.restore("restored", &dump).await;
    let url = restored.url("restored");
    let pool = PgPool::connect(&url).await.expect("restored");
    let command = |arguments: &[&str]| world.command(arguments).env("DATABASE_URL", &url);
    everybody_has(&pool, 3).await;

    // The doctor sees what a dump brings along, and says the guide's statement.
    let doctor = command(&["doctor"]).run().await;
    assert_eq!(doctor.status.code(), Some(1));
    let found = "FAIL  participations: 20 have a transaction id from the future, as after a restore from a dump -> run: ";
    let line = doctor
        .stdout
        .lines()
        .find_map(|line| line.strip_prefix(found));
    let statement = line.unwrap_or_else(|| panic!("{}", doctor.stdout));
    let words = |text: &str| {
        text.trim_end_matches([';', '\n'])
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    };
    let of_the_guide = block(GUIDE, "live-xid");
    assert_eq!(words(statement), words(&of_the_guide));
    run(&pool, &of_the_guide).await;
    command(&["doctor"]).run().await.expect_success();

    // Positions are those of the restored data: what came since is read again.
    let shown = command(&["positions", "show"]).run().await.expect_success();
    let states: Vec<&str> = shown.lines().skip(2).collect();
    assert!(
        states.len() == 4 && states.iter().all(|line| line.ends_with("ok")),
        "{shown}"
    );
    let published_before: BTreeMap<String, i64> = last_by_key(world.read_status_topic().await)
        .into_iter()
        .map(|(key, record)| (key, record.version()))
        .collect();
    assert!(
        published_before.values().all(|version| *version == 9),
        "{published_before:?}"
    );
    run(&pool, &block(GUIDE, "lift")).await;
    let start = || world.service().env("DATABASE_URL", &url).start();
    let service = start().await;
    everybody_has(&pool, 8).await;
    let subscribers_agree = async || {
        eventually(LIMIT, || async {
            let newest = last_by_key(world.read_status_topic().await);
            let theirs: BTreeMap<i64, (i64, i64)> = newest
                .values()
                .map(|record| {
                    let number = |name: &str| record.event[name].as_i64().expect("a number");
                    (
                        number("user_id"),
                        (number("rides_completed"), record.version()),
                    )
                })
                .collect();
            let ours = standings(&pool).await;
            let ours = ours
                .into_iter()
                .map(|(user, (rides, version))| (user, (i64::from(rides), i64::from(version))));
            equal(theirs, ours.collect())
        })
        .await;
        // Who keeps the highest version of a key has this one.
        for (key, records) in by_key(world.read_status_topic().await) {
            let versions: Vec<i64> = records.iter().map(StatusRecord::version).collect();
            assert_eq!(versions.iter().max(), versions.last(), "{key}");
        }
    };
    subscribers_agree().await;
    assert!(service.sigterm_and_wait().await.success());

    // Reading everything once more changes nothing.
    let set = [
        "positions",
        "set",
        "--all",
        "--to",
        "beginning",
        "--reason",
        "the topic was lost",
    ];
    let shown = command(&set).run().await.expect_success();
    assert!(
        shown.lines().skip(2).all(|line| line.ends_with("ok")),
        "{shown}"
    );
    let before = standings(&pool).await;
    let service = start().await;
    world
        .publish_all(USERS.map(|user| Outgoing::ride(&ride(user))))
        .await;
    everybody_has(&pool, 9).await;
    let after = standings(&pool).await;
    for (user, (_, version)) in before {
        assert_eq!(after[&user].1, version + 1, "{user}");
    }
    subscribers_agree().await;
    let metrics = service.metrics().await;
    assert_eq!(
        metrics.sum("ride_promo_rides_duplicate_total", &[]),
        8.0 * 20.0
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_client_that_is_erased_and_nobody_elses_is_touched() {
    let world = World::new().await;
    let service = world.service().start().await;
    let admin = service.admin();
    let promotion = admin.open_promotion(&conditions(2)).await;
    let (erased, kept) = (48_151_i64, 48_152_i64);
    // Each with everything: a reward, receipts, an open and a corrected record in quarantine.
    for user in [erased, kept] {
        let (client, _) = service.started_client(user, &promotion).await;
        for _ in 0..2 {
            world.publish_ride(&ride(user)).await;
        }
        let bad = format!("{{\"user_id\": {user}}}");
        for key in [Some(user.to_string()), None] {
            world
                .publish_raw(key.as_deref(), Some(bad.as_bytes()), &[])
                .await;
        }
        world.publish_raw(None, Some(b"nobody's"), &[]).await;
        world.rides_are_applied().await;
        let accept = format!("/v1/promotions/{}/accept_reward", promotion.id);
        client.api.post(&accept).await.expect(200);
        let listed = admin
            .api
            .get("/admin/v1/quarantine?status=OPEN")
            .await
            .expect(200);
        let items = listed["items"].as_array().expect("a list").clone();
        for item in items.iter().filter(|item| item["user_id"].is_null()) {
            let id = item["quarantine_id"].as_str().expect("an id");
            let replay = format!("/admin/v1/quarantine/{id}/replay");
            let corrected = serde_json::json!({ "ride": ride(user) });
            admin.api.post_json(&replay, &corrected).await.expect(200);
        }
    }
    world.events_are_published().await;
    let others = rows_of(world.pool(), kept).await;
    assert!(rows_of(world.pool(), erased).await.len() >= 8, "{others:?}");

    let erase = block(GUIDE, "erase").replace(":user_id", &erased.to_string());
    world.execute(&erase).await;
    assert_eq!(rows_of(world.pool(), erased).await, BTreeMap::new());
    assert_eq!(rows_of(world.pool(), kept).await, others);
    let seen = admin.user(erased).await;
    for (name, value) in seen.as_object().expect("an object") {
        if let Some(list) = value.as_array() {
            assert_eq!(list.len(), 0, "{name}");
        }
    }
    let progress = service.client(erased).progress(promotion.id).await;
    progress.problem(404, "not-participating");

    // And the topic, by Kafka's own tool.
    let command = block(GUIDE, "tombstone").replace("\\\n", " ");
    let (options, _) = command.split_once(" < ").expect("reads a file");
    let options = options
        .replace('\'', "")
        .replace("promotion-status", world.status_topic());
    let options: Vec<&str> = options.split_whitespace().skip(3).collect();
    let keys = world.new_dir("erasure").join("keys-to-delete.txt");
    fs::write(&keys, format!("{erased}:{}|DELETED\n", promotion.id)).expect("ours");
    let tool = "org.apache.kafka.tools.ConsoleProducer";
    world.kafka().tool(tool, &options, Some(&keys)).await;
    let records = world.kafka().read_topic(world.status_topic()).await;
    let key = format!("{erased}:{}", promotion.id);
    let of_it: Vec<_> = records
        .iter()
        .filter(|record| record.key.as_ref() == Some(&key))
        .collect();
    let last = of_it.last().expect("it was published");
    assert_eq!(
        (last.value.as_deref(), last.partition),
        (None, of_it[0].partition)
    );
    // The service reads over it.
    let (client, _) = service.started_client(48_153, &promotion).await;
    world.publish_ride(&ride(48_153)).await;
    world.rides_are_applied().await;
    assert_eq!(
        client.progress(promotion.id).await.expect(200)["rides_completed"],
        1
    );
}

/// How many rows of each table say anything of a client.
async fn rows_of(pool: &PgPool, user: i64) -> BTreeMap<String, i64> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select c.relname from pg_class c
          where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition",
    )
    .fetch_all(pool)
    .await
    .expect("the database answers");
    let mut rows = BTreeMap::new();
    for table in tables {
        // The number as a word of its own in the row's text, and in what bytes it keeps.
        let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "select count(*) from {table} t
              where to_jsonb(t)::text ~ '\\y{user}\\y' or to_jsonb(t)::text like '%' || encode('{user}', 'hex') || '%'"
        )))
        .fetch_one(pool)
        .await
        .expect("the database answers");
        if count > 0 {
            rows.insert(table, count);
        }
    }
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_drops_what_is_over_and_nothing_that_is_open() {
    let world = World::new().await;
    world
        .execute("select ensure_receipt_partitions('2024-01-01', 3)")
        .await;
    let challenges = Challenges::new(&world, &conditions(3)).await;
    for (user, month) in [(1, 1), (2, 2), (3, 3)] {
        let started = format!("2024-0{month}-05T00:00:00Z")
            .parse()
            .expect("an instant");
        challenges
            .start(&[user], started, started + TimeDelta::days(14))
            .await;
        world
            .execute(&format!(
                "insert into ride_receipt (user_id, promotion_id, ride_id, receipts_month, verdict, completed_at,
                                           amount_cents, currency_code, fingerprint, recorded_at)
                 values ({user}, {}, gen_random_uuid(), '2024-0{month}-01', 'COUNTED', '2024-0{month}-06Z', 1, 'MXN', 1,
                         '2024-0{month}-06Z')",
                challenges.promotion_id
            ))
            .await;
    }
    // The one of February is still open.
    world
        .execute(
            "update promotion_user set status = 'EXPIRED', expired_at = challenge_deadline,
                    expired_reason = 'CHALLENGE_NOT_COMPLETED' where user_id <> 2",
        )
        .await;
    world
        .execute(
            "insert into quarantined_ride (quarantine_id, topic, partition, \"offset\", topic_id, value, reason, detail,
                                           received_at, status, resolved_at)
             values (gen_random_uuid(), 't', 0, 1, 'i', 'x', 'NOT_JSON', '', '2024-01-01', 'OPEN', null),
                    (gen_random_uuid(), 't', 0, 2, 'i', 'x', 'NOT_JSON', '', '2024-01-01', 'DISMISSED', '2024-01-02'),
                    (gen_random_uuid(), 't', 0, 3, 'i', 'x', 'NOT_JSON', '', clock_ms(), 'DISMISSED', clock_ms())",
        )
        .await;
    world.execute(&block(GUIDE, "receipts")).await;
    world.execute(&block(GUIDE, "ended")).await;
    let left: Vec<i64> = sqlx::query_scalar("select user_id from ride_receipt order by 1")
        .fetch_all(world.pool())
        .await
        .expect("the database answers");
    assert_eq!(left, [2]);
    let left: Vec<i64> = sqlx::query_scalar("select \"offset\" from quarantined_ride order by 1")
        .fetch_all(world.pool())
        .await
        .expect("the database answers");
    assert_eq!(left, [1, 3]);
    let left: i64 = sqlx::query_scalar("select count(*) from promotion_user")
        .fetch_one(world.pool())
        .await
        .expect("the database answers");
    assert_eq!(left, 3, "who took part is remembered");
    let ahead: i64 = sqlx::query_scalar(
        "select count(*) from pg_inherits where inhparent = 'ride_receipt'::regclass",
    )
    .fetch_one(world.pool())
    .await
    .expect("the database answers");
    // 12 months to come, the open one, and what is in no month.
    assert_eq!(ahead, 14);
    world.command(&["doctor"]).run().await.expect_success();
}
