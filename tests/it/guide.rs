//! Runs what the pages tell people to run: a first start, a restore, retention, a client's erasure. Checks that every
//! command in the pages is run by a test.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

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
    let shell = Shell::new(&world);
    shell.run(&block(GUIDE, "dump")).await;
    rounds(4, 8).await;
    world.events_are_published().await;
    assert!(service.sigterm_and_wait().await.success());
    lost.stop().await;

    let restored = Postgres::start_private().await;
    restored.create_empty_database("restored").await;
    let url = restored.url("restored");
    shell.run(&format!("DATABASE_URL={url}")).await;
    shell.run(&block(GUIDE, "restore")).await;
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
    // And that this is another server, which is for an operator to accept.
    let server = "FAIL  postgres server: system identifier ";
    assert!(doctor.stdout.contains(server), "{}", doctor.stdout);
    shell.run(&block(GUIDE, "accept-server")).await;
    command(&["doctor"]).run().await.expect_success();

    // Positions are those of the restored data: what came since is read again.
    let shown = command(&["positions", "show"]).run().await.expect_success();
    let states: Vec<&str> = shown.lines().skip(2).collect();
    assert!(
        states.len() == 4 + 1 && states.iter().all(|line| line.ends_with("ok")),
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
    let said = shell.run(&block(GUIDE, "reconcile")).await;
    assert!(
        said.contains("20 differences, 20 of them put right"),
        "{said}"
    );
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
    let shown = shell.run(&block(GUIDE, "positions")).await;
    let well = shown.lines().filter(|line| line.ends_with("ok"));
    assert_eq!(well.count(), 2 * (4 + 1), "before and after: {shown}");
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

    let shell = Shell::new(&world).env("OWNER_URL", world.database_url());
    shell.run(&block(GUIDE, "erase")).await;
    world.events_are_published().await;
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

    // And the topic forgets the key.
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

/// What a service that a shell has started says of itself.
async fn becomes_ready(admin: &Port) {
    let admin = Api::new(&admin.address());
    eventually(LIMIT, || async {
        let request = admin.request(reqwest::Method::GET, "/readyz");
        match admin.try_send(request).await {
            Ok(answer) if answer.status == 200 => Ok(()),
            answer => Err(format!("{answer:?}")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_readme_starts_it_from_nothing() {
    let world = World::builder()
        .without_topics()
        .empty_database()
        .build()
        .await;
    let (api, admin) = (Port::reserve(), Port::reserve());
    let shell = Shell::new(&world)
        .env("RIDE_PROMO__API__LISTEN", api.address())
        .env("RIDE_PROMO__ADMIN__LISTEN", admin.address())
        .env("RIDE_PROMO__AUTH__HS256_SECRET", "");
    let keys = shell.dir().join("jwks.json");
    fs::write(&keys, KEY_SET).expect("ours");
    // The reader's own servers.
    let mut commands = block("README.md", "first-start");
    for (example, real) in [
        ("postgres://ride_promo@db/ride_promo", world.database_url()),
        ("kafka:9092", world.kafka().brokers()),
        ("https://id.example/jwks.json", keys.display().to_string()),
    ] {
        assert!(commands.contains(example), "{commands}");
        commands = commands.replace(example, &real);
    }
    let (commands, serve) = commands.trim_end().rsplit_once('\n').expect("lines");
    let said = shell.run(commands).await;
    assert!(said.starts_with("schema version "), "{said}");
    assert!(said.contains("ok    auth: "), "{said}");
    let mut service = shell.spawn(serve);
    becomes_ready(&admin).await;
    assert!(service.end(Signal::Terminate, LIMIT).await.success());
}

/// An RSA key that signs no token.
const KEY_SET: &str = r#"{"keys": [{"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "1", "e": "AQAB", "n": "o3Lfp1rTEmI-RKB3bAbWJdwkWKDILxy4W5DsvcAerq-Ou0NARbF0KONX51BiYxQ0t1vRgUbzBmGgooL70NmfhXOKr33OFPclXiOVRBwdvfYJXgNAL9jXfjrn1tLBBFjlGSbZlJrDL9JXoUjYHtnxpww3JkaV8QPmBxrjFRgGe0yjbYAIanJwhF2hbMVtIyEyDF3N3GKBWCZz81wAlBq823XMeW3oPBF2bFk7PkE36xDldgRvmyqCRYJBqgzZuoVtz95yD5wOD1S_-EeYJ9VenVmvFj55_x5pHeVgTDzCqDGlPoZA4HhDHRmyJOrAaWMh7OwvvoYv0dBwAA-6-Pas7w"}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_migrates_and_the_service_has_the_rights_it_needs() {
    let postgres = Postgres::start_private().await;
    let world = World::builder()
        .postgres(&postgres)
        .empty_database()
        .build()
        .await;
    let [owner, app] = ["owner", "app"];
    world
        .execute(&format!(
            "create role {owner} login; alter database {} owner to {owner}; alter schema public owner to {owner}",
            world.database()
        ))
        .await;
    let as_role = |role: &str| {
        world
            .database_url()
            .replace("postgres://postgres@", &format!("postgres://{role}@"))
    };
    let shell = Shell::new(&world).env("OWNER_URL", as_role(owner));
    shell.run("ADMIN_URL=$DATABASE_URL").await;
    shell.run(&format!("DATABASE_URL={}", as_role(app))).await;
    shell.run(&block(GUIDE, "migrate")).await;
    // Roles are the whole server's, which is why it is one of its own.
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    std::os::unix::fs::symlink(deploy, shell.dir().join("deploy")).expect("ours");
    shell.run(&block(GUIDE, "rights")).await;
    world
        .execute("create role app login in role ride_promo_api, ride_promo_ingest, ride_promo_relay, ride_promo_sweep")
        .await;
    let said = shell.run(&block(GUIDE, "doctor")).await;
    assert!(
        said.lines().all(|line| line.starts_with("ok    ")),
        "{said}"
    );
    assert_eq!(said.matches("may not create tables").count(), 2, "{said}");
    let said = shell.run(&block(GUIDE, "migrate-finish")).await;
    assert!(said.starts_with("schema version "), "{said}");
    let service = world
        .service()
        .env("DATABASE_URL", as_role(app))
        .start()
        .await;
    drop(service);
}

#[tokio::test(flavor = "multi_thread")]
async fn rides_that_kafka_no_longer_has_come_from_a_file_before_anybody_is_expired() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(10)).await;
    let hour = TimeDelta::hours(1);
    let (began, ended) = (now() - hour - hour, now() - hour);
    challenges.start(&[1], began, ended).await;
    let counts = async |rides: i32, status: &str| {
        eventually(LIMIT, || async {
            let standing = challenges.standing(1).await;
            equal(
                (standing.rides_completed, standing.status),
                (rides, status.to_owned()),
            )
        })
        .await;
    };
    let (api, admin) = (Port::reserve(), Port::reserve());
    let shell = Shell::new(&world)
        .env("RIDE_PROMO__API__LISTEN", api.address())
        .env("RIDE_PROMO__ADMIN__LISTEN", admin.address());
    let mut service = shell.spawn(&block(GUIDE, "serve-without-sweep"));
    becomes_ready(&admin).await;
    let missing: String = (1..=3)
        .map(|minutes| ride_at(1, began + TimeDelta::minutes(minutes)).to_string() + "\n")
        .collect();
    fs::write(shell.dir().join("missing-rides.ndjson"), missing).expect("ours");
    let said = shell.run(&block(GUIDE, "missing-rides")).await;
    assert!(said.starts_with("3 read, 3 published"), "{said}");
    counts(3, "IN_PROGRESS").await;
    assert!(service.end(Signal::Terminate, LIMIT).await.success());
    // Now it may sweep.
    let _service = world.service().lateness("PT0S").start().await;
    counts(3, "EXPIRED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscribers_table_keeps_the_newest_version_whatever_comes_again() {
    let page = "docs/subscriber-guide.md";
    let world = World::new().await;
    let service = world.service().start().await;
    let promotion = service.admin().open_promotion(&conditions(2)).await;
    for user in 1..=3 {
        service.started_client(user, &promotion).await;
        for _ in 0..user - 1 {
            world.publish_ride(&ride(user)).await;
            world.rides_are_applied().await;
        }
    }
    world.events_are_published().await;
    world
        .execute(
            "create table participation_view (user_id bigint, promotion_id bigint, version bigint,
                                              status text, event text, primary key (user_id, promotion_id))",
        )
        .await;
    let keep = block(page, "view");
    let changed_by = async |records: Vec<StatusRecord>| {
        let mut changed = 0;
        for record in &records {
            let number = |name: &str| record.event[name].as_i64().expect("a number");
            let kept = sqlx::query(sqlx::AssertSqlSafe(keep.clone()))
                .bind(number("user_id"))
                .bind(number("promotion_id"))
                .bind(number("version"))
                .bind(record.event["status"].as_str().expect("a status"))
                .bind(record.event.to_string())
                .execute(world.pool())
                .await;
            changed += kept.expect("the page's statement").rows_affected();
        }
        changed
    };
    let published = world.read_status_topic().await;
    assert_eq!(published.len(), 3 + 3);
    assert_eq!(changed_by(published.clone()).await, 6);
    let backwards: Vec<StatusRecord> = published.iter().rev().cloned().collect();
    assert_eq!(changed_by(backwards.clone()).await, 0);
    world.execute("delete from participation_view").await;
    assert_eq!(changed_by(backwards).await, 3);
    let forget = block(page, "forget");
    let forgotten = sqlx::query(sqlx::AssertSqlSafe(forget))
        .bind(1_i64)
        .bind(promotion.id)
        .execute(world.pool())
        .await;
    assert_eq!(forgotten.expect("the page's statement").rows_affected(), 1);
    let kept: Vec<(i64, i64, String)> =
        sqlx::query_as("select user_id, version, status from participation_view order by 1")
            .fetch_all(world.pool())
            .await
            .expect("the database answers");
    let is = |user, version, status: &str| (user, version, status.to_owned());
    assert_eq!(kept, [is(2, 2, "IN_PROGRESS"), is(3, 3, "COMPLETED")]);
}

/// Blocks of commands that no test runs by their name, each by its beginning, and who else does or
/// why nobody can.
const NOT_BY_NAME: [(&str, &str, Otherwise); 3] = [
    ("README.md", "make demo", Otherwise::Ci),
    ("CONTRIBUTING.md", "make demo", Otherwise::Ci),
    (
        "CONTRIBUTING.md",
        "export DATABASE_URL=",
        Otherwise::Nobody("takes cargo-sqlx; what it forgets, the build of the tests misses"),
    ),
];

/// The same for what is in the comments of files, indented.
const IN_COMMENTS: [(&str, Otherwise); 4] = [
    (
        "deploy/compose.yaml",
        Otherwise::Script("scripts/try-image.sh"),
    ),
    (
        "deploy/systemd/ride-promo.service",
        Otherwise::Script("scripts/try-systemd.sh"),
    ),
    (
        "deploy/kubernetes/overlays/example/kustomization.yaml",
        Otherwise::Nobody("takes a cluster; scripts/lint-deploy.sh renders what is applied"),
    ),
    (
        "deploy/kubernetes/overlays/example/migrate/kustomization.yaml",
        Otherwise::Nobody("takes a cluster; scripts/lint-deploy.sh renders what is applied"),
    ),
];

/// Who runs what no test does.
#[derive(Clone, Copy, Debug)]
enum Otherwise {
    /// CI, line by line, perhaps with more options.
    Ci,
    /// A script that CI runs, which does what they say.
    Script(&'static str),
    /// Nobody, and why.
    Nobody(&'static str),
}

impl Otherwise {
    fn holds_for(self, commands: &str, of: &str) {
        let ci = read(".ci/run") + &read(".github/workflows/ci.yml");
        let runs = ci.lines().filter(|line| !line.contains("name: "));
        let ci: String = runs.map(|line| line.to_owned() + "\n").collect();
        match self {
            Self::Ci => {
                for command in commands.lines() {
                    let command = command.split("  #").next().unwrap_or(command).trim();
                    assert!(ci.contains(command), "{of}: CI does not run {command}");
                }
            }
            Self::Script(script) => {
                assert!(ci.contains(script), "{of}: CI does not run {script}");
                assert!(read(script).contains(of), "{script} does not read {of}");
            }
            Self::Nobody(why) => assert!(!why.is_empty()),
        }
    }
}

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The files of the repository, but for what is built or fetched.
fn files() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut dirs: Vec<PathBuf> = vec![root.to_owned()];
    let mut files = Vec::new();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).expect("a directory of ours") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().and_then(|name| name.to_str());
            let name = name.expect("UTF-8");
            if path.is_file() {
                let path = path.strip_prefix(root).expect("below the root");
                files.push(path.to_str().expect("UTF-8").to_owned());
            } else if path.is_dir()
                && !name.starts_with('.')
                && !["target", "node_modules"].contains(&name)
            {
                dirs.push(path);
            }
        }
    }
    files.sort();
    files
}

/// A new block of commands is run by a test that calls it by its name, or it is in one of the lists
/// above with the reason.
#[test]
fn every_command_in_the_pages_is_run_or_it_is_said_why_not() {
    let files = files();
    let tests: Vec<String> = files
        .iter()
        .filter(|file| file.starts_with("tests/it/") && file.ends_with(".rs"))
        .map(|file| read(file))
        .collect();
    let mut excused = Vec::new();
    for page in files.iter().filter(|file| file.ends_with(".md")) {
        for block in blocks(page) {
            match (&*block.language, &block.name) {
                // Of the alerts, of the events and calls, and pictures: nothing to run.
                ("promql" | "json" | "text", None) => {}
                ("sh" | "sql", Some(name)) => {
                    let called = [format!("\"{page}\""), format!("\"{name}\")")];
                    let runs = |test: &&String| called.iter().all(|called| test.contains(called));
                    assert!(
                        tests.iter().any(|test| runs(&test)),
                        "{page}: no test in tests/it runs the block {name}"
                    );
                }
                ("sh" | "sql", None) => {
                    let known = NOT_BY_NAME
                        .iter()
                        .find(|(file, start, _)| file == page && block.text.starts_with(start));
                    let Some((_, start, otherwise)) = known else {
                        panic!(
                            "{page}: nobody runs\n{}\nmark it with <!-- run: NAME --> and run it in tests/it",
                            block.text
                        );
                    };
                    otherwise.holds_for(&block.text, page);
                    excused.push(((*page).clone(), *start));
                }
                (language, name) => panic!("{page}: a block of {language:?} named {name:?}"),
            }
        }
    }
    assert_eq!(excused.len(), NOT_BY_NAME.len(), "{excused:?}");

    let mut excused = Vec::new();
    for file in files.iter().filter(|file| file.starts_with("deploy/")) {
        let commands: Vec<String> = read(file)
            .lines()
            .filter_map(|line| Some(line.strip_prefix("#   ")?.to_owned() + "\n"))
            .collect();
        if commands.is_empty() {
            continue;
        }
        let known = IN_COMMENTS.iter().find(|(known, _)| known == file);
        let Some((known, otherwise)) = known else {
            panic!("{file}: nobody runs\n{}", commands.concat());
        };
        otherwise.holds_for(&commands.concat(), file);
        excused.push(known);
    }
    assert_eq!(excused.len(), IN_COMMENTS.len(), "{excused:?}");
}

/// Each line of the page names the tests that show it; a test that was renamed or removed must not
/// leave a claim behind.
#[test]
fn every_failure_is_shown_by_a_test_that_exists() {
    let page = read("docs/failures.md");
    let mut named = 0;
    for line in page
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| ---"))
    {
        let tests: Vec<&str> = line.split("[`").skip(1).collect();
        let is_header = line.starts_with("| failure");
        assert!(is_header || !tests.is_empty(), "no test: {line}");
        for test in tests {
            let (name, rest) = test.split_once("`](../").expect("a link");
            let (file, _) = rest.split_once(')').expect("a link");
            let function = format!("async fn {name}(");
            assert!(read(file).contains(&function), "{file} has no test {name}");
            named += 1;
        }
    }
    assert!(named > 20, "{named} tests are named");
}
