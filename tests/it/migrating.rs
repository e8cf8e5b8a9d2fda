//! Schema changes under traffic: no statement waits for a lock so long that others notice.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection as _, Executor as _, PgConnection};
use tokio::task::JoinHandle;

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(120);

/// A lock is waited for half a second; the rest is for a busy machine.
const MAX_STALL: Duration = Duration::from_millis(1_500);

/// A writer that never pauses, and how long its slowest statement took.
struct Writer {
    stop: Arc<AtomicBool>,
    done: JoinHandle<(Duration, u64)>,
}

impl Writer {
    async fn start(world: &World, sql: &'static str) -> Self {
        let mut connection = connect(world).await;
        let stop = Arc::new(AtomicBool::new(false));
        let done = tokio::spawn({
            let stop = stop.clone();
            async move {
                let (mut slowest, mut count) = (Duration::ZERO, 0_i64);
                while !stop.load(Ordering::Relaxed) {
                    count += 1;
                    let began = Instant::now();
                    let written = sqlx::query(sql).bind(count).execute(&mut connection).await;
                    written.expect("it can be written");
                    slowest = slowest.max(began.elapsed());
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                (slowest, count.unsigned_abs())
            }
        });
        Self { stop, done }
    }

    /// Ends it. Says how many statements there were, the slowest of which must have been quick.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let (slowest, count) = self.done.await.expect("it writes");
        assert!(slowest < MAX_STALL, "a statement took {slowest:?}");
        count
    }
}

async fn connect(world: &World) -> PgConnection {
    PgConnection::connect(&world.database_url())
        .await
        .expect("it runs")
}

/// A transaction that reads these tables and stays open, as a `pg_dump` does.
async fn dump(world: &World, sql: &'static str) -> PgConnection {
    let mut connection = connect(world).await;
    for statement in ["begin isolation level repeatable read", sql] {
        connection.execute(statement).await.expect("it can be read");
    }
    connection
}

/// A world of schema version 1 with many participations.
async fn of_version_1(participations: i64) -> World {
    let world = World::builder().empty_database().build().await;
    let migrator = sqlx::migrate!("./migrations");
    let mut connection = connect(&world).await;
    migrator
        .run_to(1, &mut connection)
        .await
        .expect("an empty database");
    let challenges = Challenges::new(&world, &conditions(10)).await;
    world
        .execute(&format!(
            "insert into promotion_user (user_id, promotion_id, terms_id, status, rides_target, started_at, challenge_deadline,
                                         reward, pre_offer_id, country_code, receipts_month)
             select user_id, {promotion}, (select terms_id from promotion_terms where promotion_id = {promotion}),
                    'IN_PROGRESS', 10, clock_ms(), clock_ms() + interval '1 day',
                    '{{\"product_id\": 80, \"amount_cents\": 1, \"currency_code\": \"MXN\", \"repayment_rate\": \"15\"}}',
                    gen_random_uuid(), 'MX', date_trunc('month', clock_ms())::date
               from generate_series(1, {participations}) user_id",
            promotion = challenges.promotion_id
        ))
        .await;
    world
}

const COUNT_A_RIDE: &str =
    "update promotion_user set version = version + 1 where user_id = 1 + $1 % 1000";

/// What there is, in words that two databases can be compared by.
async fn schema(world: &World) -> Vec<String> {
    sqlx::query_scalar(
        "select format('%s.%s %s %s', table_name, column_name, data_type, column_default) from information_schema.columns
          where table_schema = 'public' and table_name !~ '_\\d{4}_\\d{2}$'
         union all
         select indexdef from pg_indexes where schemaname = 'public' and tablename !~ '_\\d{4}_\\d{2}$'
         union all
         select pg_get_triggerdef(oid) from pg_trigger where not tgisinternal
         union all
         select pg_get_functiondef(oid) from pg_proc where pronamespace = 'public'::regnamespace
         union all
         select format('version %s %s', version, success) from _sqlx_migrations
          order by 1",
    )
    .fetch_all(world.pool())
    .await
    .expect("the database answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn migrating_a_large_table_never_holds_its_writers_up() {
    let world = of_version_1(300_000).await;
    let writer = Writer::start(&world, COUNT_A_RIDE).await;
    let mut dump = dump(&world, "select from promotion_user limit 1").await;
    let migrate = tokio::spawn(world.command(&["migrate"]).run());
    // It waits for the dump, and lets the writer pass again and again.
    waiting_for_a_lock(&world, 1).await;
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!migrate.is_finished(), "a dump was still reading");
    dump.execute("commit").await.expect("it is open");
    let migrated = migrate.await.expect("it ends");
    migrated.expect_success();
    let written = writer.end().await;
    assert!(written > 50, "only {written} writes");

    // The same as of a database that was never of version 1.
    let fresh = World::new().await;
    assert_eq!(schema(&world).await, schema(&fresh).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_whose_building_was_interrupted_is_built_again() {
    let world = of_version_1(1_000).await;
    world
        .execute("alter table promotion_user add column ended_xid xid8")
        .await;
    // As a build leaves it that was broken off: there, kept up to date, and never used.
    world
        .execute(
            "create index promotion_user_ended_xid on promotion_user (ended_xid) include (user_id, promotion_id)
              where ended_xid is not null;
             update pg_index set indisvalid = false where indexrelid = 'promotion_user_ended_xid'::regclass",
        )
        .await;
    world.command(&["migrate"]).run().await.expect_success();
    let valid: Vec<bool> = sqlx::query_scalar(
        "select indisvalid from pg_index where indexrelid = 'promotion_user_ended_xid'::regclass",
    )
    .fetch_all(world.pool())
    .await
    .expect("the database answers");
    assert_eq!(valid, [true]);
    let doctor = world
        .command(&["doctor", "--roles", "ingest"])
        .run()
        .await
        .stdout;
    assert!(doctor.contains("ok    schema: "), "{doctor}");
}

#[tokio::test(flavor = "multi_thread")]
async fn making_a_months_partition_does_not_hold_rides_up_behind_a_dump() {
    let world = World::new().await;
    world
        .execute(
            "do $$ begin
                 execute format('drop table ride_receipt_%s', to_char(clock_timestamp() at time zone 'UTC' + interval '3 months', 'YYYY_MM'));
                 execute format('drop table ride_receipt_%s', to_char(clock_timestamp() at time zone 'UTC' + interval '4 months', 'YYYY_MM'));
             end $$",
        )
        .await;
    let partitions = "select count(*) from pg_inherits where inhparent = 'ride_receipt'::regclass";
    assert_eq!(world.count(partitions).await, 11);
    let mut dump = dump(&world, "select from ride_receipt limit 1").await;
    let writer = Writer::start(
        &world,
        "insert into ride_receipt (user_id, promotion_id, ride_id, receipts_month, verdict, completed_at, amount_cents,
                                   currency_code, fingerprint, recorded_at)
         values ($1, 1, gen_random_uuid(), date_trunc('month', clock_timestamp())::date, 'COUNTED', clock_ms(), 1, 'MXN', 1,
                 clock_ms())",
    )
    .await;
    let missing = " could not be created, the sweeper tries again";
    let migrated = world.command(&["migrate"]).run().await;
    assert!(migrated.stderr.contains(missing), "{migrated:?}");
    migrated.expect_success();
    assert!(writer.end().await > 5);
    assert_eq!(world.count(partitions).await, 11);
    let doctor = world.command(&["doctor"]).run().await.stdout;
    assert!(
        doctor.contains("FAIL  receipt partitions: missing: "),
        "{doctor}"
    );

    dump.execute("commit").await.expect("it is open");
    let migrated = world.command(&["migrate"]).run().await;
    assert_eq!(migrated.stderr, "");
    assert_eq!(world.count(partitions).await, 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_months_receipts_are_moved_out_of_the_default_partition_while_rides_come() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(10_000)).await;
    let users: Vec<i64> = (1..=20).collect();
    // One of a month that is not moved.
    let long_ago = now() - chrono::TimeDelta::days(80);
    let soon = now() + chrono::TimeDelta::days(1);
    challenges.start_an_hour_ago(&users).await;
    challenges.start(&[21], long_ago, soon).await;
    let month: String = sqlx::query_scalar(
        "select to_char(receipts_month, 'YYYY-MM') from promotion_user where user_id = 1",
    )
    .fetch_one(world.pool())
    .await
    .expect("it has started");
    world
        .execute(&format!(
            "drop table if exists ride_receipt_{}",
            month.replace('-', "_")
        ))
        .await;
    let _ingest = world.service().roles("ingest").start().await;
    let mut published = Vec::new();
    let publish = async |published: &mut Vec<Outgoing>| {
        let rides: Vec<Outgoing> = (1..=21).map(|user| Outgoing::ride(&ride(user))).collect();
        world.publish_all(rides.clone()).await;
        published.extend(rides);
    };
    for _ in 0..100 {
        publish(&mut published).await;
    }
    world.rides_are_applied().await;
    let sweeper = world.service().roles("sweep").start().await;
    eventually(LIMIT, || async {
        let metrics = sweeper.metrics().await;
        let stray = metrics.sum("ride_promo_receipts_in_default_partition", &[]);
        equal(stray, 2_100.0)
    })
    .await;
    let doctor = world.command(&["doctor"]).run().await.stdout;
    let told = "FAIL  receipt partitions: receipts are in the default partition";
    assert!(doctor.contains(told), "{doctor}");

    let shell = Shell::new(&world).env("MONTH", &month);
    let moving = block("docs/operator-guide.md", "move-month");
    let moving = tokio::spawn(async move { shell.run(&moving).await });
    while !moving.is_finished() {
        publish(&mut published).await;
        // All of them come again too.
        world.publish_all(published[..210].to_vec()).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let said = moving.await.expect("it ends");
    assert!(said.contains(" receipts moved, "), "{said}");
    world.publish_all(published.clone()).await;
    world.rides_are_applied().await;

    let rounds = i32::try_from(published.len() / 21).expect("few");
    for standing in challenges.standings().await {
        assert_eq!(
            (standing.rides_completed, standing.counted),
            (rounds, i64::from(rounds)),
            "{standing:?}"
        );
    }
    let table = format!("ride_receipt_{}", month.replace('-', "_"));
    let moved = world.count(&format!("select count(*) from {table}")).await;
    assert_eq!(moved, i64::from(rounds) * 20);
    let left = "select count(*) from ride_receipt_other where user_id = 21";
    assert_eq!(world.count(left).await, i64::from(rounds));
    let all = "select count(*) from ride_receipt_other";
    assert_eq!(world.count(all).await, i64::from(rounds));
    let audited = "select count(*) from admin_audit where call = 'receipts move-month'";
    assert_eq!(world.count(audited).await, 1);

    // A repeat changes nothing, and a table of that name that is not a partition is left alone.
    let again = world
        .command(&["receipts", "move-month", &month])
        .run()
        .await;
    assert_eq!(again.status.code(), Some(1));
    assert!(again.stderr.contains("is a partition already"), "{again:?}");
    world
        .execute(&format!(
            "alter table ride_receipt detach partition {table}"
        ))
        .await;
    let foreign = world
        .command(&["receipts", "move-month", &month])
        .run()
        .await;
    assert!(foreign.stderr.contains("is not a partition"), "{foreign:?}");
    let kept = world.count(&format!("select count(*) from {table}")).await;
    assert_eq!(kept, moved);
}
