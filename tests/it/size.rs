//! Work that does not grow with the tables: neither with rows that need no work, nor with rows that changed during a long
//! open transaction.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use crate::harness::*;

const LIMIT: Duration = Duration::from_secs(60);

/// What Postgres counts of an index: how often it was searched, and how many entries that gave, those
/// of dead rows included.
async fn index_use(world: &World, index: &str) -> (i64, i64) {
    sqlx::query_as(
        "select idx_scan, idx_tup_read from pg_stat_user_indexes where indexrelname = $1",
    )
    .bind(index)
    .fetch_one(world.pool())
    .await
    .expect("there is such an index")
}

/// Waits for six more searches of this index, and returns how many entries each gave.
async fn read_by_a_search(world: &World, index: &str) -> i64 {
    let (scans, read) = index_use(world, index).await;
    eventually(LIMIT, || async {
        let (now, _) = index_use(world, index).await;
        if now >= scans + 6 {
            Ok(())
        } else {
            Err(format!("{now} searches of {index} after {scans}"))
        }
    })
    .await;
    let (now, read_now) = index_use(world, index).await;
    (read_now - read) / (now - scans)
}

/// Waits until searches give fewer entries than this: news are told once.
async fn searches_are_short(world: &World, index: &str, max: i64) {
    eventually(LIMIT, || async {
        match read_by_a_search(world, index).await {
            read if read < max => Ok(()),
            read => Err(format!("{read} entries of {index} are read each time")),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_prepared_transaction_makes_no_question_read_everything_since() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(10)).await;
    let name = world.database().to_owned();
    let mut forgotten = PgConnection::connect(&world.database_url())
        .await
        .expect("it runs");
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!(
        "begin; select pg_current_xact_id(); prepare transaction '{name}'"
    )))
    .execute(&mut forgotten)
    .await
    .expect("the cluster allows it");

    let service = world.service().roles("ingest,relay,api").start().await;
    let users: Vec<i64> = (1..=50_000).collect();
    challenges.start_an_hour_ago(&users).await;
    world.events_are_published().await;
    world
        .execute(
            "update promotion_user set status = 'EXPIRED', version = version + 1, expired_at = challenge_deadline,
                    expired_reason = 'CHALLENGE_NOT_COMPLETED' where user_id > 1",
        )
        .await;
    // Ingest asks with each batch.
    let rides = async {
        for round in 0..1_000 {
            world.publish_ride(&ride(1_000_000 + round)).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let searches = async {
        // All the rows are dead, and none may be removed.
        searches_are_short(&world, "promotion_user_ended_xid", 100).await;
        searches_are_short(&world, "promotion_user_live_xid", 100).await;
        searches_are_short(&world, "event_outbox_in_order", 100).await;
        // Others hear from the relay how far it is, every 5,000 events.
        searches_are_short(&world, "event_outbox_pkey", 5_100).await;
    };
    tokio::select! {
        () = searches => {}
        () = rides => panic!("not in the time of 1,000 rides"),
    }

    // What starts and ends now is heard of all the same.
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let (client, _) = service.started_client(2_000_000, &promotion).await;
    world.publish_ride(&ride(2_000_000)).await;
    eventually(LIMIT, || async {
        let progress = client.progress(promotion.id).await.expect(200);
        equal(progress["status"].clone(), json!("COMPLETED"))
    })
    .await;

    let doctor = world.command(&["doctor", "--roles", "sweep"]).run().await;
    assert!(
        doctor.stdout.contains("ok    postgres horizon: "),
        "{}",
        doctor.stdout
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("rollback prepared '{name}'")))
        .execute(&mut forgotten)
        .await
        .expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_transaction_commits_late_is_published_though_later_ones_were() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(10)).await;
    let name = world.database().to_owned();
    let hour = TimeDelta::hours(1);
    let start = async |connection: &mut PgConnection, user: i64| {
        challenges
            .start_on(connection, &[user], now() - hour, now() + hour)
            .await;
    };
    let connect = async || {
        PgConnection::connect(&world.database_url())
            .await
            .expect("it runs")
    };
    // Two that have their ids: one stays open, one is prepared.
    let (mut open, mut prepared) = (connect().await, connect().await);
    for connection in [&mut open, &mut prepared] {
        sqlx::raw_sql("begin")
            .execute(connection)
            .await
            .expect("begun");
    }
    start(&mut open, 1).await;
    start(&mut prepared, 2).await;
    let _relay = world.service().roles("relay").start().await;
    // Rounds far enough apart that the relay asks each time who still writes.
    for user in 10..15 {
        challenges.start(&[user], now() - hour, now() + hour).await;
        world.events_are_published().await;
        if user == 12 {
            sqlx::raw_sql(sqlx::AssertSqlSafe(format!("prepare transaction '{name}'")))
                .execute(&mut prepared)
                .await
                .expect("the cluster allows it");
        }
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    sqlx::raw_sql("commit")
        .execute(&mut open)
        .await
        .expect("open");
    world.events_are_published().await;
    for user in 20..23 {
        challenges.start(&[user], now() - hour, now() + hour).await;
        world.events_are_published().await;
        tokio::time::sleep(Duration::from_millis(1_100)).await;
    }
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("commit prepared '{name}'")))
        .execute(&mut prepared)
        .await
        .expect("it is there");
    world.events_are_published().await;
    for user in [1, 2] {
        let kinds = world.kinds_of(user, challenges.promotion_id).await;
        assert_eq!(kinds, ["promotion.started"], "{user}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rewards_that_are_not_due_are_not_read() {
    let world = World::new().await;
    let challenges = Challenges::new(&world, &conditions(1)).await;
    world
        .execute(&format!(
            "insert into promotion_user (user_id, promotion_id, terms_id, status, rides_completed, rides_target, started_at,
                                         challenge_deadline, completed_at, reward_deadline, reward, pre_offer_id,
                                         country_code, receipts_month)
             select user_id, {promotion}, (select terms_id from promotion_terms where promotion_id = {promotion}), 'COMPLETED',
                    1, 1, clock_ms() - interval '1 hour', clock_ms() + interval '1 hour', clock_ms(),
                    clock_ms() + interval '7 days',
                    '{{\"product_id\": 80, \"amount_cents\": 1, \"currency_code\": \"MXN\", \"repayment_rate\": \"15\"}}',
                    gen_random_uuid(), 'MX', date_trunc('month', clock_ms())::date
               from generate_series(1, 100000) user_id",
            promotion = challenges.promotion_id
        ))
        .await;
    let _sweep = world.service().roles("sweep").start().await;
    let read = read_by_a_search(&world, "promotion_user_reward_due").await;
    assert_eq!(read, 0, "rewards are read by each round");
    end_by_force_to_overdue(&world).await;
    eventually(LIMIT, || async {
        equal(challenges.standing(7).await.status, "EXPIRED".to_owned())
    })
    .await;
}

async fn end_by_force_to_overdue(world: &World) {
    world
        .execute(
            "update promotion_user set completed_at = clock_ms() - interval '8 days', reward_deadline = clock_ms() - interval '1 day'
              where user_id = 7",
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_what_is_there_already_locks_and_writes_no_pre_offer() {
    let world = World::new().await;
    let service = world.service().roles("api").start().await;
    let promotion = service.admin().open_promotion(&conditions(1)).await;
    let lines: Vec<_> = (1..=100).map(|user| promotion.pre_offer(user)).collect();
    service.admin().import_pre_offers(&lines).await;
    let touched = "select count(*) from pre_offer where xmax <> 0";
    let rows = "select md5(string_agg(ctid::text || pre_offer_id, ',' order by pre_offer_id)) from pre_offer";
    let version = async || -> String {
        let rows = sqlx::query_scalar(rows).fetch_one(world.pool()).await;
        rows.expect("the database answers")
    };
    assert_eq!(world.count(touched).await, 0);
    let before = version().await;
    let mut again = lines.clone();
    let report = service.admin().import_pre_offers(&again).await;
    assert_eq!(report["unchanged"], 100);
    assert_eq!((world.count(touched).await, version().await), (0, before));
    // One that changes does not touch the others.
    again[5]["amount_cents"] = json!(50_000);
    let report = service.admin().import_pre_offers(&again).await;
    assert_eq!(
        (&report["unchanged"], &report["updated"]),
        (&json!(99), &json!(1))
    );
    let others = format!("{touched} and amount_cents <> 50000");
    assert_eq!(world.count(&others).await, 0);
}
